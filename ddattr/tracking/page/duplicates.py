"""Pictures that look the same, side by side, so that a person can check what the hash found."""

from pathlib import Path
from typing import NamedTuple

from torch import searchsorted, tensor

from ddattr.artifacts import load_table
from ddattr.data.datamodule import UnitDataModule
from ddattr.tracking.page.pictures import drawn
from ddattr.tracking.units import unit_names

_SHOWN = 24  # pairs at most


class Same(NamedTuple):
    """A pair: the names and pictures of both, and their units where these are two."""

    names: tuple[str, str]
    pictures: tuple[str, str]
    units: tuple[str, str] | None


class Duplicates(NamedTuple):
    """What is said of all pairs, and the first of them."""

    said: str
    pairs: list[Same]


def duplicates(root: Path, data: UnitDataModule) -> Duplicates | None:
    """Near-duplicates of a run, those of two units first; None in a run that did not look for any, or has none."""
    path = root / "near_duplicates.parquet"
    table = load_table(path) if path.exists() else None
    if table is None or table.empty:
        return None
    apart, name = table.first_unit != table.second_unit, unit_names(root)
    pairs = []
    for row in table[:_SHOWN].itertuples():
        one, other = (data.images[place] for place in searchsorted(data.rows, tensor([row.first, row.second])).tolist())
        units = (name(row.first_unit), name(row.second_unit)) if row.first_unit != row.second_unit else None
        pairs.append(Same((row.first_name, row.second_name), (drawn(one), drawn(other)), units))
    said = (
        f"{len(table):,} pairs of training pictures look the same; {int(apart.sum()):,} are of two units, and removing "
        "one of these leaves a copy behind. A hash found them, which may err: look. data.units=near makes one unit of "
        f"a picture and its like. {'The first are shown; all' if len(table) > _SHOWN else 'They'} are in "
        "near_duplicates.parquet."
    )
    return Duplicates(said, pairs)
