"""Agreement: parity with scipy, and an interval that covers."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ddattr.attribution.agreement import bootstrap_mean, cosine, pearson, relative_error, spearman

TABLES = arrays(np.float64, st.tuples(st.integers(3, 12), st.just(2)), elements=st.integers(-4, 4).map(float))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(TABLES)
def test_correlations_equal_scipy_s_with_ties(table):
    assume((table != table[0]).any(0).all())
    x, y = torch.from_numpy(table).split(1, dim=1)
    torch.testing.assert_close(pearson(x, y).item(), stats.pearsonr(*table.T).statistic)
    torch.testing.assert_close(spearman(x, y).item(), stats.spearmanr(*table.T).statistic)


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_every_query_has_its_own_correlation(correlation):
    x, y = randn(20, 3), randn(20, 3, seed=1)
    alone = [correlation(x[:, q : q + 1], y[:, q : q + 1]) for q in range(3)]
    torch.testing.assert_close(correlation(x, y), torch.cat(alone))


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_correlation_is_symmetric_and_blind_to_scale_and_shift(correlation):
    x, y = randn(20, 3), randn(20, 3, seed=1)
    torch.testing.assert_close(correlation(x, y), correlation(y, x))
    torch.testing.assert_close(correlation(3 * x - 7, y), correlation(x, y), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(correlation(-x, y), -correlation(x, y))
    torch.testing.assert_close(correlation(x, x), torch.ones(3, dtype=torch.float64))


def test_spearman_is_blind_to_increasing_maps():
    x, y = randn(20, 3), randn(20, 3, seed=1)
    assert torch.equal(spearman(x.exp(), y), spearman(x, y))


@pytest.mark.parametrize("correlation", [pearson, spearman])
@given(value=st.floats(-1e3, 1e3), units=st.integers(2, 30))
def test_a_side_that_does_not_vary_has_no_correlation(correlation, value, units):
    constant = torch.full((units, 1), value, dtype=torch.float64)
    varied = randn(units, 1).double()
    assert correlation(constant, varied).isnan().all()
    assert correlation(varied, constant).isnan().all()


def test_cosine_is_the_mean_over_units():
    x, y = randn(5, 2, 1, 3, 3), randn(5, 2, 1, 3, 3, seed=1)
    expected = [
        sum((x[i, q] * y[i, q]).sum() / (x[i, q].norm() * y[i, q].norm()) for i in range(5)) / 5 for q in range(2)
    ]
    torch.testing.assert_close(cosine(x, y), torch.stack(expected))
    torch.testing.assert_close(cosine(x, 3 * x), torch.ones(2))
    torch.testing.assert_close(cosine(x, -x), -torch.ones(2))


def test_relative_error_is_the_length_of_the_difference_over_that_of_the_truth():
    x, y = randn(5, 2, 1, 3, 3), randn(5, 2, 1, 3, 3, seed=1)
    expected = [(x[:, q] - y[:, q]).norm() / y[:, q].norm() for q in range(2)]
    torch.testing.assert_close(relative_error(x, y), torch.stack(expected))
    torch.testing.assert_close(relative_error(torch.zeros_like(y), y), torch.ones(2))
    assert (relative_error(y, y) == 0).all()
    torch.testing.assert_close(relative_error(1.25 * y, y), torch.full((2,), 0.25))


def test_the_bootstrap_interval_covers_the_mean():
    """400 samples of 40 normal values: nominal 0.95; the percentile interval is narrower by sqrt(39 / 40) and normal
    instead of t, so 0.937. Within 4 standard errors of 0.012: false-alarm rate 6e-5."""
    covered = 0
    for seed in range(400):
        _, low, high = bootstrap_mean(randn(40, seed=seed), seed, resamples=400)
        covered += low <= 0 <= high
    assert abs(covered / 400 - 0.937) < 4 * 0.012


def test_the_bootstrap_interval_is_that_of_scipy():
    """Both resample 20,000 times: each bound within 4 Monte-Carlo standard errors, about 0.03 of the mean's own."""
    values = randn(30).exp()
    _, low, high = bootstrap_mean(values, resamples=20_000)
    theirs = stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    error = 4 * 0.03 * values.std().item() / math.sqrt(30)
    assert abs(low - theirs.low) < error
    assert abs(high - theirs.high) < error


def test_the_bootstrap_has_an_address():
    values = randn(30)
    assert bootstrap_mean(values, 0) == bootstrap_mean(values, 0)
    assert bootstrap_mean(values, 5)[1:] != bootstrap_mean(values, 5 + 2**32)[1:]


def test_a_higher_level_gives_a_wider_interval_around_the_mean():
    values = randn(30)
    intervals = [bootstrap_mean(values, level=level) for level in (0.5, 0.9, 0.99)]
    for mean, low, high in intervals:
        assert low < mean < high
        assert mean == pytest.approx(values.double().mean().item())
    assert sorted(low for _, low, _ in intervals) == [low for _, low, _ in reversed(intervals)]
    assert sorted(high for *_, high in intervals) == [high for *_, high in intervals]


def test_nan_is_left_out_of_the_bootstrap():
    values = randn(10)
    assert bootstrap_mean(torch.cat([torch.tensor([torch.nan]), values])) == bootstrap_mean(values)


def test_nothing_has_no_mean_and_one_value_no_spread():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(math.isnan(number) for number in bootstrap_mean(torch.full((3,), torch.nan)))
        assert bootstrap_mean(torch.tensor([0.25])) == (0.25, 0.25, 0.25)
