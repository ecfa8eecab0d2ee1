"""Locks of folders: who works on one, since when, and how long others did before without coming to an end."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_signed: dict[Path, bytes] = {}  # folders whose lock this process holds, and what it wrote into it


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[float]:
    """Holds a folder's lock file, after whoever holds it; a process that dies, however it dies, lets go of it.

    Gives the seconds of earlier attempts: of processes that held it and did not come to an end, each from its signature
    to the last file that it wrote here. Where two machines share a file system whose locks are each its own, and both
    hold it, the later goes on: the other's next write is refused, see `check_lock`.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
        OSError: the file system has no locks at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            print(f"{folder.name}: another process is working on {folder}; waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise OSError(errno.ENOLCK, f"no lock can be had ({error.strerror})", str(folder)) from error
        earlier = _earlier(folder)
        _signed[folder] = _sign(handle.fileno(), earlier)
        try:
            yield earlier
        finally:
            del _signed[folder]


def _earlier(folder: Path) -> float:
    """Seconds of those who signed a folder's lock and did not come to an end, which is a manifest."""
    try:
        if (folder / "manifest.json").exists():
            return 0.0
        said = json.loads((folder / ".lock").read_text())
        written = [path.stat().st_mtime for path in folder.iterdir() if path.name != ".lock"]
        return float(said["earlier"]) + max(0.0, max(written, default=0.0) - float(said["since"]))
    except (OSError, ValueError, KeyError, TypeError):  # nobody, or an older version, signed it
        return 0.0


def _sign(lock: int, earlier: float) -> bytes:
    """Who holds a lock, in its file: for people, as the lock is the kernel's; and for `check_lock`."""
    signature = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time(), "earlier": earlier}
    said = json.dumps(signature).encode()
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, said, 0)
    except OSError:  # of a disk that is full: the work itself will say so
        return b""
    return said


def check_lock(path: Path) -> None:
    """Raises OSError where a path lies in a folder whose lock this process holds and another has signed since."""
    for folder, own in _signed.items():
        lock = folder / ".lock"
        if folder in path.parents and lock.exists() and (now := lock.read_bytes()) not in (own, b""):
            raise OSError(
                errno.ENOLCK,
                f"another process works on it since, though this one has its lock ({now.decode(errors='replace')})",
                str(folder),
            )


def holder(folder: Path) -> dict[str, Any]:
    """Who holds a folder's lock: `host`, `pid`, `since` (seconds since 1970); {} where nobody does, or none is said."""
    if not held(folder):
        return {}
    with suppress(OSError, ValueError):
        return dict(json.loads((folder / ".lock").read_text()))
    return {}


def held(folder: Path) -> bool:
    """Whether a living process, on this machine or on another that shares the folder, holds its lock."""
    try:
        with open(folder / ".lock") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none
        pass
    return False
