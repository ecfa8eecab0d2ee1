"""groups.csv, sets.csv, discoveries.csv: every number again, from scipy or by the definition, one query at a time."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
import torch
from additive import EFFECTS, LABELS, PLAN, SEEDS, SHAPE, asked, members, network, study_of
from additive import randn as single
from conftest import joint, row
from scipy import stats
from torch import nn

from ddattr.attribution.agreement import spearman
from ddattr.attribution.methods import Family, keys
from ddattr.codebook import contrast
from ddattr.validation.intervals import joint_resamples, percentiles
from ddattr.validation.metrics import ndcg, top_one
from ddattr.validation.plan import Plan
from ddattr.validation.study import Study
from ddattr.validation.tables.groups import Case, group_tables, tables
from ddattr.validation.training import Training

QUERIES = [4, 0, 9]
NAMES = {"generated": QUERIES, "real": [0, 1]}
SIMILARITY = keys(Family.SIMILARITY)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def left_out():
    """Cases of groups 2, 3, 5 and 7, each of three units, on generated and real queries."""
    group_of = torch.tensor([2, 3, 5, 7] * 3)
    scores = {"jvp": randn(12, 3), "pixel": randn(12, 3, seed=1)}
    effects = randn(2, 4, 3, seed=2).abs()  # removal hurts
    real = {method: score[:, :2].flip(0) for method, score in scores.items()}
    return [
        Case("loss", "generated", scores, effects, own := randn(4, 3, seed=3)),
        Case("loss", "real", real, effects[..., :2], own[:, :2]),
    ], group_of


def test_groups_are_held_against_the_mean_effect_of_leaving_them_out(left_out):
    cases, group_of = left_out
    table, summary = group_tables(cases, group_of, NAMES, 0)
    assert len(table) == 3 * (3 + 2)  # leaving each out is among the methods
    for case in cases:
        name, scores, effects = case.name, case.scores, case.effects
        for method, score in scores.items():
            summed, effect = torch.stack([score[group_of == g].sum(0) for g in (2, 3, 5, 7)]), effects.mean(0)
            gains = ndcg(summed, effect)
            for q, query in enumerate(NAMES[name["queries"]]):
                found = row(table, **name, method=method, query=query)
                assert found.top1 == float(summed[:, q].argmax() == effect[:, q].argmax())
                assert found.ndcg3 == pytest.approx(gains[q].item())
                assert found.spearman == pytest.approx(stats.spearmanr(summed[:, q], effect[:, q]).statistic)
            part = table[(table.method == method) & (table.queries == name["queries"])]
            for statistic in ("top1", "ndcg3", "spearman"):
                found = row(summary, **name, method=method, statistic=statistic)
                assert found["mean"] == pytest.approx(part[statistic].mean())


def test_correlations_over_groups_have_intervals_over_groups_and_queries_at_once():
    """The effects of 12 groups, and scores that err by group and not by query: over queries alone there is no doubt."""
    effect, error = randn(12, 1).expand(-1, 20), randn(12, 1, seed=1)
    scores = {"jvp": effect + error, "pixel": effect - error}
    queries = {"generated": list(range(20))}
    table, summary = group_tables(
        [Case("loss", "generated", scores, effect[None], effect)], torch.arange(12), queries, 3
    )
    low, high = {}, {}
    for method, score in scores.items():
        found = row(summary, method=method, statistic="spearman")
        assert (found["mean"], found.low, found.high) == pytest.approx(joint(score, effect, 3))
        assert found.high - found.low > 0.1
        low[method], high[method] = found.low, found.high
    found = row(summary, method="pixel", statistic="spearman_less_jvp")
    values = table.groupby("method").spearman.mean()
    assert found["mean"] == pytest.approx(values.pixel - values.jvp)
    assert low["pixel"] - high["jvp"] < found.low < found["mean"] < found.high < high["pixel"] - low["jvp"]
    paired = joint_resamples(scores["pixel"], effect, 3) - joint_resamples(scores["jvp"], effect, 3)
    assert (found.low, found.high) == pytest.approx(percentiles(paired))
    found = row(summary, method="jvp", statistic="spearman_less_pixel")
    assert (found.low, found.high) == pytest.approx(percentiles(-paired))


def test_few_groups_have_no_interval_however_many_queries():
    scores, effects = {"jvp": randn(4, 20)}, randn(1, 4, 20, seed=1)
    queries = {"generated": list(range(20))}
    _, summary = group_tables(
        [Case("loss", "generated", scores, effects, randn(4, 20, seed=2))], torch.arange(4), queries, 0
    )
    found = row(summary, method="jvp", statistic="spearman")
    assert found.known == 20
    assert pd.isna(found.low)
    assert pd.isna(found.high)
    assert summary[summary.statistic.isin(["top1", "ndcg3"])][["low", "high"]].notna().all(axis=None)


def test_the_summary_of_groups_tells_generated_from_real_queries(left_out):
    """By the name that the figure selects by."""
    cases, group_of = left_out
    _, summary = group_tables(cases, group_of, NAMES, 0)
    assert set(summary.queries) == {"generated", "real"}


def test_a_method_that_knows_the_effect_names_every_group(left_out):
    (case, _), group_of = left_out
    effects = case.effects.mean(0, keepdim=True)
    known = effects[0][(group_of.unique() == group_of[:, None]).int().argmax(1)] / 3
    table, _ = group_tables([Case("loss", "generated", {"oracle": known}, effects, effects[0])], group_of, NAMES, 0)
    assert (table.top1 == 1).all()
    assert table.ndcg3.tolist() == pytest.approx([1] * 6)  # and so does leaving each out, at a seed that has the same
    assert table.spearman.tolist() == pytest.approx([1] * 6)


def test_leaving_each_out_is_a_method_and_its_score_the_effect_at_a_seed_that_the_truth_has_not(left_out):
    cases, group_of = left_out
    for case in cases:
        as_a_score = case.own[(group_of.unique() == group_of[:, None]).int().argmax(1)] / 3
        both = case._replace(scores={"jvp": as_a_score})
        table, summary = group_tables([both], group_of, NAMES, 0)
        one, other = (table[table.method == method].reset_index() for method in ("jvp", "leave_one_out"))
        columns = ["query", "top1", "ndcg3", "spearman"]
        pd.testing.assert_frame_equal(one[columns], other[columns])
        assert row(summary, method="leave_one_out", statistic="spearman_less_jvp")["mean"] == pytest.approx(0)


def test_what_a_seed_in_common_gives_is_the_agreement_with_it_less_that_with_the_others(left_out):
    cases, group_of = left_out
    table, summary = group_tables(cases[:1], group_of, NAMES, 0)
    case = cases[0]
    summed = torch.stack([case.scores["jvp"][group_of == g].sum(0) for g in (2, 3, 5, 7)])
    for q, query in enumerate(QUERIES):
        apart = [stats.spearmanr(summed[:, q], effect[:, q]).statistic for effect in case.effects]
        expected = stats.spearmanr(summed[:, q], case.own[:, q]).statistic - sum(apart) / 2
        assert row(table, method="jvp", query=query).shared_seed == pytest.approx(expected)
    part = table[table.method == "jvp"]
    assert row(summary, method="jvp", statistic="shared_seed")["mean"] == pytest.approx(part.shared_seed.mean())
    assert table[table.method == "leave_one_out"].shared_seed.isna().all()


def test_the_ceiling_is_of_seeds_that_agree_and_one_seed_has_none(left_out):
    case, group_of = left_out[0][0], left_out[1]
    for count, expected in ((3, 1.0), (1, float("nan"))):
        agreeing = case._replace(effects=case.effects[:1].expand(count, -1, -1))
        _, summary = group_tables([agreeing], group_of, NAMES, 0)
        found = row(summary, method="jvp", statistic="spearman")
        assert [found.reliability, found.ceiling] == pytest.approx([expected] * 2, nan_ok=True)
        assert found.corrected == pytest.approx(found["mean"] * expected, nan_ok=True)
    assert summary[summary.statistic != "spearman"].ceiling.isna().all()


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


@pytest.fixture
def scores() -> dict[str, dict[str, torch.Tensor]]:
    methods = (*SIMILARITY, "jvp", "loss")
    return {
        kind: {m: single(30, q, seed=i + 20 * q).double() for i, m in enumerate(methods)}
        for kind, q in (("generated", 3), ("real", 2))
    }


def test_similarities_of_groups_are_centred_over_units_and_signed_scores_are_not(study, scores):
    """Against the losses of the models that were trained without each group."""
    study.scores = scores
    table = dict(tables(study))["groups"]
    plan, queries = study.plan, study.answers.queries
    effects = []
    for r in (1, 2):
        without = [network(Training("", label != LABELS, None, r)) for label in range(3)]
        effects.append(queries.losses(without) - queries.losses([network(plan.full(r))]))
    effect = torch.stack(effects).mean(0)
    for kind, where in queries.kinds().items():
        for method, score in scores[kind].items():
            zeroed = score - score.mean(0) if method in ("pixel", "random", "feature") else score
            summed = torch.stack([zeroed[label == LABELS].sum(0) for label in range(3)])
            part = table[(table.target == "loss") & (table.queries == kind) & (table.method == method)]
            assert part.spearman.tolist() == pytest.approx(spearman(summed, effect[:, where]).tolist())
            assert part.top1.tolist() == top_one(summed, effect[:, where]).tolist()


def test_a_constant_in_a_similarity_does_not_make_the_largest_group_win(study, scores):
    """It has no zero; a signed score has one, and 20 units that support are more than 4."""
    moved = {kind: {method: score + 100 for method, score in of.items()} for kind, of in scores.items()}
    one, other = (dict(tables(replace(study, scores=given)))["groups"] for given in (scores, moved))
    alike = one.method.isin(SIMILARITY)
    columns = ["top1", "ndcg3", "spearman"]
    assert one[alike][columns].to_numpy() == pytest.approx(other[alike][columns].to_numpy(), nan_ok=True)
    assert not torch.equal(*(torch.tensor(t[~alike].spearman.tolist()) for t in (one, other)))


def test_the_first_order_of_a_whole_group_is_held_against_retraining_without_it(study, scores):
    """One step moves by the group's summed effects; a Jacobian that predicts them exactly agrees for every query."""
    (step,) = study.answers.queries.reverse
    lost = torch.stack([EFFECTS[1:, label == LABELS].sum(1) for label in range(3)], 1)  # (seeds, groups, 4)
    expected = (-step.b * lost)[:, :, None].expand(-1, -1, 3, -1).reshape(2, 3, 3, *SHAPE)
    torch.testing.assert_close(study.truth.group_displacements, expected, rtol=1e-4, atol=1e-4)
    weights = torch.stack([contrast(study.answers.codewords[label == LABELS]).sum(0) for label in range(3)])
    predicted = torch.linalg.pinv(weights) @ expected.mean(0).flatten(1)
    study.answers.jacobian = predicted.reshape(8, 3, *SHAPE)
    study.scores = scores
    found = dict(tables(study))
    table, summary = found["sets"], found["sets_summary"]
    assert table.pull_first_order.tolist() == pytest.approx(table.pull_retraining.tolist(), rel=1e-3, abs=1e-4)
    assert summary["mean"].tolist() == pytest.approx([1.0])
    assert table.groupby("set")["size"].first().tolist() == [20, 6, 4]
    study.answers.jacobian = -study.answers.jacobian
    assert dict(tables(study))["sets_summary"]["mean"].tolist() == pytest.approx([-1.0])


def test_groups_pull_by_their_displacement_toward_their_mean_image(study, scores):
    """And move by its length; at either seed, and in the mean of both."""
    images = torch.stack([study.answers.data.unit_images[label == LABELS].mean(0) for label in range(3)])
    toward = nn.functional.normalize((images[:, None] - study.answers.queries.factual).flatten(2), dim=-1)
    moved = study.truth.group_displacements.flatten(3)
    effects = {"pull": -(moved * toward).sum(-1), "distance": moved.norm(dim=-1)}
    study.scores = scores
    table = dict(tables(study))["groups"]
    for target, by_seed in effects.items():
        part = table[table.target == target].set_index(["method", "query"])
        summed = torch.stack([scores["generated"]["jvp"][label == LABELS].sum(0) for label in range(3)])
        expected = spearman(summed, by_seed.mean(0).double()).tolist()
        assert part.spearman["jvp"][SEEDS].tolist() == pytest.approx(expected)
        left_out = study.truth.without_groups(0).flatten(2)
        own = {"pull": -(left_out * toward).sum(-1), "distance": left_out.norm(dim=-1)}[target]
        again = spearman(own.double(), by_seed.mean(0).double())
        assert part.spearman["leave_one_out"][SEEDS].tolist() == pytest.approx(again.tolist())


def test_units_that_are_found_are_held_against_those_that_are_not(make_study, scores):
    """By what retraining without each does, in the mean of both seeds; by the method that is tested, at the level."""
    study = make_study(replace(PLAN, groups="unit"))
    study.scores, level = scores, study.answers.settings.level
    q = {"denoised_gls": single(30, 3, seed=5).double().abs() / 10, "jvp_gls": torch.ones(30, 3)}
    q["denoised_gls"][:, 1] = 1.0  # of the second query nothing is found
    q["denoised_gls"][3, 0] = level
    study.answers.influence = pd.DataFrame(
        [
            {"unit": unit, "query": query, "method": method, "measure": "pull", "q_value": float(values[unit, k])}
            for method, values in q.items()
            for k, query in enumerate(SEEDS)
            for unit in range(30)
        ]
    )
    toward = nn.functional.normalize(
        (study.answers.data.unit_images[:, None] - study.answers.queries.factual).flatten(2), dim=-1
    )
    pull = -(study.truth.group_displacements.mean(0).flatten(2) * toward).sum(-1)
    found = dict(tables(study))
    table, summary = found["discoveries"], found["discoveries_summary"]
    for k, (query, this) in enumerate(table.set_index("query").iterrows()):
        assert query == SEEDS[k]
        passed = q["denoised_gls"][:, k] <= level
        assert this.units_found == passed.sum()
        for side, of in (("found", pull[passed, k]), ("others", pull[~passed, k])):
            assert this[f"pull_{side}"] == pytest.approx(of.mean().item(), nan_ok=True)
            assert this[f"above_0_{side}"] == pytest.approx((of > 0).double().mean().item(), nan_ok=True)
    assert 0 < table.units_found[0] < 30
    assert table.units_found[1] == 0
    assert table.pull_found.isna().tolist() == [False, True, False]
    means = summary.set_index("statistic")
    assert means["mean"]["pull_found"] == pytest.approx(table.pull_found.mean())
    assert means.known["pull_found"] == 2
    assert set(means.method) == {"denoised_gls"}


def test_of_some_groups_the_tables_have_what_those_of_all_have(make_study, scores):
    """Groups that are not left out are in no table; a query's row is that of its columns of all."""
    study, some = (make_study(replace(PLAN, groups="unit", left_out=count)) for count in (None, 9))
    names = some.plan.group_names()
    for one in (study, some):
        one.scores = scores
        one.answers.influence = pd.DataFrame(
            [
                {"unit": unit, "query": query, "method": "denoised_gls", "measure": "pull", "q_value": unit % 2}
                for query in SEEDS
                for unit in range(30)
            ]
        )
    torch.testing.assert_close(some.truth.group_displacements, study.truth.group_displacements[:, names])
    found = dict(tables(some))
    table = found["groups"].query("target == 'loss' and queries == 'generated' and method == 'jvp'").set_index("query")
    score = scores["generated"]["jvp"][names]
    effect = some.truth.group_losses.mean(0)[:, some.answers.queries.kinds()["generated"]]
    assert table.spearman[SEEDS].tolist() == pytest.approx(spearman(score, effect).tolist())
    assert found["sets"].set.unique().tolist() == [f"unit:{name}" for name in names]
    assert (found["discoveries"].units_found == sum(name % 2 == 0 for name in names)).all()


def test_what_is_not_left_out_at_the_members_seed_is_no_method(make_study, scores):
    """Nothing else moves, no model of that seed is trained or asked, and what a seed in common gives is not known."""
    whole, less = make_study(), make_study(replace(PLAN, leave_one_out=False))
    whole.scores = less.scores = scores
    assert {m.name for m in whole.plan.models()} - {m.name for m in less.plan.models()} == {
        m.name for m in PLAN.group_models(0)
    }
    table, expected = (dict(tables(study))["groups"] for study in (less, whole))
    assert table.shared_seed.isna().all()
    others = expected[expected.method != "leave_one_out"].reset_index(drop=True)
    pd.testing.assert_frame_equal(table.drop(columns="shared_seed"), others.drop(columns="shared_seed"))
    assert all(name.endswith(("seed-1", "seed-2")) for name in less.truth._pictures)


def test_groups_leave_the_scores_as_they_are(study, scores):
    before = {kind: {method: score.clone() for method, score in of.items()} for kind, of in scores.items()}
    study.scores = scores
    dict(tables(study))
    assert all(torch.equal(score, before[kind][m]) for kind, of in scores.items() for m, score in of.items())


def test_without_groups_there_is_no_table_of_them_and_discoveries_are_of_single_units(make_study, scores):
    assert dict(tables(make_study(replace(PLAN, groups=None)))) == {}
    found = dict(tables(replace(make_study(), scores=scores)))
    assert list(found) == ["groups", "groups_summary", "sets", "sets_summary"]
