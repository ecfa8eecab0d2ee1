"""A seeded permutation of any range, and the order of words: bijections, exact at every size."""

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from ddattr.permutation import permute, unrank

SEEDS = st.sampled_from([0, 1, 2**32, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)


def values(bits: np.ndarray) -> list[int]:
    """Words as integers."""
    return [sum(1 << k for k, bit in enumerate(row) if bit) for row in bits.tolist()]


@given(st.integers(1, 300), SEEDS)
def test_permute_is_a_bijection(size, key):
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


@given(st.integers(2**63 - 2, 2**1024), SEEDS, st.data())
def test_permute_is_distinct_and_inside_on_any_part_of_a_range_that_64_bits_cannot_count(size, key, data):
    start = data.draw(st.just(0) | st.integers(0, size - 20))
    image = permute(np.array([start + i for i in range(20)], object), size, key).tolist()
    assert len(set(image)) == 20
    assert all(0 <= value < size for value in image)


@given(st.integers(1, 300) | st.integers(2**63 + 1, 2**300), st.lists(SEEDS, min_size=1, max_size=4))
def test_permute_broadcasts_index_and_key(size, keys):
    keys, asked = np.array(keys, np.uint64), min(size, 300)
    table = permute(np.arange(asked), size, keys[:, None])
    assert table.shape == (len(keys), asked)
    for row, key in zip(table, keys, strict=True):
        assert np.array_equal(row, permute(np.arange(asked), size, int(key)))
    assert int(permute(np.array(asked - 1), size, int(keys[0]))) == table[0, -1]


@pytest.mark.parametrize("size", [2**63 + 1, 3 * 2**70, comb(256, 114)])
def test_permute_is_uniform_over_indices_and_over_keys_beyond_64_bits(size):
    """Chi-square over 16 equal parts of the range; false-alarm rate 1e-3 for each of the 4 cases."""
    for image in (permute(np.arange(4000), size, 0), permute(np.array(1), size, np.arange(4000))):
        parts = [16 * value // size for value in image.tolist()]
        assert chisquare(np.bincount(parts, minlength=16)).pvalue > 1e-3


@pytest.mark.parametrize("size", [2, 5, 20, 100])
@pytest.mark.parametrize("index", [0, 1])
def test_permute_maps_an_index_uniformly_over_keys(size, index):
    """Chi-square; false-alarm rate 1e-3 for each of the 8 cases."""
    image = permute(np.array(index), size, np.arange(200 * size))
    assert chisquare(np.bincount(image.astype(np.int64), minlength=size)).pvalue > 1e-3


@pytest.mark.parametrize("size", [6, 20])
def test_permute_maps_pairs_uniformly_over_keys(size):
    """Chi-square over the ordered pairs of distinct images; false-alarm rate 1e-3 for each of the 2 cases."""
    first, second = permute(np.array([[0], [1]]), size, np.arange(100 * size**2)).astype(np.int64)
    counts = np.bincount(first * size + second, minlength=size**2).reshape(size, size)
    assert (counts.diagonal() == 0).all()
    assert chisquare(counts[~np.eye(size, dtype=bool)]).pvalue > 1e-3


@pytest.mark.parametrize("members", range(2, 11))
def test_unrank_enumerates_the_combinations_in_order(members):
    for weight in range(1, members):
        expected = sorted(sum(1 << k for k in ones) for ones in itertools.combinations(range(members), weight))
        assert values(unrank(np.arange(comb(members, weight)), members, weight)) == expected


@given(st.integers(2, 64) | st.integers(65, 300) | st.just(1024), st.data())
def test_unrank_is_the_inverse_of_the_combinatorial_number_system(members, data):
    weight = data.draw(st.integers(1, members - 1))
    last = comb(members, weight) - 1
    rank = data.draw(st.integers(0, last) | st.integers(max(0, last - 3), last))
    bits = unrank(np.array([rank], object), members, weight)
    assert bits.shape == (1, members)
    ones = bits[0].nonzero()[0].tolist()
    assert len(ones) == weight
    assert sum(comb(k, place + 1) for place, k in enumerate(ones)) == rank


def test_unrank_reaches_the_last_words_of_64_bits():
    last = comb(64, 32) - 1
    top = unrank(np.array([last - 1, last], np.uint64), 64, 32)
    assert values(top) == [(1 << 64) - (1 << 33) + (1 << 31), (1 << 64) - (1 << 32)]


@given(st.integers(65, 300), st.data())
def test_unrank_keeps_the_order_of_ranks(members, data):
    weight = data.draw(st.integers(1, members - 1))
    ranks = data.draw(st.lists(st.integers(0, comb(members, weight) - 1), min_size=2, unique=True).map(sorted))
    found = values(unrank(np.array(ranks, object), members, weight))
    assert found == sorted(found)
    assert len(set(found)) == len(ranks)


@pytest.mark.parametrize("members", [64, 66, 67, 70])
def test_unrank_of_words_and_of_integers_agree(members):
    """A word with a 0 on top is a word of one bit less: across the switch to Python's integers too."""
    rank = np.array([0, 1, 12345, comb(60, 30) - 1], np.uint64)
    bits = unrank(rank, members, 30)
    assert np.array_equal(bits[:, :60], unrank(rank, 60, 30))
    assert not bits[:, 60:].any()


def test_unrank_leaves_its_argument_alone():
    rank = np.arange(10, dtype=np.uint64)
    unrank(rank, 5, 2)
    assert rank.tolist() == list(range(10))
