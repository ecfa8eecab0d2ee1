"""Summaries: means, intervals and paired differences, again from scipy or by the definition."""

import pandas as pd
import pytest
import torch
from conftest import row
from scipy import stats

from ddattr.attribution.agreement import ENOUGH, bootstrap_mean
from ddattr.validation.lds import joint_interval
from ddattr.validation.summary import compared, foreseen, means, wilson


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("successes", "count"), [(0, 4), (3, 4), (8, 8), (17, 40)])
def test_wilson_s_interval_equals_scipy_s(successes, count):
    expected = stats.binomtest(successes, count).proportion_ci(method="wilson")
    assert wilson(successes / count, count) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("queries", "known"), [(5, True), (4, False)])
def test_a_set_s_pull_is_foreseen_by_as_much_as_ranks_agree_over_queries(queries, known):
    """Of every method and size its own; no interval of fewer than 5 queries."""
    values = randn(2, 2, queries, 2, seed=7).numpy()
    table = pd.DataFrame(
        [
            {"method": m, "size": s, "pull_first_order": values[i, j, q, 0], "pull_retraining": values[i, j, q, 1]}
            for i, m in enumerate(("jvp", "pixel"))
            for j, s in enumerate((5, 20))
            for q in range(queries)
        ]
    )
    found = foreseen(table, ["method", "size"], 3)
    assert len(found) == 4
    for i, m in enumerate(("jvp", "pixel")):
        for j, s in enumerate((5, 20)):
            one = row(found, method=m, size=s, statistic="spearman_of_pull")
            first, truth = (torch.from_numpy(values[i, j, :, k : k + 1]) for k in (0, 1))
            mean, low, high = joint_interval(first, truth, 3)
            assert one["mean"] == pytest.approx(mean)
            assert mean == pytest.approx(stats.spearmanr(first, truth).statistic)
            assert one.known == queries
            assert (one.low, one.high) == pytest.approx((low, high) if known else (float("nan"),) * 2, nan_ok=True)


@pytest.mark.parametrize("right", [0, 20])
def test_a_share_at_a_bound_has_an_interval_of_some_width(right):
    table = pd.DataFrame({"method": "jvp", "top1": [1.0] * right + [0.0] * (20 - right)})
    (found,) = means(table, ["method"], ["top1"], 0).itertuples()
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
    summary = compared(table, ["method"], ["top1"], 0)
    share, difference = (row(summary, method="dtrak", statistic=name) for name in ("top1", "top1_less_jvp"))
    assert (share.low, share.high) == pytest.approx(wilson(0.2, 20))
    assert (difference["mean"], difference.low, difference.high) == pytest.approx(
        bootstrap_mean(torch.tensor(ours, dtype=torch.float64), 0)
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
    found = compared(table, ["method", "size"], ["l2"], 0)
    assert set(zip(found.method, found.statistic, strict=True)) == {
        ("jvp", "l2"),
        ("pixel", "l2"),
        ("pixel", "l2_less_jvp"),
        ("jvp", "l2_less_pixel"),
    }
    difference = row(found, statistic="l2_less_jvp")
    mean, low, high = bootstrap_mean(order.double(), 0)
    assert (difference["mean"], difference.low, difference.high) == pytest.approx((mean, low, high))
    assert difference["size"] == 5
    assert difference.high - difference.low < 1e-3 * (found.high - found.low)[0]
    other_way = row(found, statistic="l2_less_pixel")
    assert (other_way.method, other_way["mean"]) == ("jvp", pytest.approx(-mean))


def test_without_a_reference_there_are_the_means_alone():
    table = pd.DataFrame({"method": "random", "query": range(6), "l2": range(6)})
    pd.testing.assert_frame_equal(compared(table, ["method"], ["l2"], 0), means(table, ["method"], ["l2"], 0))


def test_means_are_of_every_column_within_every_group_and_know_what_is_missing():
    table = pd.DataFrame(
        {"method": ["b", "a"] * 10, "size": [5, 5, 20, 20] * 5, "l2": range(20), "pull": [1.0, None] * 10}
    )
    found = means(table, ["method", "size"], ["l2", "pull"], 3)
    assert len(found) == 4 * 2
    for overall in found.itertuples():
        part = table[(table.method == overall.method) & (table["size"] == overall.size)]
        values = torch.tensor(part[overall.statistic].astype(float).tolist(), dtype=torch.float64)
        assert overall.known == part[overall.statistic].notna().sum() == (0 if values.isnan().all() else 5)
        assert (overall.mean, overall.low, overall.high) == pytest.approx(bootstrap_mean(values, 3), nan_ok=True)
    assert found[(found.method == "a") & (found.statistic == "pull")]["mean"].isna().all()
    assert found[found.statistic == "l2"].notna().all(axis=None)


@pytest.mark.parametrize("known", range(8))
def test_fewer_than_five_values_have_a_mean_and_no_interval(known):
    """Whatever else is missing."""
    values = [float(v) for v in range(known)] + [float("nan")] * (8 - known)
    (found,) = means(pd.DataFrame({"method": "jvp", "l2": values}), ["method"], ["l2"], 0).itertuples()
    assert ENOUGH == 5
    assert found.known == known
    assert found.mean == pytest.approx((known - 1) / 2 if known else float("nan"), nan_ok=True)
    if known < 5:
        assert pd.isna(found.low)
        assert pd.isna(found.high)
    else:
        assert found.low < found.mean < found.high
