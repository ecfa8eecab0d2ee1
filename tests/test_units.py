"""Units: a map from pictures to what can be removed, numbered without gaps."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddattr.data import units as grouping
from ddattr.data.pictures import Pictures
from ddattr.data.sources.digits import digits
from ddattr.data.sources.first import first

maps = st.lists(st.integers(0, 5), min_size=1, max_size=20)


def pictures(names: list[int]) -> torch.Tensor:
    """A picture for every name, equal exactly where the names are."""
    return torch.tensor(names, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


def numbered(of: torch.Tensor) -> bool:
    return sorted(of.unique().tolist()) == list(range(int(of.max()) + 1))


@given(maps)
def test_pictures_share_a_unit_exactly_when_they_are_identical(names):
    of = grouping.by_image(pictures(names))
    expected = torch.tensor(names)
    assert torch.equal(of[:, None] == of, expected[:, None] == expected)
    assert numbered(of)


@given(maps)
def test_units_are_numbered_in_order_of_appearance(names):
    of = grouping.by_image(pictures(names)).tolist()
    assert of[0] == 0
    assert all(unit <= max(of[:i]) + 1 for i, unit in enumerate(of) if i)


@given(maps)
def test_a_label_is_a_unit(names):
    labels = torch.tensor(names)
    of = grouping.by_label(labels)
    assert torch.equal(of[:, None] == of, labels[:, None] == labels)
    assert numbered(of)


def test_clusters_are_a_partition_that_the_seed_decides():
    images = first(digits(), 60).images
    of = grouping.by_cluster(images, 7, seed=0)
    assert len(of) == 60
    assert numbered(of)
    assert int(of.max()) == 6
    assert torch.equal(grouping.by_cluster(images, 7, seed=0), of)
    assert not torch.equal(grouping.by_cluster(images, 7, seed=1), of)


def test_identical_pictures_share_a_cluster_and_distant_ones_do_not():
    of = grouping.by_cluster(pictures([0, 0, 100, 100, 0]), 2, seed=0)
    assert of.tolist() == [0, 0, 1, 1, 0]


def test_of_many_pictures_some_say_where_clusters_are(monkeypatch):
    """Four kinds of pictures that are far apart, of which 60 of 400 are asked: all are told apart, block by block."""
    names = torch.randint(0, 4, (400,), generator=torch.Generator().manual_seed(0))
    noise = torch.randn(400, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(grouping, "_CLUSTERED", 60)
    monkeypatch.setattr(grouping, "_PREDICTED", 70)
    found = {seed: grouping.by_cluster(pictures((100 * names).tolist()) + noise, 4, seed) for seed in range(8)}
    right = [torch.equal(of[:, None] == of, names[:, None] == names) for of in found.values()]
    assert sum(right) >= 6  # one fit in ten or so begins with two centres in one kind
    assert all(numbered(of) for of in found.values())


@pytest.mark.parametrize("clusters", [0, 6])
def test_more_clusters_than_pictures_are_refused(clusters):
    with pytest.raises(ValueError, match=r"clusters=.*expected 1 to 5 pictures"):
        grouping.by_cluster(pictures([0, 1, 2, 3, 4]), clusters, seed=0)


def test_labels_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="this source has no labels"):
        grouping.by_label(None)


@pytest.mark.parametrize(
    ("names", "units", "expected"),
    [
        ([0, 1, 2], [0, 1, 2], 0),
        ([0, 0, 1], [0, 0, 1], 0),
        ([0, 0, 1], [0, 1, 1], 1),
        ([0, 0, 0], [0, 1, 2], 2),
        ([0, 0, 1, 1], [0, 1, 0, 1], 2),
    ],
)
def test_duplicates_are_counted_across_units_and_not_within(names, units, expected):
    assert grouping.duplicates(pictures(names), torch.tensor(units)) == expected


@given(maps)
def test_units_by_image_have_no_duplicates(names):
    images = pictures(names)
    assert grouping.duplicates(images, grouping.by_image(images)) == 0


def test_the_mean_picture_of_a_unit_is_the_mean_of_its_pictures():
    images, labels, *_ = first(digits(), 60)
    of = grouping.by_label(labels)
    means = grouping.means(images, of)
    assert means.dtype == torch.float32
    for unit in range(10):
        torch.testing.assert_close(means[unit], images[of == unit].mean(0))


def test_the_mean_of_one_picture_is_that_picture():
    images = first(digits(), 20).images
    assert torch.equal(grouping.means(images, torch.arange(20)), images)


@pytest.mark.parametrize("index", [slice(None), slice(1, 3), torch.tensor([[3, 0], [1, 1]]), torch.tensor(2)], ids=str)
def test_means_that_are_made_where_they_are_indexed_are_the_same(index):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 6), np.uint8)
    of = torch.from_numpy(np.random.default_rng(1).permutation(np.arange(20) ** 2 // 80))  # units of 9 to 2 pictures
    means, held = grouping.MeanPictures(Pictures(pixels), of), grouping.means(Pictures(pixels), of)
    assert (len(means), means.shape) == (5, held.shape)
    assert torch.equal(means[index], held[index])


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), min_size=1, max_size=30))
def test_the_majority_is_the_commonest_value_of_a_unit_and_the_smallest_of_those_that_tie(pairs):
    values = torch.tensor([value for value, _ in pairs])
    of = torch.unique(torch.tensor([unit for _, unit in pairs]), return_inverse=True)[1]  # without gaps
    found = grouping.majority(values, of).tolist()
    assert len(found) == int(of.max()) + 1
    for unit, value in enumerate(found):
        counts = Counter(values[of == unit].tolist())
        assert value == min(v for v, count in counts.items() if count == max(counts.values()))


@given(maps)
def test_of_single_pictures_the_majority_is_their_value(names):
    values = torch.tensor(names)
    assert torch.equal(grouping.majority(values, torch.arange(len(names))), values)


@given(maps, st.integers(0, 10**6))
def test_the_order_of_pictures_does_not_change_the_majority(names, seed):
    values, of = torch.tensor(names), grouping.by_image(pictures([name % 3 for name in names]))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(grouping.majority(values[order], of[order]), grouping.majority(values, of))
