"""Near-duplicates on the page: pairs of training pictures, side by side, for a person to check."""

from pathlib import Path
from typing import NamedTuple

from ddattr.data.datamodule import UnitDataModule
from ddattr.files import load_table
from ddattr.tracking.page.pictures import drawn

_SHOWN = 16


class Twins(NamedTuple):
    """Two pictures as what an img shows, their names, and whether they are of two units."""

    pictures: tuple[str, str]
    names: tuple[str, str]
    apart: bool


class Duplicates(NamedTuple):
    """How many pairs there are, how many of two units, and the first of them."""

    pairs: int
    apart: int
    shown: list[Twins]


def duplicates(root: Path, data: UnitDataModule) -> Duplicates | None:
    """Pairs that removing a unit leaves a copy of come first; None where there are no pairs, or none were sought."""
    path = root / "near_duplicates.parquet"
    table = load_table(path) if path.exists() else None
    if table is None or table.empty:
        return None
    apart = table.first_unit != table.second_unit
    images = data.source.images
    shown = [
        Twins(
            (drawn(images[row.first]), drawn(images[row.second])),
            (row.first_name, row.second_name),
            row.first_unit != row.second_unit,
        )
        for row in table.head(_SHOWN).itertuples()
    ]
    return Duplicates(len(table), int(apart.sum()), shown)
