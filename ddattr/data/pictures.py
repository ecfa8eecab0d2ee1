"""Pictures kept as bytes, in memory or in a mapped file, and scaled where they are used."""

import hashlib
import mmap
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

_BLOCK = 1 << 24  # pixels that are floats at once
_MANY = 1 << 23  # bytes read at once, from which on a mapped file gives its pages back


class Pictures:
    """Bytes that index as floats do: `pictures[index]` is (..., C, H, W) float32 in [-1, 1], byte / 127.5 - 1.

    Nothing but what is indexed is read, and it is scaled on the device: a million pictures need no memory of their own.

    Args:
        stored: (N, C, H, W) bytes, of a mapped file perhaps.
        digests: (N, 16) bytes, a digest of every picture's content; None makes them.
        rows: of `stored` that these pictures are, in this order; None for all.
        device: where floats are made.
    """

    def __init__(
        self,
        stored: UInt8[np.ndarray, "stored c h w"],
        digests: UInt8[np.ndarray, "stored 16"] | None = None,
        rows: Tensor | None = None,
        device: torch.device | str = "cpu",
    ):
        self._stored = stored
        if digests is None:
            digests = digests_of(stored)
            self._give_back()
        self._digests = digests
        self._rows = torch.arange(len(stored)) if rows is None else rows
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return (len(self), *self._stored.shape[1:])

    def __getitem__(self, index: Tensor | slice | int) -> Float[Tensor, "... c h w"]:
        pixels = np.asarray(self._stored[self._rows[index].numpy()])
        if pixels.nbytes >= _MANY:
            self._give_back()
        return scaled(torch.from_numpy(pixels).to(self.device))

    def _give_back(self) -> None:
        """Pages of a mapped file that were read count as the process's memory until then; the system keeps them."""
        mapped = getattr(self._stored, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[place] for place in range(len(self)))

    def at(self, index: Tensor | slice) -> "Pictures":
        """The pictures at an index, none of them read."""
        return Pictures(self._stored, self._digests, self._rows[index], self.device)

    def to(self, device: torch.device | str) -> "Pictures":
        """The same, whose bytes go to a device before they are scaled."""
        return Pictures(self._stored, self._digests, self._rows, device)

    @property
    def digests(self) -> UInt8[np.ndarray, "n 16"]:
        """Equal for equal pictures, and for no others."""
        return self._digests[self._rows.numpy()]


Images = Tensor | Pictures  # (N, C, H, W), or what indexes like it


def at(images: Images, index: Tensor | slice) -> Images:
    """The pictures at an index, of the kind that they were."""
    return images.at(index) if isinstance(images, Pictures) else images[index]


@runtime_checkable
class Indexed(Protocol):
    """What pictures are read from, in part: a tensor, or what indexes as one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Tensor | slice, /) -> Tensor: ...


def blocks(images: Indexed) -> Iterator[Float[Tensor, "block c h w"]]:
    """All pictures in order, as floats, some at a time; of none, one empty block."""
    size = max(1, _BLOCK // max(1, torch.Size(images.shape[1:]).numel()))
    return (images[start : start + size] for start in range(0, max(1, len(images)), size))


def scaled(pixels: UInt8[Tensor, "... c h w"]) -> Float[Tensor, "... c h w"]:
    """Bytes as floats in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)


def digests_of(stored: UInt8[np.ndarray, "n c h w"]) -> UInt8[np.ndarray, "n 16"]:
    """SHA-256 of every picture's bytes, the first half."""
    found = [hashlib.sha256(picture.tobytes()).digest()[:16] for picture in stored]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 16)


def content_of(images: Images) -> bytes:
    """What a fingerprint of pictures is made of: their digests, or themselves."""
    return images.digests.tobytes() if isinstance(images, Pictures) else images.numpy().tobytes()
