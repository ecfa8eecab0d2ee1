"""agreement.csv: every number again, from scipy or by the definition, one query at a time."""

import pytest
import torch
from conftest import joint, row
from scipy import stats

from ddattr.attribution.agreement import mean_interval
from ddattr.attribution.influence import displacement_scores
from ddattr.validation.intervals import joint_resamples, percentiles
from ddattr.validation.metrics import reliability
from ddattr.validation.tables.agreement import CORRELATIONS, agreement_tables

SHAPE, QUERIES = (1, 2, 2), [4, 0, 9]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def retrained():
    """Displacements of 8 units at 3 seeds, alike but for noise; the methods' scores and displacements; the pictures."""
    truth = randn(8, 3, *SHAPE) + 0.5 * randn(3, 8, 3, *SHAPE, seed=1)
    factual, images = randn(3, *SHAPE, seed=2), randn(8, *SHAPE, seed=3)
    moved = {"jvp": truth.mean(0) + 0.3 * randn(8, 3, *SHAPE, seed=4)}
    scored = displacement_scores(moved["jvp"], factual, images)
    methods = {
        "pull": {"jvp": scored["pull"], "pixel": randn(8, 3, seed=5)},
        "norm": {"jvp": scored["norm"]},
    }
    return truth, methods, moved, factual, images, QUERIES, 0


def test_agreement_is_with_the_mean_over_seeds(retrained):
    truth, methods, moved, factual, images, *_ = retrained
    table, _ = agreement_tables(*retrained)
    assert len(table) == 3 * 3
    assert set(table.truth) == {"retraining"}
    mean = truth.mean(0)
    for measure, scores in methods.items():
        target = torch.stack([displacement_scores(one, factual, images)[measure] for one in truth]).mean(0)
        for method, score in scores.items():
            for q, query in enumerate(QUERIES):
                found = row(table, method=method, measure=measure, query=query)
                assert found.pearson == pytest.approx(stats.pearsonr(score[:, q], target[:, q]).statistic)
                assert found.spearman == pytest.approx(stats.spearmanr(score[:, q], target[:, q]).statistic)
                if method in moved:
                    missed = (moved[method] - mean)[:, q].norm() / mean[:, q].norm()
                    assert found.relative_error == pytest.approx(missed.item())


def test_a_method_without_displacements_has_no_cosine_and_no_error(retrained):
    table, summary = agreement_tables(*retrained)
    pixels = table[table.method == "pixel"]
    assert pixels[["cosine", "relative_error"]].isna().all(axis=None)
    assert pixels[["pearson", "spearman"]].notna().all(axis=None)
    assert set(summary[summary.method == "pixel"].statistic) == {"pearson", "spearman", "spearman_less_jvp"}


def test_the_truth_agrees_perfectly_with_itself(retrained):
    truth, _, _, factual, images, *rest = retrained
    once = truth[:1].expand(3, -1, -1, -1, -1, -1)
    methods = {measure: {"truth": score} for measure, score in displacement_scores(truth[0], factual, images).items()}
    table, summary = agreement_tables(once, methods, {"truth": truth[0]}, factual, images, *rest)
    for column in ("pearson", "spearman", "cosine"):
        assert table[column].tolist() == pytest.approx([1] * 6)
    assert table.relative_error.tolist() == pytest.approx([0] * 6, abs=1e-12)
    of_correlation = summary.statistic.isin(["pearson", "spearman"])
    assert summary[of_correlation].ceiling.tolist() == pytest.approx([1] * 4)
    assert summary[~of_correlation].ceiling.isna().all()


def test_the_ceiling_is_the_root_of_the_truth_s_reliability_in_the_same_correlation(retrained):
    """Of every measure and correlation its own; cosines and errors have none."""
    truth, _, _, factual, images, *_ = retrained
    _, summary = agreement_tables(*retrained)
    by_seed = [displacement_scores(one, factual, images) for one in truth]
    reached = {}
    for measure in ("pull", "norm"):
        replicates = torch.stack([one[measure] for one in by_seed])
        for name, correlation in CORRELATIONS.items():
            reached[measure, name] = reliability(replicates, correlation) ** 0.5
            part = summary[(summary.measure == measure) & (summary.statistic == name)]
            assert part.ceiling.tolist() == pytest.approx([reached[measure, name]] * len(part))
            assert part.reliability.tolist() == pytest.approx([reached[measure, name] ** 2] * len(part))
            assert len(part)
    assert len({round(value, 6) for value in reached.values()}) == 4
    assert summary[~summary.statistic.isin(CORRELATIONS)].ceiling.isna().all()


def test_correlations_are_corrected_for_the_ceiling_and_nothing_else_is(retrained):
    _, summary = agreement_tables(*retrained)
    of_correlation = summary.statistic.isin(["pearson", "spearman"])
    assert summary[~of_correlation].corrected.isna().all()
    kept = summary[of_correlation]
    assert (kept.corrected * kept.ceiling).tolist() == pytest.approx(kept["mean"].tolist())


def test_the_summary_s_means_are_over_queries_and_so_are_the_intervals_of_what_is_no_correlation(retrained):
    table, summary = agreement_tables(*retrained)
    alone = summary[~summary.statistic.str.contains("_less_")]
    assert set(alone.statistic) == {"pearson", "spearman", "cosine", "relative_error"}
    for found in alone.itertuples():
        part = table[(table.method == found.method) & (table.measure == found.measure)]
        values = torch.tensor(part[found.statistic].tolist(), dtype=torch.float64)
        mean, low, high = mean_interval(values)
        assert found.mean == pytest.approx(mean)
        if found.statistic not in CORRELATIONS:
            assert (found.low, found.high) == pytest.approx((low, high))
        assert found.queries == 3


def test_correlations_have_intervals_over_units_and_queries_at_once(retrained):
    """Each method, measure and correlation its own, at the seed of the tables."""
    truth, methods, moved, factual, images, queries, _ = retrained
    for seed in (0, 5):
        _, summary = agreement_tables(truth, methods, moved, factual, images, queries, seed)
        intervals = set()
        for measure, scores in methods.items():
            target = torch.stack([displacement_scores(one, factual, images)[measure] for one in truth]).mean(0)
            for method, score in scores.items():
                for name, correlation in CORRELATIONS.items():
                    found = row(summary, method=method, measure=measure, statistic=name)
                    expected = joint(score, target, seed, correlation=correlation)
                    assert (found["mean"], found.low, found.high) == pytest.approx(expected)
                    intervals.add((found.low, found.high))
        assert len(intervals) == 6


def test_a_method_s_correlation_is_compared_with_a_reference_s_on_the_same_resamples(retrained):
    """Of every measure that has the reference: here pixels have no norm, and nobody D-TRAK."""
    truth, methods, _, factual, images, *_ = retrained
    table, summary = agreement_tables(*retrained)
    less = summary[summary.statistic.str.contains("_less_")]
    named = [(found.measure, found.method, found.statistic) for found in less.itertuples()]
    assert named == [("pull", "pixel", "spearman_less_jvp"), ("pull", "jvp", "spearman_less_pixel")]
    target = torch.stack([displacement_scores(one, factual, images)["pull"] for one in truth]).mean(0)
    one, other = (joint_resamples(methods["pull"][m], target, 0) for m in ("pixel", "jvp"))
    wide = table[table.measure == "pull"].pivot(index="query", columns="method", values="spearman")
    found = row(summary, measure="pull", method="pixel", statistic="spearman_less_jvp")
    assert found["mean"] == pytest.approx((wide.pixel - wide.jvp).mean())
    assert (found.low, found.high) == pytest.approx(percentiles(one - other))
    assert found.queries == 3


@pytest.mark.parametrize(("units", "known"), [(4, False), (5, True)])
def test_correlations_over_fewer_than_5_units_have_no_interval(retrained, units, known):
    """Nor have their differences; what is no correlation keeps the one over queries."""
    truth, methods, moved, factual, images, *rest = retrained
    few = {measure: {m: s[:units] for m, s in scores.items()} for measure, scores in methods.items()}
    given = truth[:, :units], few, {m: d[:units] for m, d in moved.items()}, factual, images[:units], *rest
    _, summary = agreement_tables(*given)
    of_units = summary.statistic.str.contains("pearson|spearman")
    assert (summary[of_units][["low", "high"]].notna() == known).all(axis=None)
    assert summary[~of_units][["low", "high"]].notna().all(axis=None)


def test_units_that_are_the_same_for_all_queries_do_not_make_an_interval_narrow(retrained):
    """Queries that are copies of one are no further evidence."""
    truth, methods, moved, factual, *rest = retrained
    one = [0, 0, 0]
    copied = {measure: {m: s[:, one] for m, s in scores.items()} for measure, scores in methods.items()}
    given = truth[:, :, one], copied, {m: d[:, one] for m, d in moved.items()}, factual[one], *rest
    _, summary = agreement_tables(*given)
    kept = summary[summary.statistic.isin(CORRELATIONS) & (summary.method == "pixel")]
    assert (kept.high - kept.low > 0.1).all()


def test_one_seed_has_no_ceiling_and_noise_one_of_0(retrained):
    truth, *rest = retrained
    _, alone = agreement_tables(truth[:1], *rest)
    assert alone.ceiling.isna().all()
    assert alone.corrected.isna().all()
    _, opposed = agreement_tables(torch.stack([truth[0], -truth[0]]), *rest)
    pull = opposed[(opposed.measure == "pull") & opposed.statistic.isin(CORRELATIONS)]
    assert (pull.ceiling == 0).all()
    assert pull.corrected.isna().all()


def test_one_unreliable_query_does_not_take_away_the_ceiling_of_the_others(retrained):
    """It counts as its correlation, no less than -1/2 for three seeds: with two perfect queries the mean is 1/2 or
    more, and the reliability 3/4. Query by query, stepped up, it would count as -1."""
    truth, methods, moved, factual, *rest = retrained
    truth = truth[:1].repeat(3, 1, 1, 1, 1, 1)
    lengths = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [4, 3, 7, 5, 6, 0, 1, 2], [3, 6, 7, 1, 0, 5, 2, 4]]) + 1
    truth[:, :, 0] = lengths[..., None, None, None].double()
    _, summary = agreement_tables(truth, methods, moved, factual, *rest)
    pairs = [stats.spearmanr(lengths[a], lengths[b]).statistic for a, b in ((0, 1), (0, 2), (1, 2))]
    r = (6 + sum(pairs)) / 9
    found = row(summary, measure="norm", method="jvp", statistic="spearman")
    assert sum(pairs) < 0
    assert found.ceiling == pytest.approx((3 * r / (1 + 2 * r)) ** 0.5)
    norms = summary[(summary.measure == "norm") & summary.statistic.isin(CORRELATIONS)]
    assert (norms.ceiling >= 0.75**0.5).all()
