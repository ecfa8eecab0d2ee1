"""Scores of every method: read, computed and summed over units as their own modules do it, one sign for all."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from additive import PLAN, members, study_of
from additive import asked as asked_of
from additive import randn as single
from conftest import bends
from torch import nn

from ddattr.attribution.baselines import pixel
from ddattr.attribution.datamodel import kernel_ridge, rbf_kernel, subset_means
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.estimator import Estimator, draw_members
from ddattr.attribution.influence import pixel_distance, similarity
from ddattr.attribution.loss import loss_change, loss_draws, residual_gram
from ddattr.attribution.methods import METHODS, Family, keys
from ddattr.attribution.posterior import posterior
from ddattr.codebook import Codebook, contrast
from ddattr.ensemble.ensemble import Ensemble
from ddattr.files import save_tensors
from ddattr.meter import Meter
from ddattr.validation import scores
from ddattr.validation.metrics import lds

SHAPE, SEEDS = (1, 4, 4), [4, 0, 9]
CODEWORDS = Codebook(20, 8, 3).codewords(torch.arange(20))
SCORED = [method.key for method in METHODS if method.scored_by_attribute]
ALONE, BESIDE = ([m.key for m in METHODS if m.few and ("full" in m.needs) is full] for full in (False, True))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def influence_table() -> tuple[pd.DataFrame, dict[tuple[str, str], torch.Tensor]]:
    """influence.parquet of 20 units on queries 0, 4 and 9, shuffled, and what it holds by method and measure."""
    held, frames = {}, []
    names = [(m, measure) for m in SCORED for measure in ("pull", "norm")]
    for i, (method, measure) in enumerate([*names, *((m, "similarity") for m in ("pixel", "random"))]):
        held[method, measure] = randn(20, 3, seed=i)
        frames += [
            pd.DataFrame({"unit": range(20), "query": query, "method": method, "measure": measure, "score": column})
            for query, column in zip(sorted(SEEDS), held[method, measure].T.numpy(), strict=True)
        ]
    return pd.concat(frames).sample(frac=1, random_state=0), held


@pytest.fixture
def gram(process):
    """Eight members' residuals on three pictures."""
    times, noise = loss_draws(3, process, SHAPE, seed=0)
    return residual_gram(Ensemble(bends(8)), process, randn(3, *SHAPE).float(), times, noise)


@pytest.fixture
def features():
    return {"features": (randn(20, 5), randn(3, 5, seed=1)), "trak": (randn(20, 7, seed=2), randn(3, 7, seed=3))}


@pytest.fixture
def images() -> torch.Tensor:
    return randn(10, *SHAPE, seed=1).float().clamp(-1, 1)


@pytest.fixture
def asked() -> torch.Tensor:
    return randn(3, *SHAPE).float()


def test_a_table_gives_pull_of_the_ensemble_s_methods_and_similarities_by_unit_and_seed():
    table, held = influence_table()
    found = scores.from_table(table, SEEDS)
    assert list(found) == [*SCORED, "pixel", "random"]
    for method, score in found.items():
        expected = held[method, "pull" if method in SCORED else "similarity"]
        assert torch.equal(score, expected[:, [sorted(SEEDS).index(seed) for seed in SEEDS]])


def test_a_table_of_another_version_is_refused():
    table, _ = influence_table()
    with pytest.raises(ValueError, match="no method jvp_posterior, as it was made by another version"):
        scores.from_table(table[table.method != "jvp_posterior"], SEEDS)


def test_stored_scores_are_read_by_kind_of_query_and_method(tmp_path):
    held = {name: randn(20, 2, seed=i) for i, name in enumerate(["generated/loss@4", "real/pixel", "tried/trak"])}
    save_tensors(tmp_path / "scores.safetensors", held)
    found = scores.load_scores(tmp_path / "scores.safetensors")
    assert {kind: set(of) for kind, of in found.items()} == {
        "generated": {"loss@4"},
        "real": {"pixel"},
        "tried": {"trak"},
    }
    for name, value in held.items():
        kind, _, method = name.partition("/")
        assert torch.equal(found[kind][method], value)


def test_a_table_gives_no_more_queries_than_are_asked_for():
    table, _ = influence_table()
    some, every = scores.from_table(table, [9]), scores.from_table(table, SEEDS)
    assert all(torch.equal(some[method], every[method][:, 2:]) for method in every)


def test_the_ensemble_s_loss_and_its_members_losses(gram, features):
    """The members' own losses are the diagonal: without the units' own members a picture is denoised worse."""
    found = scores.of_loss(gram, CODEWORDS, features, randn(20, 3))
    torch.testing.assert_close(found["loss"], loss_change(gram, CODEWORDS))
    own = gram.diagonal(dim1=1, dim2=2)
    expected = [own[:, ~codeword].mean(1) - own[:, codeword].mean(1) for codeword in CODEWORDS]
    torch.testing.assert_close(found["member_loss"], torch.stack(expected), rtol=1e-6, atol=1e-6)


def test_no_surrogate_adjusts_nothing(gram, features):
    found = scores.of_loss(gram, CODEWORDS, features, torch.zeros(20, 3, dtype=torch.float64))
    torch.testing.assert_close(found["adjusted"], found["member_loss"])
    other = scores.of_loss(gram, CODEWORDS, features, randn(20, 3))
    assert not torch.allclose(other["adjusted"], found["adjusted"])


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        ([], set()),
        (["features"], {"datamodel"}),
        (["trak"], {"datamodel_trak"}),
        (["features", "trak"], {"datamodel", "datamodel_trak", "datamodel_both"}),
    ],
)
def test_there_are_as_many_datamodels_as_features_allow(gram, features, kinds, names):
    found = scores.of_loss(gram, CODEWORDS, {kind: features[kind] for kind in kinds}, randn(20, 3))
    assert set(found) == {"loss", "member_loss", "adjusted"} | names
    assert all(score.shape == (20, 3) and score.isfinite().all() for score in found.values())


def test_datamodels_are_kernel_ridges_on_cosine_distances_and_both_on_their_products(features):
    outputs = randn(8, 3)
    found = scores.datamodels(outputs, CODEWORDS, features)
    kernels, near = [], []
    for units, queries in features.values():
        one, other = units / units.norm(dim=1, keepdim=True), queries / queries.norm(dim=1, keepdim=True)
        kernels.append(rbf_kernel(one))
        near.append(similarity((2 - 2 * one @ other.T).sqrt()))
    priors = {"datamodel": (kernels[0], near[0]), "datamodel_trak": (kernels[1], near[1])}
    priors["datamodel_both"] = kernels[0] * kernels[1], near[0] * near[1]
    assert set(found) == set(priors)
    for name, (kernel, relevant) in priors.items():
        torch.testing.assert_close(found[name], kernel_ridge(outputs, CODEWORDS, kernel, relevant).effects)


def test_datamodels_are_blind_to_the_length_of_features(features):
    outputs = randn(8, 3)
    longer = {kind: (2 * units, 7 * queries) for kind, (units, queries) in features.items()}
    for name, effects in scores.datamodels(outputs, CODEWORDS, longer).items():
        torch.testing.assert_close(effects, scores.datamodels(outputs, CODEWORDS, features)[name], rtol=1e-6, atol=1e-8)


def test_similarities_are_those_that_ask_no_model_at_all():
    """Of pixels and chance, which `attribute` makes, and of features, which `validate` does."""
    assert set(keys(Family.SIMILARITY)) == {"pixel", "random", "feature"}


def test_real_pictures_have_similarities_that_need_no_tape(images, asked):
    """Those of features come with the peers."""
    found = scores.of_real(asked, images, seed=0)
    assert set(found) == set(keys(Family.SIMILARITY)) - {"feature"}
    torch.testing.assert_close(found["pixel"], pixel(asked, images).double())
    torch.testing.assert_close(
        found["pixel"].argmax(0), torch.cdist(images.flatten(1), asked.clamp(-1, 1).flatten(1)).argmin(0)
    )


def test_random_scores_have_an_address_and_no_queries_share_theirs(images, asked):
    found = scores.of_real(asked, images, seed=0)["random"]
    assert torch.equal(found, scores.of_real(asked, images, seed=0)["random"])
    assert not torch.equal(found, scores.of_real(asked, images, seed=1)["random"])
    assert found.unique().numel() == found.numel()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_denoising_of_any_picture_has_a_pull_and_one_with_the_other_units_discounted(images, asked, share):
    """The definition: minus what w_i . response moves along the unit's distinctive direction, exact in the weights."""
    response, codewords = randn(8, 3, *SHAPE), CODEWORDS[:6]
    estimator = Estimator.of_distance(codewords, pixel_distance(asked, images[:6]), share)
    found = estimator.estimate(distinctive(response, images[:6], pixel_distance(asked, images[:6]))).named("denoised")
    moved = torch.einsum("un,nq...->uq...", contrast(codewords).double(), response.double()).flatten(2)
    near, units = similarity(pixel_distance(asked, images[:6]), 0.35), images[:6].flatten(1).double()
    own = nn.functional.normalize(units[:, None] - near.T @ units / near.sum(0)[:, None], dim=-1)
    torch.testing.assert_close(found["denoised"], -(moved * own).sum(-1), rtol=1e-4, atol=1e-6)
    assert torch.allclose(found["denoised_gls"], found["denoised"]) == (share == 0)


# -- of a whole study


@pytest.fixture
def study(make_process):
    """Linear denoisers: eight members, thirty units, three generated and two real queries; tuned on four halves."""
    ensemble = members()
    queries = asked_of(make_process(timestep_spacing="trailing"), ensemble)
    plan = replace(PLAN, tuning_subsets=4, peers=("gradient_dot", "unlearning"))
    return study_of(plan, queries, ensemble, denoised=queries.denoised(ensemble, queries.factual))


def test_members_at_a_peer_s_cost_score_any_picture_as_an_ensemble_of_theirs(study):
    """Five of eight, tuned on four halves: what is generated, or real, from these members' own answers alone. Four,
    where the model of all units is asked for gradients, too."""
    answers, queries, meter = study.answers, study.answers.queries, Meter()
    units, features = single(30, 6, seed=11), single(5, 6, seed=12)
    tried = single(3, 30, 5, seed=13).double()
    for where in queries.kinds().values():
        pictures, expected = queries.pictures[where], {}
        given = {"features": (units, features[where]), "trak": (units.exp(), features[where].exp())}
        for size, methods in ((5, ALONE), (4, BESIDE)):
            few = draw_members(size, 8, answers.seed)
            ensemble = Ensemble([answers.ensemble.members[k] for k in few.tolist()])
            gram = residual_gram(ensemble, queries.process, pictures, queries.times, queries.noise)
            scored = scores.datamodels(-gram.diagonal(dim1=1, dim2=2).T, answers.codewords[:, few], given)
            estimator = answers.estimator(pictures).of_members(few)
            along = distinctive(
                queries.denoised(ensemble, pictures), answers.data.unit_images, answers.data.distance(pictures)
            )
            estimate = estimator.estimate(along)
            scored |= {"denoised": estimate.plain, "denoised_posterior": estimate.posterior}
            scored["loss"] = estimator.loss_change(gram)
            losses, saw = gram.diagonal(dim1=1, dim2=2).T, answers.codewords[:, few].T
            reached = [lds(score, -losses, saw).nanmean().item() for score in tried[..., where]]
            order = tried[reached.index(max(reached))][:, where]
            scored["denoised_dtrak"] = posterior(estimate.pull, estimate.deviation, -order)
            expected |= {f"{method}@{size}": scored[method] for method in methods}
        found = scores.of_few(answers, pictures, given, meter, tried[..., where])
        assert set(found) == set(expected)
        assert {
            "denoised@5",
            "denoised_posterior@5",
            "loss@5",
            "datamodel@5",
            "datamodel_both@4",
            "denoised_dtrak@4",
        } <= set(found)
        assert all(torch.equal(found[method], score) for method, score in expected.items())
        without = scores.of_few(answers, pictures, given, Meter())
        assert set(found) - set(without) == {"denoised_dtrak@4"}
        del given["trak"]
        assert set(scores.of_few(answers, pictures, given, Meter())) == {f"{method}@5" for method in ALONE}
    assert set(meter.seconds) == set(meter.memory_mb) == set(expected)
    assert all(value > 0 for value in (*meter.seconds.values(), *meter.memory_mb.values()))


def test_what_is_near_is_what_d_trak_says_and_its_tuning_takes_no_training(study):
    """The ensemble's posterior by that order; of several scores the one that foretells the members' own losses."""
    answers, queries = study.answers, study.answers.queries
    distance = answers.data.distance(queries.factual)
    along = distinctive(answers.denoised, answers.data.unit_images, distance)
    estimator, losses = answers.estimator(queries.factual), queries.losses(list(answers.ensemble.members))[:, :3]
    effects = torch.linalg.pinv(answers.codewords.T.double()) @ -losses.double()
    tried = torch.stack([-effects, effects, single(30, 3, seed=14).double()])
    found = scores.with_gradients(estimator, along, -losses, tried)
    estimate = estimator.estimate(along)
    assert torch.equal(found, posterior(estimate.pull, estimate.deviation, -effects))
    assert torch.equal(found, scores.with_gradients(estimator, along, -losses, 7 * tried.flip(0)))


def test_of_a_unit_that_a_few_members_cannot_identify_they_say_nothing(study):
    """But for what features say of it; and that the response is centred over all members is not seen."""
    answers, queries, few = study.answers, study.answers.queries, draw_members(5, 8, study.seed)
    features = {"features": (single(30, 6, seed=11), single(3, 6, seed=12))}
    found = scores.of_few(answers, queries.factual, features, Meter())
    estimator = answers.estimator(queries.factual).of_members(few)
    known = estimator.identifiable[:, 0]
    assert 0 < known.sum() < 30
    for method in ("denoised", "denoised_posterior", "loss"):
        assert (found[f"{method}@5"][~known] == 0).all()
    distance = answers.data.distance(queries.factual)  # centred over all, which a contrast does not see:
    whole = distinctive(answers.denoised[few], answers.data.unit_images, distance)
    torch.testing.assert_close(found["denoised_posterior@5"], estimator.estimate(whole).posterior, rtol=1e-4, atol=1e-6)


def test_without_a_tuned_peer_there_are_no_few_members(study):
    study.answers.plan = replace(study.plan, peers=("gradient_dot",))
    assert scores.of_few(study.answers, study.answers.queries.factual, {}, Meter()) == {}


def test_members_own_pictures_score_generated_queries_by_how_far_they_are(study):
    answers, features = study.answers, (single(30, 6, seed=11), single(5, 6, seed=12))
    found = scores.of_pictures(answers, features)
    distances = answers.queries.distances(list(answers.ensemble.members))
    torch.testing.assert_close(found["member_picture"], subset_means(-distances, answers.codewords))
    prior = {"features": (features[0], features[1][:3])}
    expected = scores.datamodels(-distances, answers.codewords, prior)["datamodel"]
    torch.testing.assert_close(found["datamodel_picture"], expected)


def influence_of(queries: list[int]) -> pd.DataFrame:
    """influence.parquet of the thirty units."""
    names = [(method, "pull") for method in SCORED] + [("pixel", "similarity"), ("random", "similarity")]
    rows = pd.MultiIndex.from_product([names, range(30), queries], names=["name", "unit", "query"]).to_frame(
        index=False
    )
    rows["method"], rows["measure"] = zip(*rows.pop("name"), strict=True)
    return rows.assign(score=single(len(rows), seed=9).double().numpy())


def test_every_query_is_scored_by_every_method_of_the_plan(study):
    """Of real pictures by all that needs no tape; what is of all pictures is cut to the kind of the query."""
    answers, queries = study.answers, study.answers.queries
    answers.influence = influence_of(queries.seeds)
    *tuning, full = study.plan.scored_by()
    trained = dict(zip([model.name for model in (*tuning, full)], bends(5), strict=True))  # such as have gradients
    study.truth.network = lambda model: trained[model.name]
    found, spent = scores.score(answers, study.truth)
    same = {*keys(Family.PEER), "feature", "loss", "member_loss", "adjusted", "datamodel"} - {"trak", "dtrak"}
    same |= {f"{method}@5" for method in ALONE}
    assert set(found) == {"generated", "real", "distance", "tried"}
    assert set(found["generated"]) == same | {*SCORED, "pixel", "random", *keys(Family.PICTURES)}
    assert set(found["real"]) == same | {"denoised", "denoised_gls", "denoised_posterior", "pixel", "random"}
    assert all(score.shape == (30, 3) for score in found["generated"].values())
    assert all(score.shape == (30, 2) for score in found["real"].values())
    assert {name: tried.shape for name, tried in found["tried"].items()} == {"unlearning": (5, 30, 5)}

    table = scores.from_table(answers.influence, queries.seeds)
    assert all(torch.equal(found["generated"][name], score) for name, score in table.items())
    along = distinctive(
        queries.denoised(answers.ensemble, queries.real), answers.data.unit_images, answers.data.distance(queries.real)
    )
    for name, score in answers.estimator(queries.real).estimate(along).named("denoised").items():
        assert torch.equal(found["real"][name], score)
    gram = residual_gram(answers.ensemble, queries.process, queries.pictures, queries.times, queries.noise)
    features = answers.extractor(answers.data.images), answers.extractor(queries.pictures.clamp(-1, 1))
    everywhere = torch.cat([found["generated"]["feature"], found["real"]["feature"]], 1)
    expected = scores.of_loss(gram, answers.codewords, {"features": features}, everywhere)
    for name, score in expected.items():
        for kind, where in queries.kinds().items():
            torch.testing.assert_close(found[kind][name], score[:, where], rtol=1e-4, atol=1e-6)

    targets, masks = -queries.losses(list(trained.values())[:4]), torch.stack([model.units for model in tuning])
    reached = [lds(each, targets, masks).mean().item() for each in found["tried"]["unlearning"]]
    best = found["tried"]["unlearning"][max(range(5), key=reached.__getitem__)]
    assert torch.equal(torch.cat([found["generated"]["unlearning"], found["real"]["unlearning"]], 1), best)
    tried, distances = found["tried"]["unlearning"][..., :3], queries.distances(list(trained.values())[:4])
    reached = [lds(each, -distances, masks).mean().item() for each in tried]
    assert set(found["distance"]) == {"unlearning"}  # tuned for it, and no other
    assert torch.equal(found["distance"]["unlearning"], tried[reached.index(max(reached))])
    assert spent["tuned"]["gradient_dot"] == ""
    assert spent["tuned"]["unlearning"].startswith("damping ")
    assert set(spent["seconds"]) >= same | set(keys(Family.PICTURES))


def test_where_d_trak_is_asked_its_order_is_a_method_of_any_picture(study):
    """Of the whole ensemble, and of one member fewer than its trainings would buy; by all that D-TRAK tried."""
    pytest.importorskip("trak")
    answers, queries = study.answers, study.answers.queries
    answers.plan = study.truth.plan = replace(study.plan, peers=("dtrak",))
    answers.influence = influence_of(queries.seeds)
    names = [model.name for model in study.plan.scored_by()]
    trained = dict(zip(names, bends(5), strict=True))
    study.truth.network = lambda model: trained[model.name]
    found, spent = scores.score(answers, study.truth)
    for kind, where in queries.kinds().items():
        assert {"dtrak", "denoised_dtrak", "denoised_dtrak@4"} <= set(found[kind])
        estimator = answers.estimator(queries.pictures[where])
        pictures = queries.pictures[where]
        response = queries.denoised(answers.ensemble, pictures)
        along = distinctive(response, answers.data.unit_images, answers.data.distance(pictures))
        outputs = -answers.gram[where].diagonal(dim1=1, dim2=2).T
        expected = scores.with_gradients(estimator, along, outputs, found["tried"]["dtrak"][..., where])
        torch.testing.assert_close(found[kind]["denoised_dtrak"], expected, rtol=1e-4, atol=1e-6)
    assert {"denoised_dtrak", "denoised_dtrak@4", "dtrak"} <= set(spent["seconds"])
    assert found["distance"]["dtrak"].shape == (30, 3)
