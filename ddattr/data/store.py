"""Decoded pictures on disk: made once for what they are made of, and mapped, not read."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from ddattr.data.pictures import Pictures, digests_of

_PARTS = 4  # of a block, hashed side by side
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

    def close(self, folder: Path) -> tuple[int, ...] | None:
        """Writes what is left; returns the shape of a picture, None where there is none."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        (folder / "digests").write_bytes(self._digests)
        return self.shape


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
        make: writes the pictures, and returns what is to be noted.
    Raises:
        ValueError: the cache cannot be written.
    """

    def write(folder: Path) -> dict[str, Any]:
        writer = Writer(folder)
        notes = make(writer)
        return {"shape": writer.close(folder), **notes}

    folder, notes = _kept(cache / "pictures", signature, write)
    shape = notes.pop("shape")
    if shape is None:
        return Store(Pictures(np.empty((0, 1, 1, 1), np.uint8)), notes)
    digests = _digests(folder)
    pixels = np.memmap(folder / "pixels", np.uint8, "r", shape=(len(digests), *shape))
    return Store(Pictures(pixels, digests), notes)


def digested(
    cache: Path, signature: Iterable[Any], pictures: UInt8[np.ndarray, "n c h w"], blocks: Iterable[np.ndarray]
) -> Pictures:
    """Pictures that stay in the file they are mapped from; of them, digests alone are kept.

    Args:
        signature: the file, its size and time.
        blocks: the pictures again, some at a time: read, not mapped, so that they do not stay in memory.
    Raises:
        ValueError: the cache cannot be written.
    """

    def write(folder: Path) -> dict[str, Any]:
        done, progress = 0, Progress("data: fingerprinting pictures", len(pictures))
        with (folder / "digests").open("wb") as file, ThreadPoolExecutor() as threads:  # hashed outside Python's lock
            for block in blocks:
                for part in threads.map(digests_of, np.array_split(block, _PARTS)):
                    file.write(part.tobytes())
                done += len(block)
                progress(done)
        return {}

    return Pictures(pictures, _digests(_kept(cache / "digests", signature, write)[0]))


def _digests(folder: Path) -> UInt8[np.ndarray, "n 16"]:
    return np.fromfile(folder / "digests", np.uint8).reshape(-1, 16)


def _kept(
    cache: Path, signature: Iterable[Any], write: Callable[[Path], dict[str, Any]]
) -> tuple[Path, dict[str, Any]]:
    """The folder that a signature stands for, written if it is not there, and its notes.

    Two processes may do so at once: the first to end is kept.
    """
    key = hashlib.sha256(json.dumps([_FORMAT, *signature]).encode()).hexdigest()[:24]
    folder = cache / key
    try:
        if not (folder / "notes.json").is_file():
            cache.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=cache))
            try:
                (part / "notes.json").write_text(json.dumps(write(part)))
                os.replace(part, folder)
            except OSError:
                if not (folder / "notes.json").is_file():  # else another process was first
                    raise
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return folder, json.loads((folder / "notes.json").read_text())
    except OSError as error:
        raise ValueError(
            f"data: the cache {cache} cannot be used: {str(error.strerror).lower()}. "
            "Set data.source.cache to a folder that you may write to, and that has room."
        ) from None


class Progress:
    """A line on a terminal that says how many are done."""

    def __init__(self, what: str, total: int):
        self.what = what
        self.total = total
        self.every = max(1, min(1000, total // 100))
        self.said = 0

    def __call__(self, done: int) -> None:
        if sys.stderr.isatty() and (done // self.every > self.said or done == self.total):
            self.said = done // self.every
            end = "\n" if done == self.total else ""
            print(f"\r{self.what}: {done:,} of {self.total:,}", end=end, file=sys.stderr, flush=True)
