"""Packages of npm's registry, by npm's own client; what it brings is held against a checksum that stands here."""

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple


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
        raise FileNotFoundError(f"fetch: npm is missing, expected on PATH: it fetches {wanted}. Install Node.js's npm.")
    folder = into / package.name.replace("/", "-")
    folder.mkdir(parents=True)
    print(f"fetch: {wanted}, {package.megabytes} MB, from npm's registry", flush=True)
    call = ["npm", "pack", wanted, "--silent", "--pack-destination", str(folder.resolve())]
    ended = subprocess.run(call, cwd=folder, capture_output=True, text=True)
    tarballs = list(folder.glob("*.tgz"))
    if ended.returncode or len(tarballs) != 1:
        said = [line for line in ended.stderr.splitlines() if line.strip()]
        why = said[0].strip() if said else f"exit status {ended.returncode}"
        raise ValueError(f"fetch: npm could not bring {wanted} ({why}). Is there a network? Run the same again.")
    with tarballs[0].open("rb") as file:
        found = "sha512-" + base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != package.integrity:
        raise ValueError(f"fetch: {wanted} has checksum {found}, expected {package.integrity}. Do not use it.")
    return tarballs[0]
