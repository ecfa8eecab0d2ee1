"""Files in the IDX format."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.data.source import Source


def idx(images: str, labels: str | None = None, size: int | None = None) -> Source:
    """Pictures in the IDX format of MNIST and its kin, plain or gzipped, scaled from 0..255 to [-1, 1].

    Args:
        size: of a side, in pixels, that squares of pixels are averaged down to; None: as the file has them.
    Raises:
        FileNotFoundError, ValueError: a file is missing; it is no IDX file of bytes, or is cut short; counts differ;
            a size that does not divide the sides.
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
    scaled = torch.from_numpy(pictures.astype(np.float32))[:, None] / 127.5 - 1
    return Source(scaled if size is None else _averaged(scaled, size), targets)


def _averaged(pictures: Float[Tensor, "n 1 h w"], size: int) -> Float[Tensor, "n 1 size size"]:
    height, width = pictures.shape[2:]
    if size < 1 or height != width or height % size:
        raise ValueError(f"data: size={size}, expected a divisor of {height} x {width} pixels. Set data.source.size.")
    return torch.nn.functional.avg_pool2d(pictures, height // size)


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
