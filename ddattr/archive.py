"""The files of a folder, or of an archive of one (.zip, .tar, .tar.gz), read where they lie: nothing is unpacked."""

import hashlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
_READ = {"manifest.json", "status.json", "config.yaml"}
_PART = 2**20  # bytes that are read at a time
_LARGEST = 2**24  # bytes of one of these: a longer one is none


class File(NamedTuple):
    """A file's SHA-256 in hexadecimal digits, and its text where it is one that says what the others are."""

    digest: str
    text: str | None


def files(path: Path) -> dict[str, File]:
    """Every file of a folder or archive, by its name below it. Links to folders are not followed.

    Raises:
        FileNotFoundError, ValueError: there is no such thing; an archive is damaged, has the same name twice, a link,
            or a name that leads out of the folder that it would be unpacked in.
    """
    if path.is_dir():
        inside = ((p.relative_to(path).as_posix(), p) for p in sorted(path.rglob("*")) if p.is_file())
        return {name: _read(name, p) for name, p in inside if not name.startswith("wandb/")}
    present(path)
    found: dict[str, File] = {}
    try:
        for name, parts in _zipped(path) if zipfile.is_zipfile(path) else _tarred(path):
            if name in found:
                raise ValueError(f"{path}: {name} is there twice, expected once. Pack the folder again.")
            found[name] = _of(name, parts)
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        EOFError,
        zlib.error,
        OSError,
        RuntimeError,
        NotImplementedError,
    ) as e:
        said = " ".join(str(e).split())[:100].rstrip(".")
        raise ValueError(f"{path} is damaged, or no archive ({said}). Take it from where it is whole.") from None
    return _below_top(found)


def present(path: Path) -> Path:
    """A path where something lies.

    Raises:
        FileNotFoundError: nothing does, or what is no file and no folder.
    """
    if not (path.is_dir() or path.is_file()):
        raise FileNotFoundError(f"{path} is missing, expected a run's folder or an archive of one. Name another.")
    return path


def _zipped(path: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            _check(path, info.filename, stat.S_ISLNK(info.external_attr >> 16))
            if not info.is_dir():
                with archive.open(info) as handle:
                    yield info.filename, iter(partial(handle.read, _PART), b"")


def _tarred(path: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            _check(path, info.name, not (info.isfile() or info.isdir()))
            if (handle := archive.extractfile(info)) is not None:
                yield str(PurePosixPath(info.name)), iter(partial(handle.read, _PART), b"")


def _check(path: Path, name: str, special: bool) -> None:
    """Raises ValueError at what could write elsewhere, whoever unpacks it."""
    pure = PurePosixPath(name)
    if special or pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name.partition("/")[0]:
        what = "is a link or a device" if special else "leads out of it"
        raise ValueError(f"{path}: {name!r} {what}, expected files of a run. Do not unpack it.")


def _below_top(found: dict[str, File]) -> dict[str, File]:
    """Names below the run's folder, where the archive has that, or folders around it, as well."""
    marks = [PurePosixPath(n).parent for n in found if PurePosixPath(n).name == "config.yaml"]
    marks += [PurePosixPath(n).parents[1] for n in found if PurePosixPath(n).match("codebook/manifest.json")]
    top = min(marks, key=lambda folder: len(folder.parts), default=PurePosixPath())
    return {
        str(PurePosixPath(n).relative_to(top)): file
        for n, file in found.items()
        if PurePosixPath(n).is_relative_to(top)
    }


def _read(name: str, path: Path) -> File:
    with path.open("rb") as handle:
        return _of(name, iter(partial(handle.read, _PART), b""))


def _of(name: str, parts: Iterable[bytes]) -> File:
    """Of a file: a bounded part at a time."""
    digest, kept, reads = hashlib.sha256(), b"", PurePosixPath(name).name in _READ
    for part in parts:
        digest.update(part)
        kept = kept + part if reads and len(kept) <= _LARGEST else kept
    return File(digest.hexdigest(), kept[:_LARGEST].decode(errors="replace") if reads else None)
