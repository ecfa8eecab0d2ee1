"""Scores of every method: read, computed and summed over units as their own modules do it, one sign for all."""

import pandas as pd
import pytest
import torch
from conftest import bends
from ddattr.validation.lds import lds
from ddattr.validation.part import Part
from torch import nn

from ddattr.artifacts import save_tensors
from ddattr.attribution.baselines import pixel
from ddattr.attribution.datamodel import kernel_ridge, rbf_kernel
from ddattr.attribution.denoising import denoised, distinctive
from ddattr.attribution.influence import similarity
from ddattr.attribution.loss import loss_change, loss_draws, residual_gram
from ddattr.codebook import Codebook, contrast
from ddattr.data.units import means
from ddattr.ensemble.ensemble import Ensemble
from ddattr.validation import methods, peers, scores

SHAPE, SEEDS = (1, 4, 4), [4, 0, 9]
CODEWORDS = Codebook(20, 8, 3).codewords(torch.arange(20))
UNIT_OF = torch.tensor([0, 1, 2, 1, 3, 4, 0, 5, 5, 5])  # ten pictures, six units


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def influence_table() -> tuple[pd.DataFrame, dict[tuple[str, str], torch.Tensor]]:
    """influence.parquet of 20 units on queries 0, 4 and 9, shuffled, and what it holds by method and measure."""
    held, frames = {}, []
    names = [(m, measure) for m in methods.ENSEMBLE for measure in ("pull", "norm")]
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


@pytest.fixture
def panel(process, images, asked) -> scores.Peers:
    return scores.Peers(bends(1)[0], images, UNIT_OF, asked, process, *loss_draws(3, process, SHAPE, seed=0), seed=0)


def test_a_table_gives_pull_of_the_ensemble_s_methods_and_similarities_by_unit_and_seed():
    table, held = influence_table()
    found = scores.from_table(table, SEEDS)
    assert list(found) == [*methods.ENSEMBLE, "pixel", "random"]
    for method, score in found.items():
        expected = held[method, "pull" if method in methods.ENSEMBLE else "similarity"]
        assert torch.equal(score, expected[:, [sorted(SEEDS).index(seed) for seed in SEEDS]])


def test_a_table_of_another_version_is_refused():
    table, _ = influence_table()
    with pytest.raises(ValueError, match="no method posterior, as it was made by another version"):
        scores.from_table(table[table.method != "posterior"], SEEDS)


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
    expected = [own[:, ~word].mean(1) - own[:, word].mean(1) for word in CODEWORDS]
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
    assert set(methods.SIMILARITY) == {"pixel", "random", "feature"}
    assert not set(methods.SIMILARITY) & {*methods.ENSEMBLE, "gradient_dot", "unlearning", "trak", "dtrak"}


def test_real_pictures_have_similarities_that_need_no_tape(images, asked):
    """Those of features come with the peers."""
    found = scores.of_real(asked, images, seed=0)
    assert set(found) == set(methods.SIMILARITY) - {"feature"}
    torch.testing.assert_close(found["pixel"], pixel(asked, images).double())
    torch.testing.assert_close(
        found["pixel"].argmax(0), torch.cdist(images.flatten(1), asked.clamp(-1, 1).flatten(1)).argmin(0)
    )


def test_the_denoising_of_any_picture_has_a_pull_and_one_before_the_background_of_other_units(images, asked):
    """The definition: minus what w_i . response moves along what is the unit's own, exact in the weights."""
    response, code = randn(8, 3, *SHAPE), Codebook(6, 8, 3)
    codewords = code.codewords(torch.arange(6))
    found = scores.of_denoising(response, asked, images[:6], code, 0.5)
    moved = torch.einsum("un,nq...->uq...", contrast(codewords).double(), response.double()).flatten(2)
    own = nn.functional.normalize((images[:6] - images[:6].mean(0)).flatten(1).double(), dim=-1)
    torch.testing.assert_close(found["denoised"], -torch.einsum("uqp,up->uq", moved, own), rtol=1e-4, atol=1e-6)
    plain = scores.of_denoising(response, asked, images[:6], code, 0.0)
    torch.testing.assert_close(plain["denoised_gls"], plain["denoised"])
    assert not torch.allclose(found["denoised_gls"], found["denoised"])


def test_part_of_the_ensemble_is_scored_as_an_ensemble_of_its_own(process, images, asked, features):
    """Every method from its own module, on the members' own codewords."""
    networks, part = bends(8), Part(torch.tensor([1, 2, 5, 7]), CODEWORDS)
    few, draws = Ensemble([networks[k] for k in (1, 2, 5, 7)]), loss_draws(3, process, SHAPE, seed=0)
    response, gram = denoised(few, process, asked, *draws), residual_gram(few, process, asked, *draws)
    unit_images = randn(20, *SHAPE, seed=8).float()
    found = scores.of_part(part, response, gram, asked, unit_images, 0.5)
    assert set(found) == {"denoised", "denoised_posterior", "loss"}
    by = part.measured(distinctive(response, unit_images), -pixel(asked, unit_images).double(), 0.5)
    assert torch.equal(found["denoised"], by.plain)
    assert torch.equal(found["denoised_posterior"], by.posterior)
    told = part.told[:, 0]
    assert 0 < told.sum() < 20
    torch.testing.assert_close(found["loss"], part.loss_change(gram))
    assert all((score[~told] == 0).all() for score in found.values())
    whole = denoised(Ensemble(networks), process, asked, *draws)  # centred over all: a contrast does not see it
    other = part.measured(distinctive(whole[part.members], unit_images), -pixel(asked, unit_images).double(), 0.5)
    torch.testing.assert_close(found["denoised_posterior"], other.posterior, rtol=1e-4, atol=1e-6)


def test_random_scores_have_an_address_and_no_queries_share_theirs(images, asked):
    found = scores.of_real(asked, images, seed=0)["random"]
    assert torch.equal(found, scores.of_real(asked, images, seed=0)["random"])
    assert not torch.equal(found, scores.of_real(asked, images, seed=1)["random"])
    assert found.unique().numel() == found.numel()


def test_a_peer_s_scores_are_its_own_summed_over_every_unit_s_pictures(panel, images, asked):
    score, tuned = panel.score("gradient_dot", torch.zeros(4, 3), torch.zeros(4, 6, dtype=torch.bool))
    each = peers.gradient_dot(panel.network, panel.loss, asked, images).double()
    expected = torch.stack([each[unit == UNIT_OF].sum(0) for unit in range(6)])
    torch.testing.assert_close(score, expected)
    assert tuned == ""
    assert panel.meter.seconds["gradient_dot"] > 0


def test_the_damping_of_unlearning_is_the_best_one_on_the_tuning_subsets(panel, images, asked):
    subsets = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    targets = randn(12, 3, seed=3)
    score, tuned = panel.score("unlearning", targets, subsets)
    given = panel.network, panel.loss, asked, images, peers.fisher(panel.network, panel.loss, images)
    tried = {d: peers.over_units(peers.unlearning(*given, d).double(), UNIT_OF) for d in peers.FISHER_DAMPINGS}
    reached = {d: lds(each, targets, subsets).mean().item() for d, each in tried.items()}
    best = max(reached, key=reached.get)
    assert tuned == f"damping {best:g}"
    torch.testing.assert_close(score, tried[best])
    torch.testing.assert_close(panel.tried["unlearning"], torch.stack(list(tried.values())))


def test_feature_similarity_is_summed_and_features_are_kept_by_unit(panel, images, asked):
    extractor = nn.Flatten()
    score = panel.features(extractor)
    each = peers.feature_similarity(extractor, asked, images).double()
    torch.testing.assert_close(score, torch.stack([each[unit == UNIT_OF].sum(0) for unit in range(6)]))
    units, queries = panel.found["features"]
    torch.testing.assert_close(units, means(images, UNIT_OF).flatten(1).double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(queries, asked.clamp(-1, 1).flatten(1))


@pytest.mark.parametrize("method", ["trak", "dtrak"])
def test_the_projection_and_the_damping_are_the_best_ones_on_the_tuning_subsets(panel, images, asked, method):
    """By mean LDS, against all of them tried one by one, every projection made for itself."""
    pytest.importorskip("trak")
    subsets = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    targets = randn(12, 3, seed=3)
    score, tuned = panel.score(method, targets, subsets)
    loss = panel.square if method == "dtrak" else panel.loss
    tried = {}
    for size in (512, 1024, 2048, 4096):
        of_images, of_queries = peers.trak_features(panel.network, loss, asked, images, size)
        for damping in peers.DAMPINGS:
            tried[size, damping] = peers.over_units(peers.trak(of_images, of_queries, damping), UNIT_OF)
    reached = {setting: lds(each, targets, subsets).mean().item() for setting, each in tried.items()}
    size, damping = max(reached, key=reached.get)
    assert len({reached[size, damping] for size, damping in reached if damping == 1}) > 1
    assert tuned == f"{size} dimensions, damping {damping:g}"
    torch.testing.assert_close(score, tried[size, damping])
    torch.testing.assert_close(panel.tried[method], torch.stack(list(tried.values())))
    units, queries = panel.found["trak"]
    torch.testing.assert_close(queries, of_queries)
    torch.testing.assert_close(units[5], of_images[UNIT_OF == 5].double().mean(0))


def test_trak_and_dtrak_ask_different_losses(panel):
    pytest.importorskip("trak")
    subsets = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    one, other = (panel.score(method, randn(12, 3), subsets)[0] for method in ("trak", "dtrak"))
    assert not torch.allclose(one, other)
    assert set(panel.meter.seconds) == {"trak", "dtrak"}


def test_the_features_of_gradients_do_not_depend_on_the_order_of_the_peers(process, images, asked):
    """`datamodel_trak` is one method, whether trak or dtrak is named first."""
    pytest.importorskip("trak")
    subsets, kept = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)) < 0.5, []
    for order in (("trak", "dtrak"), ("dtrak", "trak")):
        panel = scores.Peers(
            bends(1)[0], images, UNIT_OF, asked, process, *loss_draws(3, process, SHAPE, seed=0), seed=0
        )
        for method in order:
            panel.score(method, randn(12, 3), subsets)
        kept.append(panel.found["trak"])
    torch.testing.assert_close(kept[0], kept[1])
