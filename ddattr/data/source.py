"""A source of pictures: what every module of `sources/` returns."""

from collections.abc import Mapping, Sequence
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

    def only(self, wanted: Mapping[str, Sequence[str | int]]) -> "Source":
        """The pictures that have one of the wanted values in every column named, `label` or one of the table's.

        Raises:
            ValueError: no lists of values by column; no such column; a value that no picture has; no picture that has
                them all.
        """
        if not isinstance(wanted, Mapping) or not all(isinstance(values, list | tuple) for values in wanted.values()):
            raise ValueError(
                f"data: only={wanted}, expected lists of values by column. Set 'data.only={{label: [3, 5]}}'."
            )
        kept = torch.ones(len(self.images), dtype=torch.bool)
        for column, values in wanted.items():
            found = self._column(column)
            known = sorted(set(found))
            for value in (value for value in map(str, values) if value not in known):
                more = ", ..." if len(known) > 12 else ""
                raise ValueError(
                    f"data: only.{column}={value}, expected some of {', '.join(known[:12])}{more}. Set data.only."
                )
            kept &= torch.from_numpy(np.isin(found, [str(value) for value in values]))
        if not kept.any():
            named = ", ".join(f"{column}={list(values)}" for column, values in wanted.items())
            raise ValueError(f"data: no picture has {named}, expected some that have. Set data.only.")
        return self if kept.all() else self.at(kept)

    def _column(self, name: str) -> np.ndarray:
        """A column as text; labels by their names, or by their numbers where they have none."""
        if self.table is not None and name in self.table:
            return self.table[name].to_numpy(str)
        if name == "label" and self.labels is not None:
            names = self.label_names
            return np.array([str(code) if names is None else str(names[code]) for code in self.labels.tolist()])
        has = ["label"] * (self.labels is not None) + ([] if self.table is None else [str(one) for one in self.table])
        raise ValueError(
            f"data: only has {name}, expected a column of the data ({', '.join(dict.fromkeys(has)) or 'it has none'}). "
            "Set data.only."
        )


def coded(values: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Text as numbers, and the text of every number, in order of the text's code points: of no locale."""
    names, codes = np.unique(np.array(values, dtype=object).astype(str), return_inverse=True)
    return torch.from_numpy(codes).long(), names.tolist()
