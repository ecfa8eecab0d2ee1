"""Pictures and units: their fingerprint, their sets, and a loader of ticks."""

import numpy as np
import pandas as pd
import pytest
import torch

from ddattr.data import datamodule
from ddattr.data import units as grouping
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.pictures import Pictures
from ddattr.data.source import Source
from ddattr.data.sources.digits import digits
from ddattr.data.sources.first import first
from ddattr.data.tables import unit_table


@pytest.fixture
def source() -> Source:
    return first(digits(), 40)


@pytest.mark.parametrize(("kind", "units"), [("image", 40), ("label", 10), ("cluster", 7)])
def test_every_picture_has_a_unit_and_every_unit_a_picture(source, kind, units):
    data = UnitDataModule(source, kind, clusters=7)
    assert data.units == units
    assert len(data.unit_of) == 40
    assert torch.equal(data.unit_of.unique(), torch.arange(units))
    assert data.unit_images.shape == (units, *data.shape)
    assert data.shape == (1, 8, 8)


def test_the_fingerprint_is_the_same_for_the_same_data(source):
    assert UnitDataModule(source).fingerprint == UnitDataModule(first(digits(), 40)).fingerprint


@pytest.mark.parametrize("pixel", [0, 1234, 40 * 64 - 1])
def test_the_fingerprint_changes_with_a_pixel(source, pixel):
    images = source.images.clone()
    images.view(-1)[pixel] += 1e-3
    assert UnitDataModule(Source(images, source.labels)).fingerprint != UnitDataModule(source).fingerprint


def test_the_fingerprint_changes_with_the_order(source):
    images = source.images[torch.tensor([1, 0, *range(2, 40)])]
    assert UnitDataModule(Source(images, source.labels)).fingerprint != UnitDataModule(source).fingerprint


def test_labels_have_a_fingerprint_of_their_own(source):
    """They are sets that are scored, and what the extractor of features learns; members do not depend on them."""
    labels = source.labels.clone()
    labels[17] += 1
    other, one = UnitDataModule(Source(source.images, labels)), UnitDataModule(source)
    assert other.labels_fingerprint != one.labels_fingerprint
    assert other.fingerprint == one.fingerprint
    assert UnitDataModule(Source(source.images, None)).labels_fingerprint == "none"


def test_the_fingerprint_changes_with_the_units(source):
    prints = {UnitDataModule(source, kind, clusters=7).fingerprint for kind in ("image", "label", "cluster")}
    assert len(prints) == 3


def test_the_fingerprint_changes_with_the_shape_of_the_pictures(source):
    """The same bytes as other pictures are other data."""
    wide = Source(source.images.reshape(40, 1, 4, 16), source.labels)
    assert UnitDataModule(wide).fingerprint != UnitDataModule(source).fingerprint


def test_identical_pictures_are_one_unit_and_reported_otherwise(source):
    twice = Source(torch.cat([source.images, source.images[:3]]), torch.cat([source.labels, source.labels[:3] * 0]))
    assert UnitDataModule(twice).units == 40
    assert UnitDataModule(twice).duplicates == 0
    assert UnitDataModule(twice, "label").duplicates == int((source.labels[:3] != 0).sum())


def test_partitions_give_every_unit_its_label_and_cluster(source):
    sets = UnitDataModule(source, clusters=7).partitions()
    assert torch.equal(sets["label"], source.labels)
    assert len(sets["cluster"]) == 40
    assert len(sets["cluster"].unique()) == 7


def test_a_unit_of_several_pictures_has_the_label_of_most_of_them():
    """Though the first of them has another: five pictures thrice, whose labels are 100 at first and theirs later."""
    images, labels, *_ = first(digits(), 5)
    data = UnitDataModule(Source(images.repeat(3, 1, 1, 1), torch.cat([labels * 0 + 100, labels, labels])), clusters=3)
    assert data.units == 5
    assert torch.equal(data.partitions()["label"], labels)


def test_of_labels_that_tie_a_unit_has_the_smallest():
    images, labels, *_ = first(digits(), 6)
    again = Source(torch.cat([images, images.flip(0)]), torch.cat([labels + 100, labels.flip(0)]))
    assert torch.equal(UnitDataModule(again, clusters=3).partitions()["label"], labels)


def test_a_group_has_the_label_and_the_cluster_that_most_of_its_pictures_have(source):
    """A group of pictures that are not alike: one of its own kind first, and four of another."""
    ones, sevens = ((source.labels == label).nonzero()[:4, 0] for label in (1, 7))
    groups = torch.full((40,), -1)
    mixed = torch.cat([ones[:1], sevens[:3]])
    groups[mixed] = 0
    data = UnitDataModule(source._replace(groups=groups), clusters=7)
    of = int(data.unit_of[mixed[0]])
    assert torch.equal(data.unit_of == of, groups == 0)
    sets = data.partitions()
    assert sets["label"][of] == 7
    cluster = grouping.by_cluster(data.images, 7, data.seed)
    assert torch.equal(sets["cluster"], grouping.majority(cluster, data.unit_of))
    counts = cluster[mixed].bincount()
    assert counts[sets["cluster"][of]] == counts.max()
    kept = groups < 0
    assert torch.equal(sets["label"][data.unit_of[kept]], source.labels[kept])
    assert torch.equal(sets["cluster"][data.unit_of[kept]], cluster[kept])


def test_clusters_of_pictures_are_sets_of_labels_by_majority(source):
    """Units that are clusters, of several labels each."""
    data = UnitDataModule(source, "cluster", clusters=7)
    labels = data.partitions()["label"]
    assert len(labels) == 7
    for unit in range(7):
        counts = source.labels[data.unit_of == unit].bincount()
        assert labels[unit] == counts.argmax()


@pytest.mark.parametrize(("kind", "expected"), [("label", set()), ("cluster", {"label"})])
def test_units_are_not_scored_as_sets_of_themselves(source, kind, expected):
    assert set(UnitDataModule(source, kind, clusters=7).partitions()) == expected


def test_without_labels_there_are_clusters_only(source):
    assert set(UnitDataModule(Source(source.images, None), clusters=7).partitions()) == {"cluster"}


def test_more_clusters_than_pictures_are_as_many_as_there_are(source):
    assert len(UnitDataModule(source, clusters=100).partitions()["cluster"].unique()) == 40


def test_the_training_loader_yields_as_many_ticks_as_an_epoch_has_steps(source):
    data = UnitDataModule(source)
    data.epoch_steps = 7
    assert [int(tick) for tick in data.train_dataloader()] == list(range(7))
    assert data.train_dataloader().num_workers == 0


def test_units_of_another_name_are_refused(source):
    with pytest.raises(ValueError, match="units=artist, expected image, label, cluster, near or a column"):
        UnitDataModule(source, "artist")


@pytest.mark.parametrize("count", [0, 1, 7, 20, 39])
def test_pictures_held_out_are_evenly_spaced_and_in_no_unit(source, count):
    data = UnitDataModule(source, holdout=count)
    assert len(data.held_out.images) == len(data.held_out.labels) == count
    assert len(data.images) == len(data.unit_of) == 40 - count
    together = torch.cat([data.images, data.held_out.images]).flatten(1)
    assert torch.equal(together.sort(0).values, source.images.flatten(1).sort(0).values)
    places = torch.tensor(
        [(source.images == picture).flatten(1).all(1).nonzero()[0, 0] for picture in data.held_out.images]
    )
    if count > 1:
        assert places.diff().min() >= 40 // count
        assert places.diff().max() <= 40 // count + 1


@pytest.mark.parametrize(("count", "held"), [(19, 0), (20, 1), (100, 5), (1280, 64), (1797, 64)])
def test_where_nobody_says_how_many_a_twentieth_is_held_out_and_at_most_64(count, held):
    images = torch.arange(float(count)).reshape(count, 1, 1, 1)
    assert len(UnitDataModule(Source(images, None), holdout=None).held_out.images) == held


def test_data_without_held_out_pictures_is_what_it_was(source):
    assert UnitDataModule(source, holdout=0).fingerprint == UnitDataModule(source).fingerprint
    assert torch.equal(UnitDataModule(source, holdout=0).images, source.images)


@pytest.mark.parametrize("count", [-1, 40, 41])
def test_holding_out_all_pictures_is_refused(source, count):
    with pytest.raises(ValueError, match=f"holdout={count}, expected 0 to 39"):
        UnitDataModule(source, holdout=count)


def test_flips_are_other_data(source):
    assert UnitDataModule(source, flips=True).fingerprint != UnitDataModule(source).fingerprint


def test_bytes_have_the_units_that_their_floats_have(source):
    pixels = ((source.images + 1) * 127.5).round().byte()
    again = torch.cat([pixels, pixels[:4]]).numpy()
    held = Pictures(again)
    labels = torch.cat([source.labels, source.labels[:4] + 1])
    for kind in ("image", "cluster", "near", "label"):
        one, other = (UnitDataModule(Source(images, labels), kind, 7) for images in (held, held[:]))
        assert torch.equal(one.unit_of, other.unit_of)
        assert torch.equal(one.unit_images, other.unit_images)
        assert (one.duplicates, one.labelled_twice) == (other.duplicates, other.labelled_twice)
    assert UnitDataModule(Source(held, labels), "label").labelled_twice == 4


@pytest.mark.parametrize("kind", ["image", "cluster", "label"])
def test_units_pictures_that_are_made_where_they_are_needed_change_nothing(source, kind, monkeypatch):
    pixels = ((source.images + 1) * 127.5).round().byte()
    mapped = Source(
        Pictures(torch.cat([pixels, pixels[:4]]).numpy()), torch.cat([source.labels, source.labels[:4] + 1])
    )
    held = UnitDataModule(mapped, kind, 7)
    assert isinstance(held.unit_pictures, torch.Tensor)
    monkeypatch.setattr(datamodule, "_HELD", 0)
    other = UnitDataModule(mapped, kind, 7)
    assert not isinstance(other.unit_pictures, torch.Tensor)
    assert torch.equal(other.unit_pictures[:], held.unit_pictures)
    assert torch.equal(other.distance(source.images[:3]), held.distance(source.images[:3]))
    assert all(torch.equal(of, held.partitions()[name]) for name, of in other.partitions().items())


@pytest.mark.parametrize("labels", [[-5, -5, 7, 7, 7], [0, 1, 2, 3, 4]])
def test_pictures_of_two_labels_are_counted_once_for_every_label_but_one(labels):
    """Whatever numbers the labels are: of three copies under two labels, one is of another."""
    images = torch.zeros(5, 1, 8, 8)
    images[3:] = 1
    data = UnitDataModule(Source(images, torch.tensor(labels)))
    expected = len(set(labels[:3])) - 1 + len(set(labels[3:])) - 1
    assert data.labelled_twice == data.duplicates + expected == expected


def test_near_units_join_what_is_alike(source):
    """Copies with a little noise, of the first ten."""
    noise = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy = (source.images[:10] + 0.02 * noise).clamp(-1, 1)
    data = UnitDataModule(Source(torch.cat([source.images, noisy]), None), "near")
    assert torch.equal(data.unit_of[40:], data.unit_of[:10])
    assert torch.equal(data.unit_of.unique(), torch.arange(data.units))
    table = unit_table(data)
    assert table["name"][0] == "picture 0 and its like"
    alone = table["pictures"] == 1
    assert (table["name"][alone] == [f"picture {rows[0]}" for rows in table["rows"][alone]]).all()


def test_units_and_sets_of_columns_go_by_their_text(source):
    who = [["ann", "bob", "cy"][place % 3] for place in range(40)]
    when = [["day", "night"][place % 6 // 3] for place in range(40)]
    table = pd.DataFrame({"file": [f"{place}.png" for place in range(40)], "who": who, "when": when})
    data = UnitDataModule(source._replace(table=table), "who", sets=["when"])
    found = unit_table(data)
    assert found["name"].tolist() == ["ann", "bob", "cy"]
    assert found["files"].tolist() == [[f"{place}.png" for place in range(unit, 40, 3)] for unit in range(3)]
    majority = [max(("day", "night"), key=[when[p] for p in range(unit, 40, 3)].count) for unit in range(3)]
    assert found["when"].tolist() == majority
    with pytest.raises(ValueError, match=r"units=where, expected .* a column of the data's own \(who, when\)"):
        UnitDataModule(source._replace(table=table), "where")
    with pytest.raises(ValueError, match=r"^data: sets=where, "):
        UnitDataModule(source._replace(table=table), "who", sets=["where"])
    away = table.rename(columns={"when": "a/../../../when"})
    with pytest.raises(ValueError, match=r"^data: sets=a/\.\./\.\./\.\./when, expected columns without /"):
        UnitDataModule(source._replace(table=away), "who", sets=["a/../../../when"])


def test_a_picture_s_place_in_the_source_outlives_those_held_out(source):
    table = pd.DataFrame({"file": [f"{place}.png" for place in range(40)]})
    data = UnitDataModule(source._replace(table=table), holdout=7)
    assert [f"{row}.png" for row in data.rows.tolist()] == data.kept.table["file"].tolist()
    assert torch.equal(source.images[data.rows], data.images)
    assert [rows[0] for rows in unit_table(data)["rows"]] == data.rows.tolist()
    assert np.array_equal(unit_table(data)["name"], data.kept.table["file"])


@pytest.mark.parametrize("holdout", [0, 7])
def test_a_sample_is_in_the_sources_order_part_of_a_larger_one_and_of_what_is_not_held_out(source, holdout):
    whole = UnitDataModule(source, holdout=holdout)
    few, more = (UnitDataModule(source, holdout=holdout, sample=sample) for sample in (10, 25))
    for data, count in ((few, 10), (more, 25)):
        assert len(data.rows) == len(data.images) == len(data.unit_of) == count
        assert (data.rows.diff() > 0).all()
        assert torch.equal(data.images, source.images[data.rows])
        assert torch.equal(data.held_out.images, whole.held_out.images)
    assert set(few.rows.tolist()) < set(more.rows.tolist()) < set(whole.rows.tolist())


def test_a_sample_goes_by_its_seed_and_is_other_data(source):
    one, again, other = (UnitDataModule(source, sample=10, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.rows, again.rows)
    assert one.fingerprint == again.fingerprint
    assert len({data.fingerprint for data in (one, other, UnitDataModule(source))}) == 3


def test_a_sample_of_all_is_the_data_that_there_are_without(source):
    assert UnitDataModule(source, sample=40).fingerprint == UnitDataModule(source, sample=None).fingerprint


def test_every_picture_is_as_likely_to_be_in_a_sample(source):
    """Of 400 seeds: each picture's count is binomial of share 1/4; false alarms of this test are 1 in 10^4."""
    rows = torch.cat([UnitDataModule(source, sample=10, seed=seed).rows for seed in range(400)])
    counts = rows.bincount(minlength=40)
    assert ((counts - 100).abs() < 4.7 * (400 * 0.25 * 0.75) ** 0.5).all()


@pytest.mark.parametrize("sample", [-1, 0, 34])
def test_a_sample_of_none_or_of_more_than_there_are_is_refused(source, sample):
    with pytest.raises(ValueError, match=rf"^data: sample={sample}, expected 1 to 33 of .* Set data\.sample\.$"):
        UnitDataModule(source, holdout=7, sample=sample)


# -- some of a source


@pytest.fixture
def described(source) -> Source:
    who = [["ann", "bob", "cy"][place % 3] for place in range(40)]
    when = [["day", "night"][place % 6 // 3] for place in range(40)]
    return source._replace(
        table=pd.DataFrame({"file": [f"{place}.png" for place in range(40)], "who": who, "when": when})
    )


def test_only_pictures_that_have_the_values_are_there(described):
    data = UnitDataModule(described, "who", only={"who": ["ann", "cy"], "when": ["day"]})
    wanted = [place for place in range(40) if place % 3 != 1 and place % 6 < 3]
    assert data.kept.table["file"].tolist() == [f"{place}.png" for place in wanted]
    assert torch.equal(data.images, described.images[wanted])
    assert unit_table(data)["name"].tolist() == ["ann", "cy"]
    assert len(UnitDataModule(described, only={"label": [3]}).images) == int((described.labels == 3).sum())
    named = described._replace(label_names=[f"class {label}" for label in range(10)])
    assert UnitDataModule(named, only={"label": ["class 3"]}).labels.tolist() == [3] * 3


def test_all_of_a_source_is_the_source(described):
    everyone = UnitDataModule(described, only={"who": ["ann", "bob", "cy"]})
    assert everyone.fingerprint == UnitDataModule(described).fingerprint
    assert UnitDataModule(described, only={"who": ["ann"]}).fingerprint != everyone.fingerprint


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ({"whom": ["ann"]}, r"data: only has whom, expected a column of the data \(label, file, who, when\)\. Set"),
        ({"who": ["ann", "dan"]}, r"data: only\.who=dan, expected some of ann, bob, cy\. Set data\.only\."),
        ({"who": "ann"}, r"data: only=\{'who': 'ann'\}, expected lists of values by column\. "),
        ({"who": []}, r"data: no picture has who=\[\], expected some that have\. Set data\.only\."),
    ],
)
def test_what_no_picture_has_is_refused(described, only, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        UnitDataModule(described, only=only)
