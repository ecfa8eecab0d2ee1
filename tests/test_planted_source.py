"""Planted patterns: rare by construction, near to their own copies and far from all else; groups are units."""

import pytest
import torch

from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.data.sources.digits import digits
from ddattr.data.sources.first import first
from ddattr.data.sources.planted import planted

COPIES = [9, 4, 1]


@pytest.fixture
def source() -> Source:
    return planted(first(digits(), 40), COPIES, queries=3)


def places(source: Source, group: int, query: bool) -> torch.Tensor:
    return ((source.groups == group) & (source.queries == query)).nonzero()[:, 0]


def test_every_pattern_has_its_copies_and_its_queries_behind_the_source(source):
    assert len(source.images) == 40 + sum(COPIES) + 3 * 3
    assert torch.equal(source.images[:40], digits().images[:40])
    assert (source.groups[:40] == -1).all()
    assert not source.queries[:40].any()
    for group, size in enumerate(COPIES):
        assert (len(places(source, group, False)), len(places(source, group, True))) == (size, 3)
    assert source.images.abs().max() <= 1
    assert source.images.dtype == torch.float32


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_pictures_of_a_pattern_are_nearer_to_each_other_than_to_anything_else(seed):
    """All of them, against all digits and all other patterns: the farthest of its own is nearer than half of that."""
    source = planted(digits(), [5] * 12, queries=2, seed=seed)
    shown = source.images[source.groups >= 0].flatten(1)
    distance = torch.cdist(shown, source.images.flatten(1))
    same = source.groups[source.groups >= 0][:, None] == source.groups
    assert distance[same].max() < 0.5 * distance[~same].min()


def test_copies_are_not_equal(source):
    shown = source.images[source.groups >= 0].flatten(1)
    assert len(shown.unique(dim=0)) == len(shown)


@pytest.mark.parametrize(("copies", "queries"), [([9, 4, 1], 5), ([9, 4, 1], 0), ([2, 8, 1], 3)])
def test_pictures_have_an_address(source, copies, queries):
    """More copies or queries leave those that there were as they were."""
    other = planted(first(digits(), 40), copies, queries)
    for group in range(3):
        for query in (False, True):
            one, two = (s.images[places(s, group, query)] for s in (source, other))
            count = min(len(one), len(two))
            assert torch.equal(one[:count], two[:count])


def test_the_seed_decides_the_patterns(source):
    def images(seed: int) -> torch.Tensor:
        return planted(first(digits(), 40), COPIES, 3, seed).images[40:]

    assert torch.equal(images(0), source.images[40:])
    assert not torch.equal(images(1), images(0))


def test_all_patterns_share_one_label(source):
    assert torch.equal(source.labels[:40], digits().labels[:40])
    assert (source.labels[40:] == digits().labels[:40].max() + 1).all()
    assert planted(Source(digits().images, None), [1]).labels is None


def test_patterns_can_be_planted_beside_others(source):
    more = planted(source, [2], queries=1, seed=1)
    assert torch.equal(more.groups, torch.cat([source.groups, torch.full((3,), 3)]))
    assert torch.equal(more.queries, torch.cat([source.queries, torch.tensor([False, False, True])]))


def test_colour_and_other_sizes_have_patterns_too():
    assert planted(Source(torch.zeros(5, 3, 28, 20), None), [2, 2], 1).images.shape == (5 + 6, 3, 28, 20)


@pytest.mark.parametrize("copies", [[], [3, 0]])
def test_patterns_without_copies_are_refused(copies):
    with pytest.raises(ValueError, match=r"data: copies=.*expected numbers of at least 1. Set data.source.copies"):
        planted(digits(), copies)


def test_fewer_than_no_queries_are_refused():
    with pytest.raises(ValueError, match=r"queries=-1, expected at least 0"):
        planted(digits(), [1], -1)


@pytest.mark.parametrize(("kind", "others"), [("cluster", 7), ("image", 40), ("label", 10)])
def test_a_group_is_a_unit_of_its_own_whatever_the_others_are(source, kind, others):
    """And the others are the units that they would be without it."""
    data = UnitDataModule(source, kind, clusters=7)
    assert data.units == others + 3
    assert torch.equal(data.unit_of[:40], UnitDataModule(first(digits(), 40), kind, clusters=7).unit_of)
    assert data.unit_of.bincount()[others:].tolist() == COPIES
    assert torch.equal(data.unit_of[40:] - others, data.groups[40:])


@pytest.mark.parametrize("holdout", [0, 5])
def test_queries_are_in_no_unit_and_know_their_unit(source, holdout):
    data = UnitDataModule(source, "cluster", clusters=7, holdout=holdout)
    held = data.held_out
    assert len(held.images) == holdout + 9
    assert not (torch.cdist(held.images.flatten(1), data.images.flatten(1)) == 0).any()
    assert data.held_out_units.tolist() == [-1] * holdout + [7] * 3 + [8] * 3 + [9] * 3
    known = data.held_out_units >= 0
    nearest = torch.cdist(held.images[known].flatten(1), data.unit_images.flatten(1)).argmin(1)
    assert torch.equal(nearest, data.held_out_units[known])


def test_queries_change_neither_units_nor_fingerprint_of_what_members_see(source):
    data, more = (UnitDataModule(planted(first(digits(), 40), COPIES, k), clusters=7) for k in (3, 6))
    assert data.fingerprint == more.fingerprint
    assert torch.equal(data.unit_of, more.unit_of)
    assert data.planted_fingerprint != more.planted_fingerprint


def test_a_query_of_no_unit_is_known_as_such():
    """Its pattern has no picture that members may see."""
    images = first(digits(), 6).images
    lonely = Source(images, None, torch.tensor([-1, -1, 0, 0, 1, -1]), torch.tensor([0, 0, 0, 1, 1, 1]).bool())
    assert UnitDataModule(lonely, "image").held_out_units.tolist() == [2, -1, -1]


# Of the data that there were before sources had groups: members and their artifacts depend on them.
@pytest.mark.parametrize(
    ("options", "fingerprint"),
    [({}, "a42581bc3b328731"), ({"units": "label"}, "2386aa39cbd1350b"), ({"holdout": 13}, "eade5314b7d91fd1")],
)
def test_data_without_groups_are_what_they_were(options, fingerprint):
    data = UnitDataModule(digits(), **options)
    assert data.fingerprint == fingerprint
    assert (data.held_out_units == -1).all()
    assert data.planted_fingerprint == "none"


@pytest.mark.parametrize("kind", ["cluster", "image"])
def test_a_sample_keeps_every_group_whole(source, kind):
    """And its queries; the others are as many as were asked for."""
    whole, data = (UnitDataModule(source, kind, clusters=7, sample=sample) for sample in (None, 20))
    assert torch.equal(data.groups[data.groups >= 0], whole.groups[whole.groups >= 0])
    assert torch.equal(data.images[data.groups >= 0], whole.images[whole.groups >= 0])
    assert torch.equal(data.held_out.images, whole.held_out.images)
    assert int((data.groups < 0).sum()) == 20
