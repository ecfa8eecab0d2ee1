"""lds.csv: every number again, from scipy or by the definition, one query at a time."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from additive import PLAN, asked, members, study_of
from conftest import joint, row
from scipy import stats

from ddattr.attribution.agreement import spearman
from ddattr.validation.intervals import lds_resamples, percentiles
from ddattr.validation.metrics import ceiling, lds, reliability
from ddattr.validation.plan import Plan
from ddattr.validation.study import Study
from ddattr.validation.tables.lds import Case, lds_tables, tables

NAMES = {"generated": [4, 0, 9], "real": [0, 1]}
MASKS = torch.rand(10, 12, generator=torch.Generator().manual_seed(0)) < 0.5


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def halved():
    """LDS cases on generated and real queries."""
    scores = {"jvp": randn(12, 3), "pixel": randn(12, 3, seed=1)}
    targets = MASKS.double() @ scores["jvp"] + randn(10, 3, seed=2) + 0.5 * randn(2, 10, 3, seed=3)
    real = {method: score[:, :2] for method, score in scores.items()}
    return [
        Case("transfer", "loss", "generated", scores, targets, MASKS),
        Case("transfer", "loss", "real", real, 7 * targets[:1, :, :2], MASKS),
    ]


def test_every_lds_is_that_of_its_query(halved):
    table, summary = lds_tables(halved, NAMES, 0)
    assert len(table) == 2 * 3 + 2 * 2
    for case in halved:
        name, (scores, targets, masks) = case.name, case[3:]
        for method, score in scores.items():
            sums = masks.double() @ score
            for q, query in enumerate(NAMES[name["queries"]]):
                found = row(table, **name, method=method, query=query)
                assert found.lds == pytest.approx(stats.spearmanr(sums[:, q], targets.mean(0)[:, q]).statistic)
            overall = row(summary, **name, method=method, statistic="lds")
            assert (overall["mean"], overall.low, overall.high) == pytest.approx(joint(sums, targets.mean(0)))
            assert (overall.subsets, overall.seeds) == (10, len(targets))


def test_the_lds_s_ceiling_is_that_of_its_targets_and_the_same_for_all_methods(halved):
    _, summary = lds_tables(halved, NAMES, 0)
    scores = summary[summary.statistic == "lds"]
    generated, real = (scores[scores.queries == kind] for kind in ("generated", "real"))
    expected = ceiling(halved[0].targets, spearman)
    assert generated.ceiling.tolist() == pytest.approx([expected] * 2)
    assert 0 < expected < 1
    assert generated.reliability.tolist() == pytest.approx([reliability(halved[0].targets)] * 2)
    assert (generated.corrected * expected).tolist() == pytest.approx(generated["mean"].tolist())
    assert real[["reliability", "ceiling", "corrected"]].isna().all(axis=None)  # of one seed
    assert summary[summary.statistic != "lds"][["reliability", "ceiling", "corrected"]].isna().all(axis=None)


def test_lds_of_two_methods_are_compared_on_the_same_resamples(halved):
    """Query by query, less a reference that is there: an interval far narrower than of what is not paired."""
    scores, targets, masks = halved[0][3:]
    scores = {**scores, "like": scores["jvp"] + 0.01 * randn(12, 3, seed=9)}
    _, summary = lds_tables([halved[0]._replace(scores=scores)], NAMES, 4)
    assert set(summary.statistic) == {"lds", "lds_less_jvp", "lds_less_pixel"}
    for other in ("jvp", "pixel"):
        rows = summary[summary.statistic == f"lds_less_{other}"]
        assert set(rows.method) == set(scores) - {other}
        for found in rows.itertuples():
            one, two = (lds(scores[m], targets.mean(0), masks) for m in (found.method, other))
            assert found.mean == pytest.approx((one - two).mean().item())
            one, two = (lds_resamples(scores[m], targets.mean(0), masks, 4) for m in (found.method, other))
            assert (found.low, found.high) == pytest.approx(percentiles(one - two))
    alike, apart = row(summary, method="like", statistic="lds_less_jvp"), row(summary, method="like", statistic="lds")
    assert alike.high - alike.low < 0.3 * (apart.high - apart.low)


# -- of a whole study


@pytest.fixture
def make_study(make_process) -> Callable[..., Study]:
    """Linear denoisers of known effects: eight members, thirty units, three generated and two real queries."""

    def make(plan: Plan = PLAN, **given) -> Study:
        ensemble = members()
        return study_of(plan, asked(make_process(timestep_spacing="trailing"), ensemble), ensemble, **given)

    return make


@pytest.fixture
def study(make_study) -> Study:
    return make_study()


def test_an_oracle_is_the_best_of_what_a_peer_tried_on_the_targets_of_the_lds(study):
    """On the loss of either kind of query, by mean LDS; no other target has one."""
    tried, masks = randn(6, 30, 5, seed=1), study.plan.half_masks()[: study.plan.lds_subsets]
    scores = {kind: {"loss": randn(30, count)} for kind, count in (("generated", 3), ("real", 2))}
    study.scores = scores | {"tried": {"trak": tried}}
    summary = dict(tables(study))["lds_summary"]
    found = summary[(summary.method == "trak_oracle") & (summary.statistic == "lds")].set_index("queries")
    assert set(found.kind + found.target) == {"transferloss"}
    for kind, where in study.answers.queries.kinds().items():
        target = study.truth.half_targets["loss"][..., where].mean(0)
        reached = [lds(each[:, where], target, masks).mean().item() for each in tried]
        assert len(set(reached)) == 6
        assert found["mean"][kind] == pytest.approx(max(reached))


def test_the_self_lds_is_of_sets_that_are_removed_by_weights(make_study):
    """Minus the exact displacement, and the rise of the loss under these weights: of all queries that have a score."""
    study = make_study(replace(PLAN, lds_subsets=20))
    answers = study.answers
    answers.jacobian = answers.queries.jacobian(list(answers.ensemble.members), None)
    study.scores = {kind: {"loss": randn(30, count)} for kind, count in (("generated", 3), ("real", 2))}
    table = dict(tables(study))["lds"].query("kind == 'self'")
    found = answers.reweighted
    picture = row_of(table, "picture", "generated")
    assert picture == pytest.approx(lds(found.first_order, found.exact, found.removed).tolist())
    rise = torch.stack([torch.einsum("n,qnm,m->q", w, answers.gram, w) for w in found.weights.double()])
    for kind, where in answers.queries.kinds().items():
        expected = lds(study.scores[kind]["loss"], rise[:, where], found.removed)
        assert row_of(table, "loss", kind) == pytest.approx(expected.tolist())


def row_of(table, target: str, queries: str) -> list[float]:
    return table[(table.target == target) & (table.queries == queries)].lds.tolist()


def test_without_subsets_there_is_no_lds(make_study):
    assert dict(tables(make_study(replace(PLAN, lds_subsets=0)))) == {}
