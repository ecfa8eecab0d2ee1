"""Packages of npm's registry, by npm's own client; what it brings is held against a checksum that stands here."""

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

_OPTIONS = ["--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]  # or it waits for a minute


class Package(NamedTuple):
    """A version of a package, and what its file must be: npm's `integrity`, SHA-512 in base 64."""

    name: str
    version: str
    integrity: str
    megabytes: int


def packed(package: Package, into: Path) -> Path:
    """The package's tarball, verified.

    Raises:
        FileNotFoundError: there is no npm.
        ValueError: npm failed, for want of a network perhaps; or it brought something else.
    """
    wanted = f"{package.name}@{package.version}"
    if shutil.which("npm") is None:
        raise FileNotFoundError(f"fetch: npm is not on PATH, expected it to bring {wanted}. Install npm (Node.js).")
    folder = into / package.name.replace("/", "-")
    folder.mkdir()
    print(f"fetch: {wanted}, {package.megabytes} MB, by npm", flush=True)
    ended = subprocess.run(["npm", "pack", wanted, *_OPTIONS], cwd=folder, capture_output=True, text=True)
    tarball = next(folder.glob("*.tgz"), None)
    if ended.returncode or tarball is None:
        code = re.search(r"^npm \S+ code (\S+)", ended.stderr, re.MULTILINE)
        why = code[1] if code else f"exit status {ended.returncode}"
        raise ValueError(f"fetch: npm could not bring {wanted}: {why}. Is there a network? Then run the same again.")
    with tarball.open("rb") as file:
        found = "sha512-" + base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != package.integrity:
        raise ValueError(
            f"fetch: {wanted} is {found}, expected {package.integrity}. It was not used; ask who changed it."
        )
    return tarball
