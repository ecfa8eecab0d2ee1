"""removal.csv: how far pictures move without the best units, and how far that was predicted."""

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from additive import PLAN, SEEDS, SHAPE, asked, members, network, study_of
from conftest import joint, row
from scipy import stats

from ddattr.validation.intervals import compared
from ddattr.validation.plan import Plan
from ddattr.validation.removal import best, removals
from ddattr.validation.study import Study
from ddattr.validation.tables.removal import _predicted, tables
from ddattr.validation.training import Training


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("queries", "known"), [(5, True), (4, False)])
def test_a_set_s_pull_is_predicted_by_as_much_as_ranks_agree_over_queries(queries, known):
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
    found = _predicted(table, 3)
    assert len(found) == 4
    for i, m in enumerate(("jvp", "pixel")):
        for j, s in enumerate((5, 20)):
            one = row(found, method=m, size=s, statistic="spearman_of_pull")
            first, truth = (torch.from_numpy(values[i, j, :, k : k + 1]) for k in (0, 1))
            mean, low, high = joint(first, truth, 3)
            assert one["mean"] == pytest.approx(mean)
            assert mean == pytest.approx(stats.spearmanr(first, truth).statistic)
            assert one.known == queries
            assert (one.low, one.high) == pytest.approx((low, high) if known else (float("nan"),) * 2, nan_ok=True)


@pytest.fixture
def make_study(make_process) -> Callable[..., Study]:
    """Linear denoisers of known effects: eight members, thirty units, three generated and two real queries."""

    def make(plan: Plan = PLAN, **given) -> Study:
        ensemble = members()
        return study_of(plan, asked(make_process(timestep_spacing="trailing"), ensemble), ensemble, **given)

    return make


def test_a_removal_is_how_far_the_picture_moves_and_how_far_that_was_predicted(make_study):
    """In pixels and in features; by the model of all units less the best, against that of all units."""
    study = make_study()
    study.answers.jacobian = randn(8, 3, *SHAPE).float()
    scores = {"jvp": randn(30, 3, seed=1), "pixel": randn(30, 3, seed=2)}
    study.removals = removals(scores, SEEDS, (5, 20))
    found = dict(tables(study))
    table, queries = found["removal"], study.answers.queries
    assert len(table) == 2 * 2 * 3
    for one in study.removals:
        q = SEEDS.index(one.query)
        mask = best(scores[one.method][:, q], one.size)
        before, after = (
            queries.drawn_by([network(model)])[q] for model in (PLAN.full(1), Training("", ~mask, None, 1))
        )
        this = row(table, method=one.method, size=one.size, query=one.query)
        assert this.l2 == pytest.approx(float((after - before).norm()), rel=1e-5)
        assert this.feature_distance == pytest.approx(
            float((after.clamp(-1, 1) - before.clamp(-1, 1)).norm()), rel=1e-5
        )
        expected = study.set_pull(mask, after - before, q)
        assert (this.pull_first_order, this.pull_retraining) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    expected = compared(table, ["method", "size"], ["l2", "feature_distance"])
    summary = found["removal_summary"]
    pd.testing.assert_frame_equal(summary[: len(expected)], expected)
    pd.testing.assert_frame_equal(summary[len(expected) :].reset_index(drop=True), _predicted(table, study.seed))


def test_without_removals_there_is_no_table_of_them(make_study):
    assert dict(tables(make_study())) == {}
