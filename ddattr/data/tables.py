"""What the numbers of units mean, and which pictures are the same, as tables."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ddattr.data import units as grouping
from ddattr.data.datamodule import UnitDataModule


def unit_table(data: UnitDataModule) -> pd.DataFrame:
    """units.parquet: a row a unit, so that numbers of units and of sets mean something.

    Its name in words; the label, the cluster and the value of every column of `sets` that most of its pictures have, as
    far as there are any; how many pictures it has, their rows in the source, and their files.
    """
    sizes = data.unit_of.bincount(minlength=data.units).tolist()
    places = data.unit_of.argsort(stable=True).split(sizes)
    rows = [data.rows[part].tolist() for part in places]
    sets = data.partitions()
    if data.labels is not None:
        sets["label"] = grouping.majority(data.labels, data.unit_of)
    grouped = torch.zeros(data.units, dtype=torch.bool)
    if data.groups is not None:
        grouped[data.unit_of[data.groups >= 0]] = True
    table: dict[str, Any] = {"unit": range(data.units)}
    table["name"] = [
        f"group from picture {rows[unit][0]}" if grouped[unit] else _name(data, unit, places[unit], sets)
        for unit in range(data.units)
    ]
    for kind, of in sets.items():
        named = kind in data.sets or (kind == "label" and data.source.label_names is not None)
        table[kind] = [data.set_name(kind, value) for value in of.tolist()] if named else of.tolist()
    table |= {"pictures": sizes, "rows": rows}
    if data.kept.table is not None and "file" in data.kept.table:
        files = data.kept.table["file"].tolist()
        table["files"] = [[files[place] for place in part.tolist()] for part in places]
    return pd.DataFrame(table)


def _name(data: UnitDataModule, unit: int, places: Tensor, sets: Mapping[str, Tensor]) -> str:
    """A picture goes by its file, or its row in the source; a label, a folder and a column by its text."""
    table, first = data.kept.table, int(places[0])
    if data.kind in ("image", "near"):
        name = picture_name(data, first)
        return name if data.kind == "image" or len(places) == 1 else f"{name} and its like"
    if data.kind == "label":
        value = int(sets["label"][unit])
        return f"label {value}" if data.source.label_names is None else data.set_name("label", value)
    if data.kind == "cluster" or table is None:
        return f"{data.kind} {unit}"
    return str(table[data.kind].iloc[first]) or "."


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
