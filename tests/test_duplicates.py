"""The page shows near-duplicates side by side: the right pictures, and the units that they are of."""

import torch

from ddattr.artifacts import save_table
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.data.sources.digits import digits
from ddattr.data.sources.first import first
from ddattr.data.tables import near_table, unit_table
from ddattr.tracking.page.duplicates import duplicates
from ddattr.tracking.page.pictures import drawn


def data_with_copies() -> UnitDataModule:
    """Forty digits by label, of which one is held out; then a copy under its own label, and one under another."""
    source = first(digits(), 40)
    images = torch.cat([source.images, source.images[3:4], source.images[7:8]])
    labels = torch.cat([source.labels, source.labels[3:4], (source.labels[7:8] + 1) % 10])
    return UnitDataModule(Source(images, labels), units="label", holdout=1)


def test_pairs_of_two_units_come_first_with_their_pictures_and_units(tmp_path):
    data = data_with_copies()
    assert duplicates(tmp_path, data) is None  # a run that did not look for any
    save_table(tmp_path / "units.parquet", unit_table(data))
    table = near_table(data)
    save_table(tmp_path / "near_duplicates.parquet", table)
    found = duplicates(tmp_path, data)
    pairs = {(row.first, row.second): row for row in table.itertuples()}
    assert {(3, 40), (7, 41)} <= set(pairs)
    first_pair = found.pairs[0]
    assert first_pair.names == ("picture 7", "picture 41")
    assert first_pair.pictures[0] == first_pair.pictures[1] == drawn(data.source.images[7])
    assert [name.partition(" (")[0] for name in first_pair.units] == ["label 7", "label 8"]
    one_unit = next(pair for pair in found.pairs if pair.names == ("picture 3", "picture 40"))
    assert one_unit.units is None
    assert f"{len(table):,} pairs" in found.said
    assert f"{(table.first_unit != table.second_unit).sum()} are of two units" in found.said


def test_nothing_is_said_where_there_are_none(tmp_path):
    data = UnitDataModule(first(digits(), 5), units="label")
    save_table(tmp_path / "units.parquet", unit_table(data))
    save_table(tmp_path / "near_duplicates.parquet", near_table(data)[:0])
    assert duplicates(tmp_path, data) is None
