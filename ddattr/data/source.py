"""A source of pictures: what every module of `sources/` returns."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ddattr.data.decode import Frame
from ddattr.data.pictures import Images, at


class Source(NamedTuple):
    """Pictures in [-1, 1], (N, C, H, W) float32 or bytes that index so, and what is known of each; None for nothing.

    labels (N,) int64; groups (N,) int64, pictures that belong together by construction, -1 for none; queries (N,) bool,
    pictures that no member may see; label_names, the name of every label; table, a row of text a picture: `file`,
    `folder`, and whatever columns the data has; frame, what files were made into; broken, those that are no pictures
    and why; notes, lines on how the pictures were made.
    """

    images: Images
    labels: Tensor | None
    groups: Tensor | None = None
    queries: Tensor | None = None
    label_names: Sequence[str] | None = None
    table: pd.DataFrame | None = None
    frame: Frame | None = None
    broken: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()

    def at(self, which: Tensor | slice) -> "Source":
        """The pictures at an index, with what is known of them."""
        known = (None if column is None else column[which] for column in (self.labels, self.groups, self.queries))
        labels, groups, queries = known
        table = None if self.table is None else self.table.iloc[which if isinstance(which, slice) else which.numpy()]
        images = at(self.images, which)
        return self._replace(images=images, labels=labels, groups=groups, queries=queries, table=table)


def coded(values: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Text as numbers, and the text of every number, in order of the text's code points: of no locale."""
    names, codes = np.unique(np.array(values, dtype=object).astype(str), return_inverse=True)
    return torch.from_numpy(codes).long(), names.tolist()
