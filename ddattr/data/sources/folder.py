"""A tree of image files."""

import itertools
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import pandas as pd
from annotated_types import Ge, Interval

from ddattr.data.decode import SUFFIXES, Fit
from ddattr.data.decoded import Wanted, decoded
from ddattr.data.source import Source, coded


class File(NamedTuple):
    """An image file: its name below the tree, in a form that is the same on all file systems, and where it is."""

    name: str
    path: Path

    @property
    def folder(self) -> str:
        """Of the name; empty at the top of the tree."""
        return self.name.rpartition("/")[0]


def folder(
    path: str,
    size: Annotated[int, Ge(4)] | None = None,
    channels: Literal[1, 3] | None = None,
    fit: Fit = "crop",
    background: Annotated[int, Interval(ge=0, le=255)] = 255,
    columns: str | None = None,
    cache: str | None = None,
) -> Source:
    """Pictures of a folder and all folders below it, in order of their names' code points.

    The first folder below `path` is a picture's label; `folder` of its table the whole way there. Hidden files, and
    those of other kinds, are passed over. Decoded pictures are kept as bytes in the cache, and made again when a
    file's name, size or time has changed.

    Args:
        path: of the folder.
        size: side of the square that every picture is made into, in pixels; None for the smaller side of the smallest
            picture, at most 32, a multiple of 4.
        channels: 1 for grey, 3 for RGB; None for grey where all files are.
        fit: `crop`, the middle of what is no square, or `stretch`.
        background: grey value behind what is transparent, white by default.
        columns: a CSV with a row for every picture: `file`, its path below the folder, and columns of any names, text
            that units and sets may be made of; `label` takes the place of the first folder. None for `pictures.csv` in
            the folder, where there is one.
        cache: folder of decoded pictures; None for the user's own.
    Raises:
        FileNotFoundError, ValueError: no such folder, no picture in it; a table that does not fit its pictures.
    """
    root = Path(path)
    files, broken = found(root)
    signature = [str(root.resolve()), [(file.name, *_stat(file)) for file in files]]
    wanted = Wanted(size, channels, fit, background)
    made = decoded(len(files), lambda place: files[place].path, wanted, cache, signature)
    failed = dict(broken) | {files[place].name: why for place, why in made.broken.items()}
    files = [file for file in files if file.name not in failed]
    if not files:
        raise ValueError(f"data: {root} has no picture that can be read. {_first(failed)}Check data.source.path.")
    table = pd.DataFrame({"file": [file.name for file in files], "folder": [file.folder for file in files]})
    if (csv := _csv(root, columns)) is not None:
        table = _joined(table, csv, set(failed))
    tops = [name.partition("/")[0] if "/" in name else "" for name in table["file"]]
    labels = table["label"].tolist() if "label" in table else tops if len(set(tops)) > 1 else None
    codes, names = (None, None) if labels is None else coded(labels)
    return Source(
        made.pictures,
        codes,
        label_names=names,
        table=table,
        frame=made.frame,
        broken=sorted(failed.items()),
        notes=made.notes,
    )


def found(root: Path) -> tuple[list[File], list[tuple[str, str]]]:
    """The image files of a tree, in order of name, and folders that cannot be read, with the reason.

    Links are followed, but not back into a folder that they come from.

    Raises:
        FileNotFoundError, ValueError: there is no such folder, or no image file in it.
    """
    if not os.path.exists(root):
        raise FileNotFoundError(f"data: {root} is missing, expected a folder of pictures. Set data.source.path.")
    if not root.is_dir():
        raise ValueError(f"data: {root} is a file, expected a folder of pictures. Set data.source.path to its folder.")
    broken: list[tuple[str, str]] = []
    files = sorted(_walk(root, "", (), broken))
    for one, other in itertools.pairwise(files):
        if one.name == other.name:
            raise ValueError(
                f"data: {one.path} and {other.path} have one name in composed Unicode, expected two. Rename one."
            )
    if not files and not broken:
        raise ValueError(
            f"data: {root} has no image file ({', '.join(sorted(SUFFIXES))}) in it or below. Check data.source.path."
        )
    return files, broken


def _walk(folder: Path, name: str, above: tuple[tuple[int, int], ...], broken: list) -> Iterator[File]:
    try:
        stat = folder.stat()
        entries = list(os.scandir(folder))
    except OSError as error:
        broken.append((name or ".", str(error.strerror).lower()))
        return
    own = (stat.st_dev, stat.st_ino)
    if own in above:  # a link back to where we come from
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        below = f"{name}/{_portable(entry.name)}".lstrip("/")
        try:
            deeper = entry.is_dir()
        except OSError:  # a link to itself
            deeper = False
        if deeper:
            yield from _walk(folder / entry.name, below, (*above, own), broken)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield File(below, folder / entry.name)


def _portable(name: str) -> str:
    """A name in composed Unicode, as all file systems but one keep it; bytes that are no text, escaped."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def _stat(file: File) -> tuple[int, int]:
    """Size and time, which change with the content; of a link to nothing, zeros."""
    try:
        stat = file.path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _csv(root: Path, columns: str | None) -> Path | None:
    given = root / "pictures.csv" if columns is None else Path(columns)
    if columns is None and not given.is_file():
        return None
    if not given.is_file():
        raise FileNotFoundError(f"data: {given} is missing, expected a CSV of pictures. Set data.source.columns.")
    return given


def _joined(table: pd.DataFrame, path: Path, failed: set[str]) -> pd.DataFrame:
    """The table with the columns of a CSV, row by row of `file`."""
    try:
        given = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"data: {path} is no CSV: {said}. Check data.source.columns.") from None
    if "file" not in given:
        raise ValueError(f"data: {path} has columns {', '.join(given)}, expected one named file. Name it so.")
    given["file"] = given["file"].map(lambda name: unicodedata.normalize("NFC", name).removeprefix("./"))
    if not given["file"].is_unique:
        twice = given["file"][given["file"].duplicated()].iloc[0]
        raise ValueError(f"data: {path} has several rows of {twice}, expected one. Remove the others.")
    for name in sorted(set(given["file"]) - set(table["file"]) - failed)[:1]:
        raise ValueError(f"data: {path} has a row of {name}, which is no picture of the folder. Remove the row.")
    for name in sorted(set(table["file"]) - set(given["file"]))[:1]:
        raise ValueError(f"data: {name} has no row in {path}, expected one for every picture. Add it.")
    own = [column for column in table if column == "file" or column not in given]
    return table[own].merge(given, on="file", how="left", validate="one_to_one")


def _first(failed: dict[str, str]) -> str:
    return "".join(f"The first, {name}: {why}. " for name, why in sorted(failed.items())[:1])
