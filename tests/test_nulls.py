"""Histograms of nulls: the phantoms that p counts, none lost."""

import numpy as np
import pytest
import torch

from ddattr.attribution.estimator import Estimator
from ddattr.attribution.nulls import BINS, LARGEST, WIDTH, histograms, nulls
from ddattr.attribution.significance import benjamini_hochberg, null_deviation
from ddattr.codebook import Codebook, contrast

CODE = Codebook(20, 12, 5)
CODEWORDS = CODE.codewords(torch.arange(20))
PHANTOMS = CODE.sample_phantoms(10**6)  # all 772
SEEDS = torch.tensor([4, 9, 11])


@pytest.fixture
def found():
    """What an estimator says of random answers of 20 units on three queries."""
    draw = torch.Generator().manual_seed(0)
    answers, distance = torch.randn(12, 20, 3, generator=draw), torch.rand(20, 3, generator=draw)
    return Estimator.of_distance(CODEWORDS, distance).estimate(answers.double())


def pairs(found):
    return lambda units, queries: found.adjusted[:, units, queries]


def test_every_phantom_is_in_the_bin_of_its_z(found):
    """numpy's histogram of the scores over their deviation; what lies outside -6 to 6 counts in the outermost bins."""
    answers = found.adjusted[:, :, 0]
    counts = histograms(answers, found.deviation[:, 0], PHANTOMS)
    edges = np.linspace(-WIDTH * BINS / 2, WIDTH * BINS / 2, BINS + 1)
    assert (edges[0], edges[-1]) == (-6, 6)
    z = -(contrast(PHANTOMS).double() @ answers / null_deviation(answers[:, None], CODEWORDS[:1])[0])
    for unit in range(20):
        expected, _ = np.histogram(z[:, unit].clamp(-6, 6).numpy(), edges)
        assert counts[unit].tolist() == expected.tolist()
    far = histograms(answers, found.deviation[:, 0] / 1e9, PHANTOMS)
    assert far[:, [0, -1]].sum(1).tolist() == [len(PHANTOMS)] * 20


def test_a_null_that_does_not_vary_is_all_at_0():
    counts = histograms(torch.ones(12, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), PHANTOMS)
    assert counts[0, BINS // 2] == len(PHANTOMS) == counts.sum()


@pytest.mark.parametrize("level", [1e-9, 0.9])
def test_rows_are_the_units_that_pass_and_those_of_largest_support(found, level):
    _, p = Estimator(CODEWORDS, torch.ones(20, 3)).test(found.adjusted)
    q = benjamini_hochberg(p)
    table = nulls(pairs(found), found.deviation, found.posterior, q, PHANTOMS, SEEDS, level)
    expected = {
        (int(SEEDS[query]), unit)
        for query in range(3)
        for unit in range(20)
        if q[unit, query] <= level or (found.posterior[:, query] > found.posterior[unit, query]).sum() < LARGEST
    }
    assert len(expected) == (36 if level < 0.5 else len(expected))
    assert set(zip(table["query"], table.unit, strict=True)) == expected
    assert len(table) == len(expected)
    assert table.counts.map(sum).eq(len(PHANTOMS)).all()


def test_the_histogram_has_the_phantoms_that_p_counts(found):
    """Beyond the bin of the score all, and in it none or some."""
    _, p = Estimator(CODEWORDS, torch.ones(20, 3)).test(found.adjusted)
    given = pairs(found), found.deviation, found.posterior, benjamini_hochberg(p)
    table = nulls(*given, PHANTOMS, SEEDS, 0.05)
    for row in table.itertuples():
        query = SEEDS.tolist().index(row.query)
        place = int(found.z[row.unit, query] // WIDTH) + BINS // 2
        above = p[row.unit, query] * (1 + len(PHANTOMS)) - 1
        assert sum(row.counts[place + 1 :]) <= round(float(above)) <= sum(row.counts[place:])
