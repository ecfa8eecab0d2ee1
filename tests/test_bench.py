"""What the bench and its tables make of models: linear denoisers in which every unit has an effect that is known."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pandas as pd
import pytest
import torch
from conftest import LinearDenoiser
from ddattr.validation.bench import Bench
from ddattr.validation.groups import top_one
from ddattr.validation.growth import growth
from ddattr.validation.lds import lds
from ddattr.validation.measurement import Measurement
from ddattr.validation.methods import IN_PART, IN_PART_BESIDE_ONE, SIMILARITY
from ddattr.validation.part import Part
from ddattr.validation.retraining import Training, Validation
from torch import nn

from ddattr.attribution.agreement import spearman
from ddattr.attribution.baselines import pixel
from ddattr.attribution.datamodel import subset_means
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.gls import LeaveOneOutGLS
from ddattr.attribution.influence import Response, gram, norm, projections, pull, similarity
from ddattr.attribution.loss import loss_change, residual_gram
from ddattr.attribution.posterior import measured
from ddattr.attribution.power import expected_power
from ddattr.attribution.significance import norm_significance, set_significance
from ddattr.codebook import Codebook, contrast
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.diffusion.sampler import DDPM
from ddattr.ensemble.ensemble import Ensemble
from ddattr.meter import Meter
from ddattr.validation import measures, proof, tables
from ddattr.validation.scores import datamodels, of_part

SHAPE, SEEDS = (1, 2, 2), [4, 0, 9]
BOOK = Codebook(30, 8, 3)
LABELS = torch.tensor([0] * 20 + [1] * 6 + [2] * 4)  # groups of unequal size


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


EFFECTS = randn(2, 30, 4, seed=7)  # of every unit, at either training seed


def network(model: Training) -> LinearDenoiser:
    """A member's own matrix, and in its constant the effects of the units that it saw."""
    member = 8 if model.member is None else model.member
    seen = model.units.float() @ EFFECTS[model.replicate]
    return LinearDenoiser(0.3 * randn(4, 4, seed=member), randn(4, seed=100 + member) + seen)


@pytest.fixture
def ensemble() -> Ensemble:
    return Ensemble([network(Training("", BOOK.subset(k), k)) for k in range(8)])


@pytest.fixture
def queries(make_process, ensemble) -> Measurement:
    """Three generated and two real queries, on a sampler of one step."""
    process = make_process(timestep_spacing="trailing")
    reverse = DDPM(1).reverse(process)
    factual = ensemble.pictures(ensemble.uniform[None], SEEDS, reverse, SHAPE)[0]
    return Measurement(process, reverse, SEEDS, factual, randn(2, *SHAPE), 4, seed=0)


@pytest.fixture
def plan() -> Validation:
    return Validation(BOOK, {"label": LABELS}, 0, units=12, members=5, replicates=2, removed=(5,))


@pytest.fixture
def make_bench(queries, ensemble) -> Callable[[Validation], Bench]:
    """A bench of 30 pictures, a unit each."""
    data = UnitDataModule(Source(randn(30, *SHAPE, seed=1), LABELS), clusters=3)

    def make(plan: Validation) -> Bench:
        return Bench(
            plan, queries, data, ensemble, network, pd.DataFrame(), *torch.zeros(2, 8, 3, *SHAPE), nn.Flatten()
        )

    return make


@pytest.mark.parametrize("forked", [False, True])
def test_the_truth_is_what_a_unit_does_whatever_the_truth_s_members_that_saw_it(plan, queries, make_bench, forked):
    """Of five members one to five saw a unit; were it removed from the 3 of 8 that see every unit of the whole
    ensemble, one step would move by 3/8 of its effect. At every seed."""
    if forked:
        plan = Validation(
            BOOK, {"label": LABELS}, 0, units=12, members=5, replicates=2, removed=(5,), fork=Fraction(1, 4)
        )
    saw = BOOK.codewords(plan.truth_units)[:, plan.truth_members].sum(1)
    assert len(saw.unique()) > 1
    (step,) = queries.reverse
    moved = -3 / 8 * step.b * EFFECTS[:, plan.truth_units]
    expected = moved[:, :, None].expand(-1, -1, 3, -1).reshape(2, 12, 3, *SHAPE)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(make_bench(plan).truth, expected, rtol=1e-4, atol=1e-4)


def test_the_truth_of_all_members_is_not_scaled(queries, ensemble, make_bench):
    """All units were seen by the usual number: the displacement is that of the pictures themselves."""
    plan = Validation(BOOK, {"label": LABELS}, 0, units=5, members=8, replicates=1, removed=(5,))
    for unit, found in zip(plan.truth_units.tolist(), make_bench(plan).truth[0], strict=True):
        changed = {model.member: network(model) for model in plan.unit(unit)}
        assert len(changed) == 3
        pictures = queries.pictures([changed.get(k, ensemble.members[k]) for k in range(8)])
        torch.testing.assert_close(found, pictures - queries.factual)


@pytest.fixture
def bench(plan, make_bench) -> Bench:
    return make_bench(plan)


def test_real_pictures_have_the_power_that_generated_ones_like_them_have(plan, queries, make_bench, ensemble):
    """Of the measures that need no tape: the same pictures, once real, once as if the ensemble had made them."""
    swapped = replace(queries, factual=queries.real, real=queries.real[:0], seeds=[5, 6])
    bench, other = make_bench(plan), replace(make_bench(plan), queries=swapped, response=torch.zeros(8, 2, *SHAPE))
    other.denoised = swapped.denoised(ensemble, swapped.factual)
    index = ["queries", "measure", "weighting", "background"]
    found, expected = (proof.power_of_measures(one).set_index(index).sort_index() for one in (bench, other))
    measured = {kind: set(found.loc[kind].index.get_level_values("measure")) for kind in ("generated", "real")}
    any_picture = {"denoised", "denoised_toward", "denoised_norm", "loss"}
    assert measured == {
        "generated": any_picture | {"pixel", "pixel_own", "feature", "region", "norm"},
        "real": any_picture,
    }
    real = found.loc["real"]
    pd.testing.assert_frame_equal(expected.loc["generated"].loc[real.index], real)
    assert (real != found.loc["generated"].loc[real.index]).any(axis=None)


def test_power_is_of_the_set_that_most_of_the_ten_nearest_have_and_of_every_length_by_its_name(bench, monkeypatch):
    """Labels by nearness to the first picture are such that fewer than ten, or more, would say another."""
    labels, own = torch.zeros(30, dtype=torch.long), []
    alike = pixel(bench.queries.factual, bench.data.unit_images)
    labels[alike[:, 0].argsort(descending=True)[:12]] = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 1, 1])
    bench.data = UnitDataModule(Source(bench.data.images, labels), clusters=3)
    bench.response, bench.denoised = randn(2, 8, 3, *SHAPE, seed=4)
    monkeypatch.setattr(measures, "power", lambda *given: (own.append(given[3]), pd.DataFrame())[1])
    table = proof.power_of_measures(bench).query("queries == 'generated'").set_index("measure")
    assert own[0]["label"][0] == 2

    null, nearest = BOOK.sample_phantoms(bench.phantoms, bench.seed), (alike.argmax(0), torch.arange(3))
    for name, response in (("norm", bench.response), ("denoised_norm", bench.denoised)):
        z, _ = norm_significance(*(norm(gram(response), codewords) for codewords in (bench.codewords, null)))
        assert table.z_nearest[name] == pytest.approx(z[nearest].mean().item())


def test_members_at_a_peer_s_cost_score_any_picture_as_an_ensemble_of_theirs(plan, queries, make_bench, ensemble):
    """Five of eight, tuned on four halves: what is generated, or real, from these members' own answers alone. Four,
    where the model of all units is asked for gradients, too."""
    bench, meter = make_bench(replace(plan, tuning=4)), Meter()
    units, features = randn(30, 6, seed=11), randn(5, 6, seed=12)
    for where in queries.kinds().values():
        pictures, expected = queries.asked[where], {}
        given = {"features": (units, features[where]), "trak": (units.exp(), features[where].exp())}
        for size in (5, 4):
            part = Part.draw(size, bench.codewords, bench.seed)
            few = Ensemble([ensemble.members[k] for k in part.members.tolist()])
            gram = residual_gram(few, queries.process, pictures, queries.times, queries.noise)
            scored = datamodels(-gram.diagonal(dim1=1, dim2=2).T, part.bits, given)
            scored |= of_part(
                part, queries.denoised(few, pictures), gram, pictures, bench.data.unit_images, bench.background
            )
            methods = IN_PART if size == 5 else IN_PART_BESIDE_ONE
            expected |= {f"{method}@{size}": scored[method] for method in methods}
        found = bench.scores_of_part(pictures, given, meter)
        assert set(found) == set(expected)
        assert all(torch.equal(found[method], score) for method, score in expected.items())
        del given["trak"]
        assert set(bench.scores_of_part(pictures, given, Meter())) == {f"{method}@5" for method in IN_PART}
    assert set(meter.seconds) == set(meter.memory_mb) == set(expected)
    assert all(value > 0 for value in (*meter.seconds.values(), *meter.memory_mb.values()))


def test_the_random_control_of_false_attribution_is_never_the_nearest_unit_itself(plan, queries, make_bench):
    """Of three units one is the nearest, and either other one is drawn about as often: not all 40 times the same, but
    for a chance of 2^-39."""
    bench = make_bench(plan)
    bench.queries = replace(queries, seeds=list(range(40)), factual=randn(40, *SHAPE, seed=3))
    bench.data = UnitDataModule(Source(randn(3, *SHAPE, seed=1), LABELS[:3]))
    table, _ = proof.false_attribution(bench)
    wide = table.pivot(index="query", columns="removed", values="unit")
    assert (wide["random"] != wide["nearest"]).all()
    assert set((wide["random"] - wide["nearest"]) % 3) == {1, 2}


@pytest.fixture
def scores() -> dict[str, dict[str, torch.Tensor]]:
    methods = (*SIMILARITY, "jvp", "loss")
    return {
        kind: {m: randn(30, q, seed=i + 20 * q).double() for i, m in enumerate(methods)}
        for kind, q in (("generated", 3), ("real", 2))
    }


def test_similarities_of_groups_are_centred_over_units_and_signed_scores_are_not(bench, scores):
    """Against the losses of the models that were trained without each group."""
    table, _ = tables.groups(bench, scores)
    plan, queries = bench.plan, bench.queries
    effects = []
    for r in range(2):
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


def test_a_constant_in_a_similarity_does_not_make_the_largest_group_win(bench, scores):
    """It has no zero; a signed score has one, and 20 units that support are more than 4."""
    moved = {kind: {method: score + 100 for method, score in of.items()} for kind, of in scores.items()}
    one, other = (tables.groups(bench, given)[0] for given in (scores, moved))
    alike = one.method.isin(SIMILARITY)
    columns = ["top1", "ndcg3", "spearman"]
    assert one[alike][columns].to_numpy() == pytest.approx(other[alike][columns].to_numpy(), nan_ok=True)
    assert not torch.equal(*(torch.tensor(t[~alike].spearman.tolist()) for t in (one, other)))


def test_the_first_order_of_a_whole_group_is_held_against_retraining_without_it(bench):
    """One step moves by the group's summed effects; a Jacobian that foresees them exactly agrees for every query."""
    (step,) = bench.queries.reverse
    lost = torch.stack([EFFECTS[:, label == LABELS].sum(1) for label in range(3)], 1)  # (seeds, groups, 4)
    expected = (-step.b * lost)[:, :, None].expand(-1, -1, 3, -1).reshape(2, 3, 3, *SHAPE)
    torch.testing.assert_close(bench.groups_truth, expected, rtol=1e-4, atol=1e-4)
    weights = torch.stack([contrast(bench.codewords[label == LABELS]).sum(0) for label in range(3)])
    foreseen = torch.linalg.pinv(weights) @ expected.mean(0).flatten(1)
    bench.response = foreseen.reshape(8, 3, *SHAPE)
    table, summary = tables.sets(bench)
    assert table.pull_first_order.tolist() == pytest.approx(table.pull_retraining.tolist(), rel=1e-3, abs=1e-4)
    assert summary["mean"].tolist() == pytest.approx([1.0])
    assert table.groupby("set")["size"].first().tolist() == [20, 6, 4]
    bench.response = -bench.response
    assert tables.sets(bench)[1]["mean"].tolist() == pytest.approx([-1.0])


def test_groups_pull_by_their_displacement_toward_their_mean_image(bench, scores):
    """And move by its length; at either seed, and in the mean of both."""
    images = torch.stack([bench.data.unit_images[label == LABELS].mean(0) for label in range(3)])
    toward = nn.functional.normalize((images[:, None] - bench.queries.factual).flatten(2), dim=-1)
    moved = bench.groups_truth.flatten(3)
    effects = {"pull": -(moved * toward).sum(-1), "distance": moved.norm(dim=-1)}
    table, _ = tables.groups(bench, scores)
    for target, by_seed in effects.items():
        part = table[table.target == target].set_index(["method", "query"])
        summed = torch.stack([scores["generated"]["jvp"][label == LABELS].sum(0) for label in range(3)])
        expected = spearman(summed, by_seed.mean(0).double()).tolist()
        assert part.spearman["jvp"][SEEDS].tolist() == pytest.approx(expected)
        again = (spearman(by_seed[0], by_seed[1]) + spearman(by_seed[1], by_seed[0])) / 2
        assert part.spearman["another_seed"][SEEDS].tolist() == pytest.approx(again.tolist())


def test_an_oracle_is_the_best_of_what_a_peer_tried_on_the_targets_of_the_lds(bench):
    """On the loss of either kind of query, by mean LDS; no other target has one."""
    tried, masks = randn(6, 30, 5, seed=1), bench.plan.half_masks()[: bench.plan.halves]
    scores = {kind: {"loss": randn(30, count)} for kind, count in (("generated", 3), ("real", 2))}
    _, summary = tables.linear_datamodelling(bench, scores | {"tried": {"trak": tried}})
    found = summary[(summary.method == "trak_oracle") & (summary.statistic == "lds")].set_index("queries")
    assert set(found.kind + found.target) == {"transferloss"}
    for kind, where in bench.queries.kinds().items():
        target = bench.half_targets["loss"][..., where].mean(0)
        reached = [lds(each[:, where], target, masks).mean().item() for each in tried]
        assert len(set(reached)) == 6
        assert found["mean"][kind] == pytest.approx(max(reached))


def test_units_that_are_found_are_held_against_those_that_are_not(plan, make_bench):
    """By what retraining without each does, in the mean of both seeds; by the method that is tested, at the level."""
    bench = make_bench(replace(plan, groups="unit"))
    q = {"denoised_gls": randn(30, 3, seed=5).double().abs() / 10, "jvp_gls": torch.ones(30, 3)}
    q["denoised_gls"][:, 1] = 1.0  # of the second query nothing is found
    q["denoised_gls"][3, 0] = bench.level
    bench.influence = pd.DataFrame(
        [
            {"unit": unit, "query": query, "method": method, "measure": "pull", "q_value": float(values[unit, k])}
            for method, values in q.items()
            for k, query in enumerate(SEEDS)
            for unit in range(30)
        ]
    )
    toward = nn.functional.normalize((bench.data.unit_images[:, None] - bench.queries.factual).flatten(2), dim=-1)
    pull = -(bench.groups_truth.mean(0).flatten(2) * toward).sum(-1)
    table, summary = tables.discoveries(bench)
    for k, (query, row) in enumerate(table.set_index("query").iterrows()):
        assert query == SEEDS[k]
        passed = q["denoised_gls"][:, k] <= bench.level
        assert row.units_found == passed.sum()
        for side, of in (("found", pull[passed, k]), ("others", pull[~passed, k])):
            assert row[f"pull_{side}"] == pytest.approx(of.mean().item(), nan_ok=True)
            assert row[f"above_0_{side}"] == pytest.approx((of > 0).double().mean().item(), nan_ok=True)
    assert 0 < table.units_found[0] < 30
    assert table.units_found[1] == 0
    assert table.pull_found.isna().tolist() == [False, True, False]
    means = summary.set_index("statistic")
    assert means["mean"]["pull_found"] == pytest.approx(table.pull_found.mean())
    assert means.known["pull_found"] == 2
    assert set(means.method) == {"denoised_gls"}


def test_groups_leave_the_scores_as_they_are(bench, scores):
    before = {kind: {method: score.clone() for method, score in of.items()} for kind, of in scores.items()}
    tables.groups(bench, scores)
    assert all(torch.equal(score, before[kind][m]) for kind, of in scores.items() for m, score in of.items())


class Linear(nn.Module):
    """Features that are a linear map of the pixels."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.flatten(1) @ randn(4, 3, seed=21)


def test_planted_pictures_are_scored_by_every_measure_on_its_own_direction(plan, queries, ensemble, make_bench):
    """Two patterns of two copies, two queries each; every score again, from what the members answer."""
    pattern = torch.tensor([-1] * 28 + [0, 0, 0, 0, 1, 1, 1, 1])
    hidden = torch.tensor([False] * 28 + [False, False, True, True] * 2)
    data = UnitDataModule(Source(randn(36, *SHAPE, seed=1), None, pattern, hidden), clusters=3)
    bench = replace(make_bench(plan), data=data, extractor=Linear())
    pictures, units, mine = data.held_out.images, data.unit_images, data.held_out_units
    assert len(pictures) == 4
    table, _ = proof.planted_units(bench)

    made, response = queries.replayed(ensemble, pictures, plan.members_per_step)
    denoised = queries.denoised(ensemble, pictures)
    gram = residual_gram(ensemble, queries.process, pictures, queries.times, queries.noise)
    distance = -pixel(pictures, units).double()
    others = LeaveOneOutGLS(bench.codewords, similarity(distance), bench.background)
    assert (made - pictures).abs().max() > 0.1
    bright = torch.cat(
        [projections(response[:, [q]] * mask, (made * mask)[[q]], units * mask) for q, mask in enumerate(made > 0)], 2
    )
    mapped = (randn(4, 3, seed=21).T @ x.flatten(-3)[..., None] for x in (response, made, units))
    along = {
        "denoised_gls": distinctive(denoised, units),
        "denoised_toward": projections(denoised, pictures, units),
        "jvp_gls": projections(response, made, units),
        "jvp_own": distinctive(response, units),
        "jvp_feature": projections(*(x[..., None] for x in mapped)),
        "jvp_region": bright,
    }
    expected = {name: pull(others.adjust(answers), bench.codewords) for name, answers in along.items()}
    for method, name in (("jvp_gls", "posterior"), ("denoised_gls", "denoised_posterior")):
        expected[name] = measured(along[method], others, BOOK, distance)[2]
    for name, answers in (("jvp_norm", response), ("denoised_norm", denoised)):
        expected[name] = Response(answers).displacement(bench.codewords).flatten(2).norm(dim=2)
    expected |= {
        "loss": loss_change(gram, bench.codewords),
        "pixel": -distance,
        "member_loss": subset_means(-gram.diagonal(dim1=1, dim2=2).T, bench.codewords),
    }
    assert set(table.method) == {*expected, "feature"}
    for name, score in expected.items():
        found = torch.tensor(table[table.method == name].score.tolist()).double()
        torch.testing.assert_close(found, score[mine, torch.arange(4)].double(), rtol=1e-4, atol=1e-5)


def test_growth_is_of_each_part_and_what_is_foretold_of_the_whole_ensemble(plan, queries, ensemble, make_bench):
    """Sets as `attribute` tests them where the part is all; else as the part itself has them."""
    bench = replace(make_bench(replace(plan, members_sizes=(5, 1000))), neighbourhoods=(1, 3, 40))
    bench.response = queries.jacobian(list(ensemble.members), None)
    bench.denoised = queries.denoised(ensemble, queries.factual)
    alike = pixel(queries.factual, bench.data.unit_images)
    curve = growth(bench, {"generated": {"pixel": alike}}).set_index(["members", "order", "statistic"]).value

    near, along = similarity(-alike.double()), distinctive(bench.denoised, bench.data.unit_images)
    nearest = alike.argsort(0, descending=True)[:3].T[None]
    answers = LeaveOneOutGLS(bench.codewords, near, bench.background).adjust_sets(near * along, nearest)
    _, whole, _ = set_significance(nearest, answers, BOOK, draws=3)
    assert curve[8, 0, "z_nearest:3"] == pytest.approx(whole.mean().item(), rel=1e-5)
    for part, order, _ in bench.parts:
        if part.size == 5:
            z = part.z_of_sets(along[part.members], -alike.double(), bench.background, nearest, BOOK.capacity)
            assert curve[5, order, "z_nearest:3"] == pytest.approx(z.mean().item(), rel=1e-5)
            assert curve[5, order, "z_nearest:3_foretold"] == pytest.approx(whole.mean().item() * (5 / 8) ** 0.5)
            assert curve[5, order, "found_nearest:3_foretold"] == pytest.approx(expected_power(whole[0], 5 / 8))
    named = {name for name in curve.index.get_level_values("statistic") if "nearest" in name}
    assert named == {
        f"{kind}_{which}{end}"
        for kind in ("z", "found")
        for which in ("nearest", "nearest:3")
        for end in ("", "_foretold")
    }
