"""Where pictures come from: functions that return a `Source`."""

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Source(NamedTuple):
    """Pictures in [-1, 1], (N, C, H, W) float32, and what is known of each; None where there is nothing.

    Shapes: labels (N,) int64; groups (N,) int64, pictures that belong together by construction, -1 for none; queries
    (N,) bool, pictures that no member may see.
    """

    images: Tensor
    labels: Tensor | None
    groups: Tensor | None = None
    queries: Tensor | None = None

    def at(self, which: Tensor | slice) -> "Source":
        """The pictures at an index, with what is known of them."""
        return Source(self.images[which], *(None if known is None else known[which] for known in self[1:]))


def digits() -> Source:
    """The 1,797 handwritten digits (1 x 8 x 8) that scikit-learn ships.

    Source: Alpaydin & Kaynak 1998, Optical recognition of handwritten digits, UCI repository.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images.astype(np.float32))[:, None] / 8 - 1
    return Source(images, torch.from_numpy(data.target.astype(np.int64)))


def idx(images: str, labels: str | None = None) -> Source:
    """Pictures in the IDX format of MNIST and its kin, plain or gzipped, scaled from 0..255 to [-1, 1].

    Raises:
        FileNotFoundError, ValueError: a file is missing; it is no IDX file of bytes, or is cut short; counts differ.
    Source: LeCun, Cortes & Burges, the MNIST database of handwritten digits.
    """
    pictures = _read_idx(Path(images))
    if pictures.ndim != 3:
        raise ValueError(f"data: {images} holds an array of {pictures.ndim} dimensions, expected 3. Check data.source.")
    targets = None if labels is None else torch.from_numpy(_read_idx(Path(labels)).astype(np.int64))
    if targets is not None and targets.dim() != 1:
        raise ValueError(f"data: {labels} holds an array of {targets.dim()} dimensions, expected 1. Check data.source.")
    if targets is not None and len(targets) != len(pictures):
        raise ValueError(f"data: {len(pictures)} pictures but {len(targets)} labels. Check data.source.labels.")
    return Source(torch.from_numpy(pictures.astype(np.float32))[:, None] / 127.5 - 1, targets)


def _read_idx(path: Path) -> np.ndarray:
    if path.is_dir():
        raise ValueError(f"data: {path} is a folder, expected a file in IDX format. Name the file in data.source.")
    if not path.is_file():
        raise FileNotFoundError(f"data: {path} is missing. Put the file there, or set data.source to where it is.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"data: {path}: {error.strerror}. Check its permissions, or data.source.") from None
    try:
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, OSError, zlib.error):
        raise ValueError(f"data: {path} is damaged or cut short. Fetch it again.") from None
    if content[:3] != b"\0\0\x08" or len(content) < 4 or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"data: {path} is no IDX file of unsigned bytes, or cut short. Check data.source.")
    shape = np.frombuffer(content, ">u4", content[3], offset=4)
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if body.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"data: {path} holds {body.size} bytes of {tuple(shape)}: it is cut short. Fetch it again.")
    return body.reshape(shape)


def first(source: Source, count: int) -> Source:
    """The first pictures of a source, for small experiments.

    Raises:
        ValueError: the source has fewer.
    """
    if not 1 <= count <= len(source.images):
        raise ValueError(f"data: count={count}, expected 1 to {len(source.images)}. Set data.source.count.")
    return source.at(slice(count))
