"""units.parquet: what a number of a unit, or of a set, stands for."""

import pytest
import torch

from ddattr.data.datamodule import UnitDataModule
from ddattr.data.sources.digits import digits
from ddattr.data.sources.first import first
from ddattr.data.sources.planted import planted
from ddattr.data.tables import unit_table


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (first(digits(), 120), {"holdout": 7, "clusters": 10}),
        (first(digits(), 120), {"units": "label", "holdout": 7}),
        (first(digits(), 120), {"units": "cluster", "clusters": 9}),
        (planted(first(digits(), 60), [3, 2], queries=2), {"units": "cluster", "clusters": 5}),
    ],
    ids=["image", "label", "cluster", "planted"],
)
def test_rows_of_the_source_are_the_pictures_of_the_unit(source, options):
    """Every picture that members see is in one unit, and its unit's image is the mean of its rows."""
    data = UnitDataModule(source, **options)
    table = unit_table(data)
    assert table.unit.tolist() == list(range(data.units))
    assert sorted(row for rows in table.rows for row in rows) == data.rows.tolist()
    assert table.pictures.tolist() == [len(rows) for rows in table.rows]
    assert table.name.is_unique
    for unit, rows in enumerate(table.rows):
        torch.testing.assert_close(source.images[rows].double().mean(0).float(), data.unit_images[unit])


def test_sets_of_units_are_columns_of_their_kind():
    data = UnitDataModule(first(digits(), 120), clusters=10)
    table = unit_table(data)
    for kind, of in data.partitions().items():
        assert table[kind].tolist() == of.tolist()


def test_a_label_goes_by_itself_and_a_group_by_its_first_picture():
    labels = unit_table(UnitDataModule(first(digits(), 120), units="label"))
    assert labels.name.tolist() == [f"label {label}" for label in range(10)]
    source = planted(first(digits(), 60), [3, 2], queries=2)
    table = unit_table(UnitDataModule(source, units="cluster", clusters=5))
    assert table.name.tolist()[5:] == ["group from picture 60", "group from picture 65"]
    assert table.name[0] == "cluster 0"


def test_pictures_without_labels_have_no_such_column():
    source = first(digits(), 50)._replace(labels=None)
    assert "label" not in unit_table(UnitDataModule(source, clusters=5))


def test_identical_pictures_are_one_unit_of_several_rows():
    source = first(digits(), 20)
    twice = source.at(torch.tensor([*range(20), 3]))
    table = unit_table(UnitDataModule(twice, clusters=5))
    assert table.rows[3] == [3, 20]
    assert table.name[3] == "picture 3"
