"""The noise ceiling: how reliable the mean over training seeds is."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ddattr.attribution.agreement import pearson, spearman
from ddattr.validation.ceiling import ceiling, reliability


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("correlation", "by_scipy"), [(spearman, stats.spearmanr), (pearson, stats.pearsonr)], ids=["spearman", "pearson"]
)
@pytest.mark.parametrize("count", [2, 4])
def test_reliability_is_the_mean_correlation_over_queries_and_pairs_of_seeds_stepped_up(count, correlation, by_scipy):
    """Against scipy: first the mean, then the step, for one value a truth."""
    replicates = randn(20, 3) + randn(count, 20, 3, seed=1)
    pairs = [(a, b) for a in range(count) for b in range(a)]
    each = [by_scipy(replicates[a, :, q], replicates[b, :, q]).statistic for a, b in pairs for q in range(3)]
    r = sum(each) / len(each)
    found = reliability(replicates, correlation)
    assert isinstance(found, float)
    assert found == pytest.approx(count * r / (1 + (count - 1) * r))
    assert ceiling(replicates, correlation) == pytest.approx(found**0.5)
    stepped = [
        count * r / (1 + (count - 1) * r) for r in (sum(each[q::3]) / len(pairs) for q in range(3))
    ]  # query by query
    assert abs(found - sum(stepped) / 3) > 1e-4


def test_reliability_is_by_ranks_unless_told_otherwise():
    replicates = (randn(20, 3) + randn(3, 20, 3, seed=1)).exp()
    assert reliability(replicates) == reliability(replicates, spearman) == pytest.approx(reliability(replicates.log()))
    assert reliability(replicates, pearson) != pytest.approx(reliability(replicates.log(), pearson), abs=1e-3)
    assert ceiling(replicates) == ceiling(replicates, spearman) != ceiling(replicates, pearson)


@pytest.mark.parametrize(("correlation", "bias"), [(pearson, 0.0), (spearman, 0.01)], ids=["pearson", "spearman"])
@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_reliability_is_how_far_two_means_agree(seeds, correlation, bias):
    """Two sets of seeds over 4,000 units, signal and noise of equal size; correlations within 4.7 of their standard
    errors of 0.016, and the stepping up, which is exact for Pearson's, errs by less than 0.01 for Spearman's."""
    signal = randn(4000, 1)
    one, other = (signal + randn(seeds, 4000, 1, seed=s) for s in (1, 2))
    agreed = correlation(one.mean(0), other.mean(0)).item()
    assert reliability(one, correlation) == pytest.approx(agreed, abs=4.7 * 0.016 + bias)


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_the_ceiling_is_how_far_the_signal_itself_agrees_with_the_mean_of_the_seeds(seeds):
    """4,000 units, signal and noise of equal size. The signal's correlation is known to 0.016 at most, and so is that
    of the seeds, of which the root's error is no larger: within 4.7 of the two together."""
    signal = randn(4000, 1)
    replicates = signal + randn(seeds, 4000, 1, seed=1)
    reached = pearson(signal, replicates.mean(0)).item()
    assert reached == pytest.approx((seeds / (seeds + 1)) ** 0.5, abs=4.7 * 0.016)
    assert ceiling(replicates, pearson) == pytest.approx(reached, abs=4.7 * 0.016 * 2**0.5)


def test_a_noisy_query_weighs_as_much_as_its_correlation_and_not_as_its_step():
    """Stepping up query by query would give a query of correlation near -1 / (R - 1) any weight at all: here two seeds
    of three agree, and oppose the third, so that its mean correlation is -1/3 and its own reliability -1."""
    perfect = randn(1, 10, 3).expand(3, -1, -1)
    opposed = randn(1, 10, 1, seed=1) * torch.tensor([1.0, 1.0, -1.0]).double()[:, None, None]
    assert reliability(opposed) == -1
    r = (3 * 1 - 1 / 3) / 4
    assert reliability(torch.cat([perfect, opposed], 2)) == pytest.approx(3 * r / (1 + 2 * r))


def test_identical_seeds_are_perfectly_reliable_and_one_seed_says_nothing():
    once = randn(1, 10, 2)
    assert reliability(once.expand(3, -1, -1)) == pytest.approx(1)
    assert ceiling(once.expand(3, -1, -1)) == pytest.approx(1)
    assert math.isnan(reliability(once))
    assert math.isnan(ceiling(once))


def test_seeds_that_oppose_each_other_have_a_ceiling_of_0():
    once = randn(1, 10, 2)
    opposed = torch.cat([once, -once])
    assert reliability(opposed) == -1
    assert ceiling(opposed) == 0


@given(st.integers(2, 5), st.integers(3, 6), st.integers(0, 10**6), st.sampled_from([pearson, spearman]))
def test_reliability_is_a_correlation(seeds, units, seed, correlation):
    """Between -1 and 1, whatever the seeds say; its root is a ceiling between 0 and 1."""
    replicates = randn(seeds, units, 2, seed=seed)
    assert abs(reliability(replicates, correlation)) <= 1 + 1e-12
    assert ceiling(replicates, correlation) == pytest.approx(max(0, reliability(replicates, correlation)) ** 0.5)


def test_a_seed_that_does_not_vary_on_a_query_is_left_out_of_the_mean():
    """Of one query the pair of the other two seeds remains, of the other query all three."""
    replicates = randn(1, 10, 2) + randn(3, 10, 2, seed=1)
    replicates[1, :, 0] = 7.0
    pairs = [(0, 2, 0), (0, 1, 1), (0, 2, 1), (1, 2, 1)]
    r = sum(stats.spearmanr(replicates[a, :, q], replicates[b, :, q]).statistic for a, b, q in pairs) / 4
    assert reliability(replicates) == pytest.approx(3 * r / (1 + 2 * r))


@pytest.mark.parametrize("seeds", [2, 3])
def test_where_no_seed_varies_there_is_no_reliability(seeds):
    constant = torch.ones(seeds, 10, 2, dtype=torch.float64)
    assert math.isnan(reliability(constant))
    assert math.isnan(ceiling(constant))
