"""Held-out pictures: of what they are, and how often that is named."""

import pandas as pd
import pytest
import torch
from conftest import TINY, composed, refused
from hypothesis import given
from hypothesis import strategies as st

import ddattr as product
from ddattr.attribution.queries import HELD_OUT, QuerySet
from ddattr.attribution.retrieval import of_sets, of_units, retrieval, summarise
from ddattr.attribution.significance import benjamini_hochberg
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.known import known
from ddattr.data.source import Source
from ddattr.files import load_table
from ddattr.stages import train
from ddattr.stages.run import Run

ARTISTS = [*"aaabbbcccd", "a", "b"]  # of twelve pictures; the tenth, which is held out, the only one of "d"


def pictures(**columns) -> Source:
    """Twelve pictures, each of its own shade."""
    images = torch.linspace(-1, 1, 12)[:, None, None, None].expand(12, 1, 4, 4).clone()
    return Source(images, torch.arange(12) % 3, table=pd.DataFrame({"artist": ARTISTS, **columns}))


# -- of what a held-out picture is


def test_units_of_a_column_and_sets_of_another_are_those_of_training_pictures_with_the_same_value():
    data = UnitDataModule(pictures(kind=[*"xxyyxxyyxxyy"]), units="artist", holdout=6, sets=["kind"])
    found = known(data)
    assert list(found) == ["unit", "label", "kind"]
    for place in range(6):
        row, of = data.held_out.table.iloc[place], {kind: int(values[place]) for kind, values in found.items()}
        same = data.unit_of[torch.tensor((data.kept.table.artist == row.artist).tolist())]
        assert same.tolist() == [of["unit"]] * len(same)
        if len(same) == 0:
            assert of["unit"] == -1
        label = int(data.held_out.labels[place])
        assert of["label"] == (label if label in data.partitions()["label"] else -1)
        if of["kind"] >= 0:
            assert data.set_name("kind", of["kind"]) == row.kind
    assert "d" in data.held_out.table.artist.tolist()  # which no training picture is by
    assert (found["unit"] == -1).sum() == 1


def test_what_goes_by_looks_is_not_known():
    """Of pictures without labels, each a unit, or clusters of them: nothing."""
    plain = pictures()._replace(labels=None, table=None)
    for kind in ("image", "cluster"):
        assert known(UnitDataModule(plain, units=kind, clusters=3, holdout=4)) == {}
    assert list(known(UnitDataModule(pictures(), units="image", clusters=3, holdout=3))) == ["label"]


def test_a_picture_of_a_group_is_of_its_unit():
    groups = torch.tensor([-1, 0, 0, 1, 1, -1, -1, -1, -1, -1, 0, 1])
    queries = torch.zeros(12, dtype=torch.bool).index_fill(0, torch.tensor([10, 11]), True)
    data = UnitDataModule(pictures()._replace(groups=groups, queries=queries), clusters=3, holdout=0)
    of = known(data)["unit"]
    assert [data.groups[data.unit_of == unit].unique().tolist() for unit in of.tolist()] == [[0], [1]]


# -- its place


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(1, 6))
def test_places_are_those_of_sorting_and_go_with_the_units(seed, units, queries):
    draw = torch.Generator().manual_seed(seed)
    z, p, support = (torch.rand(units, queries, generator=draw) for _ in range(3))
    own = torch.randint(-1, units, (queries,), generator=draw)
    numbers = torch.arange(queries) + 7
    table = of_units(own, z, p, support, numbers)
    assert table["query"].tolist() == numbers[own >= 0].tolist()
    for row in table.itertuples():
        q, unit = row.query - 7, int(row.own)
        assert support[:, q].argsort(descending=True).tolist().index(unit) == row.rank - 1
        assert (row.z, row.p_value) == (z[unit, q], p[unit, q])
        assert row.q_value == benjamini_hochberg(p)[unit, q]
    order = torch.randperm(units, generator=draw)
    moved = torch.where(own >= 0, order.argsort()[own], -1)
    again = of_units(moved, z[order], p[order], support[order], numbers)
    pd.testing.assert_frame_equal(table.drop(columns="own"), again.drop(columns="own"))


def test_a_set_s_place_is_among_its_kind_and_one_that_ties_is_before_none():
    rows = [("artist:a", 1.0), ("artist:b", 3.0), ("artist:c", 3.0), ("label:a", 9.0)]
    sets = pd.DataFrame([(name, q, z, 0.01, 0.02) for name, z in rows for q in (0, 1, 2)])
    sets.columns = ["set", "query", "z", "p_value", "q_value"]
    table = of_sets("artist", {0: "a", 2: "c"}, sets)
    assert table[["query", "own", "rank", "among", "z"]].values.tolist() == [[0, "a", 3, 3, 1.0], [2, "c", 1, 3, 3.0]]


def test_random_supports_name_the_own_as_often_as_chance_says():
    """The share of 4,000 first places against its expectation; false-alarm rate 1e-4 (3.9 standard errors)."""
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(8, 4000, generator=draw)
    own = torch.randint(0, 8, (4000,), generator=draw)
    p, queries = torch.rand(z.shape, generator=draw), torch.arange(4000)
    table = retrieval({"unit": own}, z, p, z, queries, pd.DataFrame(), {}, -z, str)
    (row,) = summarise(table, 0.05).itertuples()
    assert row.chance == 1 / 8
    assert abs(row.first - row.chance) < 3.9 * (row.chance * (1 - row.chance) / 4000) ** 0.5
    assert row.low < row.chance < row.high
    assert row.nearest == row.first  # here the nearest is what is supported most


# -- of a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Tiny members of 60 digits in ten units, their labels; ten digits held out."""
    root = tmp_path_factory.mktemp("held-out") / "run"
    own = ["data.source.count=70", "data.holdout=10", "data.units=label", f"root={root}"]
    words = [word for word in TINY if word.partition("=")[0] not in ("data.source.count", "data.holdout")] + own
    for member in range(6):
        train.run(Run(composed(*words, f"member={member}"), words))
    return root


@pytest.mark.slow
def test_held_out_pictures_are_a_set_whose_own_units_are_placed(finished, ddattr):
    said = ddattr("attribute", str(finished), "queries.held_out=true", "tracking=none")
    assert said.status == 0, said.err
    folder = finished / "attribution" / HELD_OUT
    table, summary = (load_table(folder / f"{name}.csv") for name in ("retrieval", "retrieval_summary"))
    data = product.load(finished).data
    assert table.own.tolist() == known(data)["unit"].tolist()
    influence = load_table(folder / "influence.parquet")
    scores = influence[influence.method == "denoised_posterior"].pivot(index="unit", columns="query", values="score")
    for row in table.itertuples():
        assert (scores[row.query] > scores[row.query][row.own]).sum() == row.rank - 1
    first = int((table["rank"] == 1).sum())
    assert f"the own unit comes first for {first} of 10 queries" in said.out
    nearest = data.distance(data.held_out.images).argmin(0)
    assert table.nearest.tolist() == (nearest == known(data)["unit"]).tolist()
    assert f"(by the nearest alone {table.nearest.sum()}, by chance 1.0)" in said.out
    assert summary.chance.tolist() == [0.1]
    assert "attribute: already done" in ddattr("attribute", str(finished), "queries.held_out=true", "tracking=none").out


@pytest.mark.slow
def test_the_set_is_the_same_in_python_and_is_replayed_to_the_bit(finished, ddattr):
    found = product.load(finished).attribute(held_out=True)
    assert found.folder.name == HELD_OUT
    assert len(found.queries) == 10
    said = ddattr("replay", str(finished), f"artifact=attribution/{HELD_OUT}", "tracking=none")
    assert said.status == 0, said.out + said.err


def test_without_held_out_pictures_there_is_nothing_to_ask(trained, ddattr):
    said = ddattr("attribute", str(trained), "queries.held_out=true", "tracking=none")
    refused(said, "held_out=true, but no picture is held out", "data.holdout=30")


def test_held_out_beside_others_is_refused():
    with pytest.raises(ValueError, match=r"^queries: seeds and held_out, expected one of them"):
        QuerySet(seeds=[1], held_out=True)
    assert QuerySet(held_out=True).title == HELD_OUT
    assert not QuerySet(held_out=True).replayed
    assert QuerySet(held_out=True, invert=True).replayed
