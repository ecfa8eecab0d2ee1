"""What the numbers of units mean, and which pictures are the same, as tables."""

from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from ddattr.data import units as grouping
from ddattr.data.datamodule import UnitDataModule


def unit_table(data: UnitDataModule) -> pd.DataFrame:
    """units.parquet: a row a unit, so that numbers of units and of sets mean something.

    Its name in words; the label, the cluster and the value of every column of `sets` that most of its pictures have, as
    far as there are any; how many pictures it has, their rows in the source, and their files.
    """
    order = data.unit_of.argsort(stable=True)
    ends = data.unit_of.bincount(minlength=data.units).cumsum(0).tolist()
    spans = list(zip([0, *ends], ends, strict=False))
    in_order = data.rows[order].tolist()
    sets = dict(data.partitions())
    if data.labels is not None:
        sets["label"] = grouping.majority(data.labels, data.unit_of)
    table: dict[str, Any] = {"unit": range(data.units), "name": unit_names(data, torch.arange(data.units))}
    for kind, of in sets.items():
        named = kind in data.sets or (kind == "label" and data.source.label_names is not None)
        words = {value: data.set_name(kind, value) for value in of.unique().tolist()} if named else {}
        table[kind] = [words.get(value, value) for value in of.tolist()]
    table["pictures"] = [end - start for start, end in spans]
    table["rows"] = [in_order[start:end] for start, end in spans]
    if data.kept.table is not None and "file" in data.kept.table:
        files = data.kept.table["file"].to_numpy()[order.numpy()].tolist()
        table["files"] = [files[start:end] for start, end in spans]
    return pd.DataFrame(table)


def unit_names(data: UnitDataModule, units: Int[Tensor, "some"]) -> list[str]:
    """Some units in words.

    A picture goes by its file, or its row in the source; a label, a folder and a column by its text; a group by its
    first picture.
    """
    order, sizes = data.unit_of.argsort(stable=True), data.unit_of.bincount(minlength=data.units)
    firsts, counts = order[sizes.cumsum(0) - sizes][units], sizes[units]
    grouped = torch.zeros(len(firsts), dtype=torch.bool) if data.groups is None else data.groups[firsts] >= 0
    values = None
    if data.kind == "label" and data.labels is not None:
        values = grouping.majority(data.labels, data.unit_of)[units].tolist()
    rows, table, names = data.rows[firsts].tolist(), data.kept.table, []
    for i, (unit, first, count) in enumerate(zip(units.tolist(), firsts.tolist(), counts.tolist(), strict=True)):
        if grouped[i]:
            name = f"group from picture {rows[i]}"
        elif data.kind in ("image", "near"):
            alone = data.kind == "image" or count == 1
            name = f"{picture_name(data, first)}{'' if alone else ' and its like'}"
        elif values is not None:
            known = data.source.label_names is not None
            name = data.set_name("label", values[i]) if known else f"label {values[i]}"
        elif data.kind == "cluster" or table is None:
            name = f"{data.kind} {unit}"
        else:
            name = str(table[data.kind].iloc[first]) or "."
        names.append(name)
    return names


def picture_name(data: UnitDataModule, place: int) -> str:
    """A picture by its file, or by its row in the source."""
    table = data.kept.table
    if table is None or "file" not in table:
        return f"picture {int(data.rows[place])}"
    return str(table["file"].iloc[place])


def near_table(data: UnitDataModule) -> pd.DataFrame:
    """near_duplicates.parquet: a row a pair of pictures that a person would call the same, for a person to check.

    Their rows in the source and their names, the unit of each, and how many of 64 bits of the hash differ; pairs of two
    units first: removing one of these leaves a copy behind.
    """
    pairs, bits = data.near_duplicates
    units = data.unit_of[pairs]
    table = pd.DataFrame(
        {
            "first": data.rows[pairs[:, 0]].numpy(),
            "second": data.rows[pairs[:, 1]].numpy(),
            "first_name": [picture_name(data, place) for place in pairs[:, 0].tolist()],
            "second_name": [picture_name(data, place) for place in pairs[:, 1].tolist()],
            "first_unit": units[:, 0].numpy(),
            "second_unit": units[:, 1].numpy(),
            "bits": bits.numpy(),
        }
    )
    apart = (table.first_unit != table.second_unit).rename("apart")
    order = pd.concat([~apart, table.bits], axis=1).sort_values(["apart", "bits"], kind="stable").index
    return table.loc[order].reset_index(drop=True)
