"""Arrays that NumPy has saved."""

import zipfile
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddattr.data.source import Source, coded
from ddattr.data.store import Progress, Writer, cache_folder, digested, stored

Layout = Literal["HW", "HWC", "CHW"]
_BLOCK = 1 << 24  # bytes that are read at once
_CHANNELS = (1, 3)
_HEADERS: dict[tuple[int, int], Callable] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Saved(NamedTuple):
    """An array in a file, of which nothing but the header is read: its shape and type, and where its values start."""

    path: Path
    name: str | None  # in an .npz
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int

    def blocks(self) -> Iterator[np.ndarray]:
        """All values in order, some rows at a time.

        Raises:
            ValueError: the file is cut short.
        """
        size = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        rows = max(1, _BLOCK // max(1, size))
        with _opened(self.path, self.name) as file:
            file.read(self.offset)
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                content = file.read(count * size)
                if len(content) < count * size:
                    raise self.cut_short()
                yield np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])

    def cut_short(self) -> ValueError:
        return ValueError(f"data: {self.path} is cut short. Save it again, or check data.source.")

    def mapped(self) -> np.ndarray:
        """The values where they lie, in an .npy.

        Raises:
            ValueError: the file is cut short.
        """
        if self.path.stat().st_size < self.offset + self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64)):
            raise self.cut_short()
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)


def arrays(
    path: str,
    labels: str | None = None,
    image_name: str = "images",
    label_name: str = "labels",
    layout: Layout | None = None,
    cache: str | None = None,
) -> Source:
    """Pictures of an .npz or .npy: bytes, or floats from 0 to 1, which become bytes.

    Bytes of an .npy are used where they lie, and take no memory; all others are kept as bytes in the cache. Nothing
    pickled is read.

    Args:
        path: of the file.
        labels: a second .npy, of whole numbers or text; None for the array `label_name` of an .npz, if there.
        image_name: of the array of pictures in an .npz.
        label_name: of the array of labels in an .npz.
        layout: what a picture is, `HW`, `HWC` or `CHW`; None where its shape says so: the channels are 1 or 3.
        cache: folder of what is kept; None for the user's own.
    Raises:
        FileNotFoundError, ValueError: no such file or array; one that is no such array, or is cut short; labels of
            another number; a cache that cannot be written.
    """
    file = Path(path)
    saved = _saved(file, image_name, "path")
    turn = _layout(saved, layout)
    stat = file.stat()
    signature = [str(file.resolve()), stat.st_size, stat.st_mtime_ns, saved.name, turn]
    where = cache_folder(cache)
    if saved.dtype == np.uint8 and saved.name is None:
        pictures = digested(where, signature, _turned(saved.mapped(), turn), _blocks(saved, turn))
    else:
        pictures = stored(where, signature, lambda to: _write(saved, turn, to)).pictures
    return Source(pictures, *_labels(file, labels, label_name, len(pictures)))


def _opened(path: Path, name: str | None) -> BufferedIOBase:
    return path.open("rb") if name is None else zipfile.ZipFile(path).open(f"{name}.npy")  # type: ignore[return-value]


def _saved(path: Path, name: str, key: str) -> Saved:
    """Reads the header of an array; `name` is the one in an .npz."""
    if not path.is_file():
        raise FileNotFoundError(f"data: {path} is missing, expected an .npz or .npy. Set data.source.{key}.")
    inside = name if zipfile.is_zipfile(path) else None
    if inside is not None and f"{name}.npy" not in (known := zipfile.ZipFile(path).namelist()):
        names = ", ".join(entry.removesuffix(".npy") for entry in known)
        raise ValueError(f"data: {path} has arrays {names}, expected {name}. Set data.source.image_name.")
    try:
        with _opened(path, inside) as file:
            read = _HEADERS[np.lib.format.read_magic(file)]
            shape, fortran, dtype = read(file)
            offset = file.tell()
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"data: {path} is no array of NumPy's: {said}. Check data.source.{key}.") from None
    if dtype.hasobject:
        raise ValueError(f"data: {path} has pickled objects, expected numbers: nothing pickled is read. Save numbers.")
    if fortran and len(shape) > 1:
        raise ValueError(
            f"data: {path} is saved column by column, expected picture by picture. "
            "Save numpy.ascontiguousarray(pictures)."
        )
    return Saved(path, inside, shape, dtype, offset)


def _layout(saved: Saved, layout: Layout | None) -> Layout:
    """What a picture is by its shape, and, where that leaves a choice, by what is asked for."""
    shape = " x ".join(map(str, saved.shape))
    fitting: list[Layout] = []
    if len(saved.shape) == 3:
        fitting.append("HW")
    if len(saved.shape) == 4:
        fitting += [name for name, at in (("CHW", 1), ("HWC", 3)) if saved.shape[at] in _CHANNELS]  # type: ignore[misc]
    if not fitting or 0 in saved.shape:
        raise ValueError(
            f"data: {saved.path} has an array of {shape or 'one number'}, expected pictures x H x W, "
            "x H x W x C or x C x H x W, C 1 or 3. Check data.source."
        )
    if layout is None and len(fitting) > 1:
        raise ValueError(
            f"data: {saved.path} has an array of {shape}, whose channels may be first or last. "
            f"Set data.source.layout={' or '.join(fitting)}."
        )
    if layout is not None and layout not in fitting:
        raise ValueError(
            f"data: layout={layout}, expected {' or '.join(fitting)} of an array of {shape}. Set data.source.layout."
        )
    return layout or fitting[0]


def _turned(values: np.ndarray, layout: Layout) -> np.ndarray:
    """As (N, C, H, W); a view."""
    return values[:, None] if layout == "HW" else values if layout == "CHW" else values.transpose(0, 3, 1, 2)


def _blocks(saved: Saved, layout: Layout) -> Iterator[np.ndarray]:
    return (_turned(block, layout) for block in saved.blocks())


def _write(saved: Saved, layout: Layout, to: Writer) -> dict:
    """Writes pictures as bytes.

    Raises:
        ValueError: values that are neither bytes nor floats from 0 to 1.
    """
    if not (saved.dtype == np.uint8 or np.issubdtype(saved.dtype, np.floating)):
        raise _refused(saved)
    progress, done = Progress("data: reading pictures", saved.shape[0]), 0
    for block in _blocks(saved, layout):
        if block.dtype != np.uint8:
            if not (block.min() >= 0 and block.max() <= 1):  # nan is neither
                raise _refused(saved)
            block = np.round(block.astype(np.float64) * 255).astype(np.uint8)
        for picture in block:
            to.add(picture)
        progress(done := done + len(block))
    return {}


def _refused(saved: Saved) -> ValueError:
    """Says what range the values have."""
    span = ""
    if np.issubdtype(saved.dtype, np.number) or saved.dtype == bool:
        bounds = [(block.min(), block.max()) for block in saved.blocks()]
        span = f" from {np.min([low for low, _ in bounds]):g} to {np.max([high for _, high in bounds]):g}"
    return ValueError(
        f"data: {saved.path} has {saved.dtype}{span}, expected uint8, or floats from 0 to 1. Scale and save it so."
    )


def _labels(path: Path, labels: str | None, name: str, count: int) -> tuple[Tensor | None, None, None, list | None]:
    """Labels, no groups, no queries, and the names of labels that are text."""
    if labels is None and not (zipfile.is_zipfile(path) and f"{name}.npy" in zipfile.ZipFile(path).namelist()):
        return None, None, None, None
    saved = _saved(path if labels is None else Path(labels), name, "labels")
    if saved.shape not in ((count,), (count, 1)):
        raise ValueError(
            f"data: {saved.path} has labels of {' x '.join(map(str, saved.shape)) or 'one number'}, expected {count}, "
            "one a picture. Check data.source.labels."
        )
    values = np.concatenate([block.reshape(-1) for block in saved.blocks()])
    if np.issubdtype(saved.dtype, np.str_):
        codes, names = coded(values.tolist())
        return codes, None, None, names
    if not np.issubdtype(saved.dtype, np.integer):
        raise ValueError(
            f"data: {saved.path} has labels of {saved.dtype}, expected whole numbers or text. Check data.source.labels."
        )
    return torch.from_numpy(values.astype(np.int64)), None, None, None
