"""Which units, which sets and which training pictures of a query there is room for on the page."""

from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.attribution.methods import SUPPORT
from ddattr.data.datamodule import UnitDataModule

_CANDIDATES = 1024  # pictures of a unit among which the nearest are sought, evenly spaced


class Room(NamedTuple):
    """How much of a query is on the page."""

    passing: int  # units that pass, at most
    best: int  # units by each method
    pictures: int  # of a unit
    moved: int  # units with the picture to first order without them


ROOMS = tuple(
    Room(*sizes)
    for sizes in (
        (40, 12, 6, 100),
        (40, 12, 3, 60),
        (40, 12, 3, 30),
        (40, 12, 1, 20),
        (32, 10, 1, 14),
        (24, 8, 1, 8),
        (16, 6, 1, 4),
        (8, 3, 1, 2),
        (2, 1, 1, 1),
    )
)


def units(scores: pd.DataFrame, tests: pd.DataFrame, level: float, room: Room, also: int | None) -> list[int]:
    """What passes, by support, the best by each method, and a unit that is there in any case; by support."""
    support = scores[SUPPORT].sort_values(ascending=False, kind="stable")
    passing = support[(tests.q <= level)[support.index]].index[: room.passing]
    best = [scores[method].nlargest(room.best).index for method in scores]
    chosen = {*passing, *(unit for index in best for unit in index), also}
    return [int(unit) for unit in support.index if unit in chosen]


def sets(rows: pd.DataFrame, level: float, room: Room) -> pd.DataFrame:
    """Every neighbourhood; of each other kind those that pass, and those of largest z."""
    rows = rows.sort_values("z", ascending=False, kind="stable")
    kind = rows.set.str.partition(":")[0]
    near, passing = kind == "nearest", rows.q <= level
    place = rows.groupby(kind).cumcount()
    return rows[near | (passing & (place < room.passing)) | (place < room.best)]


class Nearest:
    """The pictures of a unit that are most like a query, in pixels."""

    def __init__(self, data: UnitDataModule):
        self._images = data.images
        self._rows = data.unit_of.argsort(stable=True)
        sizes = data.unit_of.bincount()
        self._ends = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])

    def rows(self, unit: int) -> Int[Tensor, "rows"]:
        """Of the data, a unit's pictures."""
        return self._rows[self._ends[unit] : self._ends[unit + 1]]

    def of(self, unit: int, query: Float[Tensor, "c h w"], count: int) -> list[int]:
        """Places within the unit, the nearest first."""
        return self.among(self.rows(unit), query, count).tolist()

    def among(self, rows: Int[Tensor, "rows"], query: Float[Tensor, "c h w"], count: int) -> Int[Tensor, "places"]:
        """Places within some rows of the data, the nearest first."""
        places = torch.linspace(0, len(rows) - 1, min(_CANDIDATES, len(rows))).round().long()
        distance = (self._images[rows[places]] - query.clamp(-1, 1)).flatten(1).square().sum(1)
        return places[distance.argsort(stable=True)[:count]]
