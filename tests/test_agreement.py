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

from ddattr.attribution.agreement import (
    cosine,
    mean_interval,
    pearson,
    relative_error,
    share_interval,
    spearman,
    wilson,
)

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


@pytest.mark.parametrize("count", [6, 32])
def test_the_interval_covers_the_mean_of_normal_values(count):
    """1,000 samples: as often as a nominal 0.95, within 4 standard errors of 0.0069 and 0.005 for the correction of a
    skewness that is not there: false-alarm rate of both below 2e-4. Percentiles of a bootstrap cover 0.86 for six."""
    assert abs(coverage(randn(1000, count), 0.0) - 0.95) < 4 * 0.0069 + 0.005


@pytest.mark.parametrize("count", [6, 32])
def test_the_interval_covers_the_mean_of_skewed_values(count):
    """1,000 samples of exponential values, of skewness 2: 0.93 or more, less 3.5 standard errors of 0.0081, false-alarm
    rate of both below 5e-4. Student's t alone has 0.89 for six, the bootstrap 0.81."""
    assert coverage(-torch.special.log_ndtr(randn(1000, count).double()), 1.0) > 0.93 - 3.5 * 0.0081


def coverage(samples: torch.Tensor, truth: float) -> float:
    intervals = [mean_interval(values) for values in samples]
    return sum(low <= truth <= high for _, low, high in intervals) / len(intervals)


def test_without_skewness_it_is_student_s_interval():
    values = torch.tensor([1.0, 2.0, 4.0, 5.0])
    error = values.std().item() / 2
    expected = stats.t.interval(0.95, 3, loc=3.0, scale=error)
    assert mean_interval(values) == pytest.approx((3.0, *expected))


def test_a_bound_s_studentised_mean_maps_to_student_s_quantile():
    """Hall's map: t + a t^2 + a^2 t^3 / 3 + b, a = skewness / (3 root n), b = skewness / (6 root n)."""
    values = randn(12).exp()
    mean, low, high = mean_interval(values, 0.9)
    skewness = stats.skew(values.double().numpy()) / math.sqrt(12)
    error = values.double().std().item() / math.sqrt(12)
    for bound, expected in ((low, stats.t.ppf(0.95, 11)), (high, -stats.t.ppf(0.95, 11))):
        t = (mean - bound) / error
        assert t + skewness / 3 * t**2 + skewness**2 / 27 * t**3 + skewness / 6 == pytest.approx(expected)


def test_the_interval_moves_and_stretches_with_the_values():
    values = randn(9).exp().double()
    expected = [3 * number - 7 for number in mean_interval(values)]
    assert mean_interval(3 * values - 7) == pytest.approx(expected)
    mean, low, high = mean_interval(values)
    assert mean_interval(-values) == pytest.approx((-mean, -high, -low))


def test_a_higher_level_gives_a_wider_interval_around_the_mean():
    values = randn(30)
    intervals = [mean_interval(values, level=level) for level in (0.5, 0.9, 0.99)]
    for mean, low, high in intervals:
        assert low < mean < high
        assert mean == pytest.approx(values.double().mean().item())
    assert sorted(low for _, low, _ in intervals) == [low for _, low, _ in reversed(intervals)]
    assert sorted(high for *_, high in intervals) == [high for *_, high in intervals]


def test_nan_is_left_out_of_the_mean():
    values = randn(10)
    assert mean_interval(torch.cat([torch.tensor([torch.nan]), values])) == mean_interval(values)


def test_nothing_has_no_mean_and_one_value_no_interval():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(math.isnan(number) for number in mean_interval(torch.full((3,), torch.nan)))
        mean, low, high = mean_interval(torch.tensor([0.25]))
        assert mean == 0.25
        assert math.isnan(low)
        assert math.isnan(high)
        assert mean_interval(torch.full((6,), 0.25)) == (0.25, 0.25, 0.25)
        assert all(math.isnan(number) for number in share_interval(torch.full((3,), torch.nan)))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_shares_of_cases_have_wilson_s_interval_and_others_none_beyond_their_bounds(share):
    cases = (torch.arange(20) < 20 * share).double()
    assert share_interval(cases) == pytest.approx((share, *wilson(share, 20)))
    parts = torch.tensor([0.0, 0.01, 0.0, 0.3, 0.0, 0.02])
    mean, low, high = share_interval(parts)
    _, free, _ = mean_interval(parts)
    assert (mean, low) == (pytest.approx(0.055), max(0.0, free))
    assert share_interval(1 - parts) == pytest.approx((1 - mean, 1 - high, 1 - low))
