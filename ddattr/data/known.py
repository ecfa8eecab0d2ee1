"""Of which unit and sets a held-out picture would be, as far as its label, its columns and its group say."""

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ddattr.data import units as grouping
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source

_BY_LOOKS = ("image", "cluster", "near")  # units that no label and no column tells


def known(data: UnitDataModule) -> dict[str, Int[Tensor, "held"]]:
    """By kind, `unit` and then sets in the numbers of `partitions`, what every held-out picture is of; -1 for none.

    None is what no training picture has, or no unit has most pictures of. Kinds that go by looks, clusters and single
    pictures, are left out, and so is a kind of which nothing is known.
    """
    unit = data.held_out_units
    if data.kind not in _BY_LOOKS:
        loose = torch.ones_like(data.unit_of, dtype=torch.bool) if data.groups is None else data.groups < 0
        own = _matched(_values(data.held_out, data.kind), _values(data.kept.at(loose), data.kind), data.unit_of[loose])
        unit = torch.where(unit >= 0, unit, own)
    found = {"unit": unit}
    for kind, of in data.partitions().items():
        if kind == "label" or kind in data.sets:
            values = _values(data.kept, kind)
            numbers = data.kept.labels if kind == "label" else grouping.by_column(data.kept.table, kind, "sets")
            assert numbers is not None  # there are no sets of labels without
            own = _matched(_values(data.held_out, kind), values, numbers)
            found[kind] = torch.where(torch.isin(own, of), own, -1)
    return {kind: of for kind, of in found.items() if (of >= 0).any()}


def _values(source: Source, kind: str) -> Sequence[Hashable]:
    """Every picture's label, or what its table has in a column."""
    if kind == "label":
        assert source.labels is not None
        return source.labels.tolist()
    assert source.table is not None
    return source.table[kind].tolist()


def _matched(held: Sequence[Hashable], kept: Sequence[Hashable], numbers: Int[Tensor, "kept"]) -> Int[Tensor, "held"]:
    """The number of the training pictures that have a held-out picture's value; -1 where none has."""
    of = dict(zip(kept, numbers.tolist(), strict=True))
    return torch.tensor([of.get(value, -1) for value in held], dtype=torch.long)
