"""Decoded pictures on disk: made once for what they are made of, and mapped, not read."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddattr.data.pictures import Pictures

_FORMAT = 1  # raised when the same files would be decoded to other bytes


class Store(NamedTuple):
    """Pictures, and what was noted when they were made (plain containers)."""

    pictures: Pictures
    notes: dict[str, Any]


class Writer:
    """Takes pictures one by one, and writes them behind each other."""

    def __init__(self, folder: Path):
        self._file = (folder / "pixels").open("wb")
        self._digests = bytearray()
        self.shape: tuple[int, ...] | None = None

    def add(self, picture: np.ndarray) -> None:
        """Bytes (C, H, W), of the shape of those before."""
        assert self.shape in (None, picture.shape)
        self.shape = picture.shape
        content = np.ascontiguousarray(picture).tobytes()
        self._file.write(content)
        self._digests += hashlib.sha256(content).digest()[:16]

    def close(self, folder: Path, notes: dict[str, Any]) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        (folder / "digests").write_bytes(self._digests)
        (folder / "notes.json").write_text(json.dumps({"shape": self.shape, **notes}))


def cache_folder(given: str | None) -> Path:
    """Where decoded pictures are kept: what is given, else ddattr's part of the user's cache."""
    if given is not None:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ddattr"


def stored(cache: Path, signature: Iterable[Any], make: Callable[[Writer], dict[str, Any]]) -> Store:
    """The pictures that a signature stands for, made if they are not there.

    Args:
        signature: all that their bytes depend on: names, sizes and times of files, and how they are decoded.
        make: writes the pictures, and returns what is to be noted. Two processes may do so at once: the first to end
            is kept.
    Raises:
        OSError: the disk does not take them.
    """
    key = hashlib.sha256(json.dumps([_FORMAT, *signature]).encode()).hexdigest()[:24]
    folder = cache / "pictures" / key
    if not (folder / "notes.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=folder.parent))
        try:
            writer = Writer(part)
            notes = make(writer)
            writer.close(part, notes)
            os.replace(part, folder)
        except OSError:
            if not (folder / "notes.json").is_file():  # else another process was first
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    notes = json.loads((folder / "notes.json").read_text())
    shape = notes.pop("shape")
    if shape is None:
        return Store(Pictures(np.empty((0, 1, 1, 1), np.uint8)), notes)
    digests = np.fromfile(folder / "digests", np.uint8).reshape(-1, 16)
    pixels = np.memmap(folder / "pixels", np.uint8, "r", shape=(len(digests), *shape))
    return Store(Pictures(pixels, digests), notes)


class Progress:
    """A line on a terminal that says how many are done."""

    def __init__(self, what: str, total: int):
        self.what = what
        self.total = total
        self.every = max(1, min(1000, total // 100))

    def __call__(self, done: int) -> None:
        if sys.stderr.isatty() and (done % self.every == 0 or done == self.total):
            end = "\n" if done == self.total else ""
            print(f"\r{self.what}: {done:,} of {self.total:,}", end=end, file=sys.stderr, flush=True)
