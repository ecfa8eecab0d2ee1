"""A source of pictures: what every module of `sources/` returns."""

from typing import NamedTuple

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
