"""Packages of Debian and its kin, by apt, which verifies them; unpacked beside the system, as any user."""

import shutil
import subprocess
from pathlib import Path


def unpacked(package: str, megabytes: int, into: Path) -> Path:
    """The tree of a package's files.

    Raises:
        FileNotFoundError: there is no apt.
        ValueError: apt failed, for want of a network perhaps, or of its lists.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise FileNotFoundError(
            f"fetch: apt-get is not on PATH, expected it to bring {package}. Fetch it on Debian or Ubuntu, or put the "
            "files where data.source expects them."
        )
    print(f"fetch: {package}, {megabytes} MB, by apt", flush=True)
    _run(["apt-get", "download", package], into, package)
    _run(["dpkg-deb", "-x", next(into.glob("*.deb")).name, "files"], into, package)
    return into / "files"


def _run(call: list[str], folder: Path, package: str) -> None:
    ended = subprocess.run(call, cwd=folder, capture_output=True, text=True)
    if ended.returncode:
        errors = [line[3:].rstrip(".") for line in ended.stderr.splitlines() if line.startswith("E: ")]
        why = errors[0] if errors else f"exit status {ended.returncode}"
        raise ValueError(
            f"fetch: {call[0]} could not bring {package}: {why}. Is there a network, and are its lists there (apt-get "
            "update)? Then run the same again."
        )
