"""Intervals: means and paired differences, again from scipy or by the definition; joint ones that cover."""

import math

import pandas as pd
import pytest
import torch
from conftest import halves, joint, of_pearson, row
from scipy import stats

from ddattr.attribution.agreement import ENOUGH, mean_interval, pearson, spearman, wilson
from ddattr.validation.intervals import (
    bounds,
    compared,
    difference,
    lds_resamples,
    means,
    percentiles,
    pull_predicted,
)
from ddattr.validation.metrics import lds


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- means and differences


@pytest.mark.parametrize(("successes", "count"), [(0, 4), (3, 4), (8, 8), (17, 40)])
def test_wilson_s_interval_equals_scipy_s(successes, count):
    expected = stats.binomtest(successes, count).proportion_ci(method="wilson")
    assert wilson(successes / count, count) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("right", [0, 20])
def test_a_share_at_a_bound_has_an_interval_of_some_width(right):
    table = pd.DataFrame({"method": "jvp", "top1": [1.0] * right + [0.0] * (20 - right)})
    (found,) = means(table, ["method"], ["top1"]).itertuples()
    assert found.mean == right / 20
    assert (found.low, found.high) == pytest.approx(wilson(right / 20, 20))
    assert found.high - found.low == pytest.approx(0.161, abs=1e-3)


def test_a_difference_of_shares_is_no_share():
    """A method that is never worse than another has differences of 0 and 1: they are bootstrapped."""
    ours, theirs = [1.0] * 4 + [0.0] * 16, [0.0] * 20
    table = pd.concat(
        [
            pd.DataFrame({"method": method, "query": range(20), "top1": values})
            for method, values in (("dtrak", ours), ("jvp", theirs))
        ]
    )
    summary = compared(table, ["method"], ["top1"])
    share, difference = (row(summary, method="dtrak", statistic=name) for name in ("top1", "top1_less_jvp"))
    assert (share.low, share.high) == pytest.approx(wilson(0.2, 20))
    assert (difference["mean"], difference.low, difference.high) == pytest.approx(
        mean_interval(torch.tensor(ours, dtype=torch.float64))
    )


def test_methods_are_compared_query_by_query():
    """Queries of very different size, in another order for every method: their differences alone are narrow."""
    size = 10.0 ** torch.arange(6, dtype=torch.float64)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    table = pd.concat(
        [
            pd.DataFrame({"method": "jvp", "size": 5, "query": range(6), "l2": size}),
            pd.DataFrame({"method": "pixel", "size": 5, "query": order, "l2": size[order] + order}),
        ]
    )
    found = compared(table, ["method", "size"], ["l2"])
    assert set(zip(found.method, found.statistic, strict=True)) == {
        ("jvp", "l2"),
        ("pixel", "l2"),
        ("pixel", "l2_less_jvp"),
        ("jvp", "l2_less_pixel"),
    }
    difference = row(found, statistic="l2_less_jvp")
    mean, low, high = mean_interval(order.double())
    assert (difference["mean"], difference.low, difference.high) == pytest.approx((mean, low, high))
    assert difference["size"] == 5
    assert difference.high - difference.low < 1e-3 * (found.high - found.low)[0]
    other_way = row(found, statistic="l2_less_pixel")
    assert (other_way.method, other_way["mean"]) == ("jvp", pytest.approx(-mean))


def test_without_a_reference_there_are_the_means_alone():
    table = pd.DataFrame({"method": "random", "query": range(6), "l2": range(6)})
    pd.testing.assert_frame_equal(compared(table, ["method"], ["l2"]), means(table, ["method"], ["l2"]))


def test_means_are_of_every_column_within_every_group_and_know_what_is_missing():
    table = pd.DataFrame(
        {"method": ["b", "a"] * 10, "size": [5, 5, 20, 20] * 5, "l2": range(20), "pull": [1.0, None] * 10}
    )
    found = means(table, ["method", "size"], ["l2", "pull"])
    assert len(found) == 4 * 2
    for overall in found.itertuples():
        part = table[(table.method == overall.method) & (table["size"] == overall.size)]
        values = torch.tensor(part[overall.statistic].astype(float).tolist(), dtype=torch.float64)
        assert overall.known == part[overall.statistic].notna().sum() == (0 if values.isnan().all() else 5)
        assert (overall.mean, overall.low, overall.high) == pytest.approx(mean_interval(values), nan_ok=True)
    assert found[(found.method == "a") & (found.statistic == "pull")]["mean"].isna().all()
    assert found[found.statistic == "l2"].notna().all(axis=None)


@pytest.mark.parametrize("known", range(8))
def test_fewer_than_five_values_have_a_mean_and_no_interval(known):
    """Whatever else is missing."""
    values = [float(v) for v in range(known)] + [float("nan")] * (8 - known)
    (found,) = means(pd.DataFrame({"method": "jvp", "l2": values}), ["method"], ["l2"]).itertuples()
    assert ENOUGH == 5
    assert found.known == known
    assert found.mean == pytest.approx((known - 1) / 2 if known else float("nan"), nan_ok=True)
    if known < 5:
        assert pd.isna(found.low)
        assert pd.isna(found.high)
    else:
        assert found.low < found.mean < found.high


# -- of correlations, over rows and queries at once


@pytest.fixture
def case():
    """Scores of 12 units on 3 queries, targets that owe themselves to them in part, and 10 halves."""
    scores, subsets = randn(12, 3), halves(10, 12)
    return scores, subsets.double() @ scores + 2 * randn(10, 3, seed=1), subsets


@pytest.mark.parametrize("correlation", [pearson, spearman])
def test_a_joint_interval_is_of_its_correlation_s_mean_and_by_the_bootstrap_of_rows_and_columns(correlation):
    """Around the mean; of no rank where Pearson's is asked for."""
    x, y = randn(20, 6), randn(20, 6, seed=1) + randn(20, 6)
    mean, low, high = joint(x, y.exp(), 0, 300, correlation=correlation)
    assert mean == pytest.approx(correlation(x, y.exp()).mean().item())
    assert low < mean < high
    again = joint(x, y, 0, 300, correlation=correlation)
    assert (again == pytest.approx((mean, low, high))) == (correlation is spearman)


def interval(scores, targets, subsets, seed=0, resamples=500, level=0.95) -> tuple[float, float, float]:
    """As the tables have it."""
    found = lds_resamples(scores, targets, subsets, seed, resamples)
    return lds(scores, targets, subsets).nanmean().item(), *percentiles(found, level)


def test_the_interval_of_the_score_is_the_joint_one_of_the_sums(case):
    scores, targets, subsets = case
    sums = subsets.double() @ scores
    for seed, resamples, level in ((0, 500, 0.95), (3, 50, 0.5)):
        assert interval(*case, seed, resamples, level) == joint(sums, targets, seed, resamples, level)
        assert interval(*case, seed, resamples, level) == joint(sums, targets, seed, resamples, level, spearman)


def test_an_interval_over_queries_alone_does_not_cover_what_the_joint_one_does():
    """60 draws of 25 units whose scores and truths are the same on all 8 queries but for a little noise: of correlation
    0.5 over units that are drawn once for all queries. A nominal 0.95 covers that often, less 4 standard errors of
    0.028; over queries alone it covers less than half, and by chance more in fewer than 1 of 10^6."""
    both, alone, truth = 0, 0, 0.5 / 1.01
    for seed in range(60):
        one, noise = randn(25, 1, seed=4 * seed), randn(25, 1, seed=4 * seed + 1)
        x = one + 0.1 * randn(25, 8, seed=4 * seed + 2)
        y = 0.5 * one + 0.75**0.5 * noise + 0.1 * randn(25, 8, seed=4 * seed + 3)
        _, low, high = joint(x, y, seed, 100, correlation=pearson)
        both += low <= truth <= high
        _, low, high = mean_interval(pearson(x, y))
        alone += low <= truth <= high
    assert both / 60 > 0.95 - 4 * 0.028
    assert alone / 60 < 0.5


def test_the_interval_covers_the_score():
    """50 draws of 16 queries and 24 subsets of a score whose mean over all of them is known to 0.002. Resampling both
    at once is conservative (Owen 2007): a nominal 0.95 covers at least that, less 4 standard errors of 0.031."""
    truth, covered = of_pearson(0.5), 0
    for seed in range(50):
        scores, subsets = randn(30, 16, seed=3 * seed), halves(24, 30, seed=seed)
        sums = subsets.double() @ scores
        spread = (30 / 4 * 30 / 29 * scores.var(0)) ** 0.5
        targets = sums + spread * 3**0.5 * randn(24, 16, seed=3 * seed + 1)
        _, low, high = interval(scores, targets, subsets, seed, resamples=100)
        covered += low <= truth <= high
    assert covered / 50 > 0.95 - 4 * 0.031


def test_the_interval_narrows_with_subsets_and_with_queries():
    widths = []
    for subsets, queries in ((8, 8), (32, 8), (32, 32)):
        scores, masks = randn(30, queries), halves(subsets, 30)
        targets = masks.double() @ scores + 4 * randn(subsets, queries, seed=1)
        mean, low, high = interval(scores, targets, masks, resamples=200)
        assert -1 <= low < mean < high <= 1
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_the_interval_is_around_the_mean_score_has_an_address_and_a_level(case):
    assert interval(*case)[0] == pytest.approx(lds(*case).mean().item())
    assert interval(*case, seed=5) == interval(*case, seed=5)
    assert interval(*case, seed=5)[1:] != interval(*case, seed=5 + 2**32)[1:]
    narrow, wide = (interval(*case, level=level) for level in (0.5, 0.99))
    assert wide[1] < narrow[1] < narrow[2] < wide[2]


def test_a_query_without_a_score_is_left_out_of_the_mean(case):
    scores, targets, subsets = case
    one_less = torch.cat([scores, torch.zeros(12, 1, dtype=torch.float64)], 1)
    found = interval(one_less, torch.cat([targets, targets[:, :1]], 1), subsets)
    assert found[0] == pytest.approx(lds(*case).mean().item())
    assert all(math.isfinite(number) for number in found)


def test_four_subsets_have_no_interval(case):
    scores, targets, subsets = case
    with pytest.raises(
        ValueError, match=r"^lds: 4 subsets, expected at least 5 .* Set validation.lds_subsets higher\.$"
    ):
        interval(scores, targets[:4], subsets[:4])


@pytest.mark.parametrize("rows", [4, 5])
def test_fewer_than_five_rows_have_no_bounds(rows):
    resampled = randn(200)
    if rows < 5:
        assert all(math.isnan(bound) for bound in bounds(resampled, rows))
    else:
        assert bounds(resampled, rows) == percentiles(resampled)


def test_a_difference_is_of_paired_resamples():
    resampled = {("pull", "jvp"): randn(50), ("pull", "pixel"): randn(50, seed=1)}
    jvp, pixel = resampled
    assert difference(resampled, jvp, None) is resampled[jvp]
    assert torch.equal(difference(resampled, jvp, pixel), resampled[jvp] - resampled[pixel])


@pytest.mark.parametrize(("rows", "known"), [(5, True), (4, False)])
def test_a_set_s_pull_is_predicted_by_as_much_as_ranks_agree_over_rows(rows, known):
    """No interval of fewer than 5 rows; a query of which one side does not vary is left out of the mean."""
    first, truth = randn(rows, 3), randn(rows, 3, seed=1)
    found = pull_predicted(first, truth, 3)
    mean, low, high = joint(first, truth, 3)
    assert found["mean"] == pytest.approx(mean)
    assert mean == pytest.approx(sum(stats.spearmanr(first[:, q], truth[:, q]).statistic for q in range(3)) / 3)
    expected = (low, high) if known else (float("nan"),) * 2
    assert (found["low"], found["high"]) == pytest.approx(expected, nan_ok=True)
    still = torch.cat([truth, torch.ones(rows, 1, dtype=torch.float64)], 1)
    assert pull_predicted(torch.cat([first, first[:, :1]], 1), still, 3)["mean"] == pytest.approx(mean)
