"""Sets that are scored after the fact: every unit once, and neighbourhoods that hold one another."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from ddattr.attribution.sets import neighbourhoods, sets_of


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=12), st.integers(1, 3))
def test_the_sets_of_a_partition_hold_every_unit_once_for_every_query(partition, queries):
    of = torch.tensor(partition)
    names, sets = sets_of(of, queries)
    assert names == sorted(set(partition))
    assert sets.shape == (len(names), queries, max(partition.count(name) for name in names))
    for name, held in zip(names, sets, strict=True):
        for units in held:
            assert units[units >= 0].tolist() == [unit for unit, which in enumerate(partition) if which == name]
            assert (units[partition.count(name) :] == -1).all()  # padding is behind


def test_neighbourhoods_are_the_most_similar_units_of_every_query_each_inside_the_next():
    similarity = torch.rand(9, 4, generator=torch.Generator().manual_seed(0))
    sizes, sets = neighbourhoods(similarity, (1, 3, 5))
    assert sizes == [1, 3, 5]
    assert sets.shape == (3, 4, 5)
    for size, held in zip(sizes, sets, strict=True):
        for q, units in enumerate(held):
            assert set(units[:size].tolist()) == set(similarity[:, q].topk(size).indices.tolist())
            assert (units[size:] == -1).all()
    for small, large in itertools.pairwise(sets):
        for q in range(4):
            assert set(small[q].tolist()) - {-1} < set(large[q].tolist())


def test_neighbourhoods_that_there_are_too_few_units_for_are_left_out():
    sizes, sets = neighbourhoods(torch.rand(4, 2), (1, 4, 5, 100))
    assert sizes == [1, 4]
    assert sets.shape == (2, 2, 4)


def test_neighbourhoods_come_as_they_are_wanted():
    sizes, sets = neighbourhoods(torch.arange(4.0)[:, None], (3, 1))
    assert sizes == [3, 1]
    assert sets[:, 0].tolist() == [[3, 2, 1], [3, -1, -1]]
