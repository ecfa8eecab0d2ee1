"""Files in the IDX format."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from ddattr.data.source import Source


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
