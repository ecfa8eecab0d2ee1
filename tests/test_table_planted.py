"""planted.csv: known units are found first when they matter, with a p that is uniform when they do not."""

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from additive import PLAN, asked, members, study_of
from additive import randn as single
from conftest import TINY_SIZES, LinearDenoiser, composed
from scipy import stats
from torch import nn

from ddattr.attribution.agreement import wilson
from ddattr.attribution.baselines import pixel
from ddattr.attribution.datamodel import subset_means
from ddattr.attribution.denoising import denoised, distinctive
from ddattr.attribution.estimator import Estimator
from ddattr.attribution.influence import (
    Response,
    displacement_scores,
    gram,
    norm,
    pixel_distance,
    projections,
    similarity,
)
from ddattr.attribution.loss import loss_change, loss_draws, residual_gram
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.ensemble.ensemble import Ensemble
from ddattr.files import load_table
from ddattr.stages.run import Run
from ddattr.validation.plan import Plan
from ddattr.validation.study import Study
from ddattr.validation.tables.planted import (
    Scored,
    influence_by_length,
    influence_by_pull,
    influence_on_loss,
    planted_tables,
    ranks,
    summarise,
    tables,
)

SHAPE = (1, 2, 2)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def everything(codebook: Codebook) -> tuple[torch.Tensor, torch.Tensor]:
    return codebook.codewords(torch.arange(codebook.units)), codebook.sample_phantoms(10**6)


def noisy(seed: int, members: int, queries: int = 1) -> torch.Tensor:
    """Gram of residuals that nothing but chance made."""
    residual = 1 + 0.3 * randn(queries, members, 40, seed=seed)
    return residual @ residual.mT / 40


def influence_on_denoising(response, pictures, images, codebook, share) -> dict[str, Scored]:
    """As the table of planted units has it."""
    distance = pixel_distance(pictures, images)
    along = {
        "denoised_gls": distinctive(response, images, distance),
        "denoised_toward": projections(response, pictures, images),
    }
    estimator = Estimator.of_distance(codebook.codewords(torch.arange(codebook.units)), distance, share)
    return influence_by_pull(along, estimator)


@pytest.mark.parametrize("method", ["loss", "member_loss"])
def test_p_is_uniform_when_codewords_are_drawn_anew(method):
    """The same members, 400 codebooks: Kolmogorov-Smirnov at a false-alarm rate of 1e-4, conservative by 1/792."""
    gram, p = noisy(0, members=12), []
    for seed in range(400):
        codewords, phantoms = everything(Codebook(1, 12, 5, seed))
        p.append(influence_on_loss(gram, codewords, phantoms)[method].p.item())
    assert stats.kstest(p, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("unit", [0, 7])
@pytest.mark.parametrize("method", ["loss", "member_loss"])
def test_a_unit_that_alone_matters_is_found_first(process, method, unit):
    """Linear members that differ by small chance, and by how well those that saw one unit denoise the picture."""
    codebook = Codebook(20, 12, 5)
    codewords, phantoms = everything(codebook)
    bias = 0.02 * randn(12, 4) + torch.where(codewords[unit], 0, 0.5)[:, None]
    ensemble = Ensemble([LinearDenoiser(0.5 * torch.eye(4, dtype=torch.float64), b) for b in bias])
    times, noise = loss_draws(8, process, SHAPE, seed=0)
    gram = residual_gram(ensemble, process, randn(3, *SHAPE), times, noise.double())
    score, z, p = influence_on_loss(gram, codewords, phantoms)[method]
    assert (ranks(score, torch.full((3,), unit)) == 1).all()
    torch.testing.assert_close(p[unit], torch.full((3,), 1 / (1 + codebook.phantoms)).double())
    assert (z[unit] > 2.5).all()
    assert (p.argmin(0) == unit).all()


def test_p_of_the_denoising_is_uniform_when_codewords_are_drawn_anew():
    """As above: members of one picture, eight units that never mattered, and the first one's p in 400 codebooks."""
    response, picture, images = randn(12, 1, *SHAPE), randn(1, *SHAPE, seed=1), randn(8, *SHAPE, seed=2)
    response -= response.mean(0)
    found = [influence_on_denoising(response, picture, images, Codebook(8, 12, 5, seed), 0.5) for seed in range(400)]
    for method in ("denoised_gls", "denoised_toward"):
        p = [scores[method].p[0].item() for scores in found]
        assert stats.kstest(p, "uniform").pvalue > 1e-4, method


@pytest.mark.parametrize("method", ["denoised_gls", "denoised_toward"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_unit_towards_which_its_members_denoise_is_found_first(process, share, method):
    """Linear members that differ by small chance; those that saw unit 7 turn pictures towards its image."""
    codebook, images, pictures = Codebook(20, 12, 5), randn(20, *SHAPE, seed=3), randn(3, *SHAPE, seed=4)
    codewords, _ = everything(codebook)
    noise_estimate = 0.02 * randn(12, 4) - codewords[7][:, None] * images[7].flatten()
    ensemble = Ensemble([LinearDenoiser(torch.zeros(4, 4, dtype=torch.float64), b) for b in noise_estimate])
    times, noise = loss_draws(4, process, SHAPE, seed=0)
    response = denoised(ensemble, process, pictures, times, noise.double())
    _, z, p = influence_on_denoising(response, pictures, images, codebook, share)[method]
    assert (ranks(z, torch.full((3,), 7)) == 1).all()
    torch.testing.assert_close(p[7], torch.full((3,), 1 / (1 + codebook.phantoms)).double())
    assert (z[7] > 2.5).all()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_scores_of_the_denoising_are_those_of_any_picture_and_one_is_the_pull(share):
    """Against their definitions elsewhere; the pull is that of the displacement towards the unit's image."""
    codebook, images, pictures = Codebook(20, 12, 5), randn(20, *SHAPE, seed=3), randn(3, *SHAPE, seed=4)
    codewords, _ = everything(codebook)
    response = randn(12, 3, *SHAPE)
    found = influence_on_denoising(response, pictures, images, codebook, share)
    estimator = Estimator.of_distance(codewords, pixel_distance(pictures, images), share)
    expected = estimator.estimate(distinctive(response, images, pixel_distance(pictures, images))).named("denoised")
    for method in ("denoised_gls", "denoised_posterior"):
        torch.testing.assert_close(found[method].score, expected[method])
    if not share:
        moved = displacement_scores(Response(response).displacement(codewords), pictures, images)
        torch.testing.assert_close(found["denoised_toward"].score, moved["pull"])


def test_what_picture_and_unit_share_is_seen_along_the_distinctive_direction_and_not_from_picture_to_unit():
    """The picture is unit 7's but for one pixel, and its members denoise towards all that the two have in common."""
    codebook, images, response = Codebook(20, 12, 5), randn(20, *SHAPE, seed=3), 0.02 * randn(12, 1, *SHAPE, seed=5)
    codewords, _ = everything(codebook)
    picture = images[7:8].clone()
    picture[..., 0, 0] += 1
    shared = images[7] * (picture[0] == images[7])
    response += codewords[7].double()[:, None, None, None, None] * shared
    found = influence_on_denoising(response - response.mean(0), picture, images, codebook, 0.5)
    assert found["denoised_gls"].p[7] < 0.01
    assert found["denoised_toward"].p[7] > 0.05
    assert found["denoised_posterior"].score[:, 0].argmax() == 7
    assert found["denoised_posterior"].p is None


def test_a_length_has_the_paper_s_score_and_a_p_that_is_uniform_when_codewords_are_drawn_anew():
    """As above, of one unit; by the displacement's definition."""
    response, p = randn(12, 1, *SHAPE), []
    response -= response.mean(0)
    for seed in range(400):
        codewords, phantoms = everything(Codebook(1, 12, 5, seed))
        found = influence_by_length({"jvp_norm": response, "twice": 2 * response}, codewords, phantoms)
        moved = Response(response).displacement(codewords)
        torch.testing.assert_close(found["jvp_norm"].score, moved.flatten(2).norm(dim=2))
        torch.testing.assert_close(found["jvp_norm"].score, norm(gram(response), codewords))
        torch.testing.assert_close(found["twice"].score, 2 * found["jvp_norm"].score)
        torch.testing.assert_close(found["twice"].p, found["jvp_norm"].p)
        p.append(found["jvp_norm"].p.item())
    assert stats.kstest(p, "uniform").pvalue > 1e-4


def test_only_what_is_tested_with_others_discounted_has_a_posterior():
    """Of the displacement and of the denoising; along another direction there is a test and no more."""
    along = randn(12, 20, 3)
    methods = ("jvp_gls", "denoised_gls", "denoised_toward", "jvp_distinctive", "jvp_feature", "jvp_region")
    codewords, _ = everything(Codebook(20, 12, 5))
    estimator = Estimator(codewords, similarity(1 + randn(20, 3).abs()))
    found = influence_by_pull(dict.fromkeys(methods, along), estimator)
    assert set(found) == {*methods, "jvp_posterior", "denoised_posterior"}
    assert [name for name, scored in found.items() if scored.p is None] == ["jvp_posterior", "denoised_posterior"]


def test_identical_members_find_nothing():
    codewords, phantoms = everything(Codebook(5, 8, 3))
    for score, z, p in influence_on_loss(torch.ones(2, 8, 8).double(), codewords, phantoms).values():
        assert score.abs().max() < 1e-6
        assert (p > 0.01).all() or (z == 0).all()


def test_ranks_count_ties_against_the_unit():
    score = torch.tensor([[3.0, 1.0, 0.0], [2.0, 1.0, 5.0], [1.0, 1.0, 7.0]])
    assert ranks(score, torch.tensor([0, 1, 0])).tolist() == [1, 3, 3]


@pytest.fixture
def made() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Six units; units 4 and 5 are planted, of 2 and 2 of 12 pictures, with two queries each."""
    p = torch.full((6, 4), 0.9, dtype=torch.float64)
    p[4, 0], p[4, 1], p[5, 2], p[0, 2] = 1e-4, 0.02, 1e-3, 1e-3
    methods = {"loss": Scored(-p, 1 / p, p), "pixel": Scored(randn(6, 4))}
    return planted_tables(methods, torch.tensor([4, 4, 5, 5]), torch.tensor([2] * 6), [7, 8, 9, 10], level=0.05)


def test_the_table_has_a_row_a_query_and_method(made):
    table, _ = made
    assert list(table) == [
        "query",
        "pattern",
        "share",
        "copies",
        "unit",
        "method",
        "rank",
        "score",
        "z",
        "p_value",
        "q_value",
        "others",
        "level",
        "first",
    ]
    loss = table[table.method == "loss"]
    assert loss["query"].tolist() == [7, 8, 9, 10]
    assert (loss.pattern.tolist(), loss.unit.tolist()) == ([0, 0, 1, 1], [4, 4, 5, 5])
    assert loss.share.tolist() == pytest.approx([1 / 6] * 4)
    assert loss["rank"].tolist() == [1, 1, 2, 6]
    assert loss.p_value.tolist() == pytest.approx([1e-4, 0.02, 1e-3, 0.9])
    assert loss.q_value.tolist() == pytest.approx([6e-4, 0.12, 3e-3, 0.9])  # six tests; two of the third are tied
    assert loss.others.tolist() == [0, 0, 1, 0]
    assert loss["first"].tolist()[:2] == [4, 4]
    assert table[table.method == "pixel"][["z", "p_value", "q_value", "others"]].isna().all(axis=None)


def test_the_summary_counts_queries_and_has_intervals_over_patterns(made):
    summary = made[1].set_index(["method", "statistic"])
    assert set(summary.loc["pixel"].index) == {"recall_at_1"}
    loss = summary.loc["loss"]
    assert (loss.patterns == 2).all()
    assert (loss.queries == 4).all()
    expected = {
        "recall_at_1": 0.5,
        "significant": 0.5,
        "median_q": (3e-3 + 0.12) / 2,
        "others": 0.25,
        "mean_z": (1e4 + 50 + 1e3 + 1 / 0.9) / 4,
    }
    assert loss["value"].to_dict() == pytest.approx(expected)
    assert loss.loc["median_q", ["low", "high"]].isna().all()
    loss = loss.drop("median_q")
    assert (loss.low <= loss["value"]).all()
    assert (loss["value"] <= loss.high).all()
    assert (loss.loc["recall_at_1", ["low", "high"]]).tolist() == pytest.approx(list(wilson(0.5, 2)))
    expected = stats.ttest_1samp([(1e4 + 50) / 2, (1e3 + 1 / 0.9) / 2], 0).confidence_interval()  # of two patterns
    assert loss.loc["mean_z", ["low", "high"]].tolist() == pytest.approx(list(expected))


def test_shares_are_summarised_apart():
    rows = pd.DataFrame(
        {
            "pattern": [0, 1, 2],
            "share": [0.1, 0.1, 0.01],
            "copies": [10, 10, 1],
            "method": "loss",
            "rank": [1, 2, 1],
            "z": [4.0, 2.0, 1.0],
            "q_value": [0.01, 0.2, 0.05],
            "others": [0, 2, 4],
            "level": 0.05,
        }
    )
    wide = summarise(rows).pivot(index="copies", columns="statistic", values="value")
    assert wide.loc[10].to_dict() == pytest.approx(
        {"mean_z": 3, "median_q": 0.105, "others": 1, "recall_at_1": 0.5, "significant": 0.5}
    )
    assert wide.loc[1].to_dict() == {"mean_z": 1, "median_q": 0.05, "others": 4, "recall_at_1": 1, "significant": 1}


# -- of a whole study


@pytest.fixture
def make_study(make_process) -> Callable[..., Study]:
    """Linear denoisers of known effects: eight members, thirty units, three generated and two real queries."""

    def make(plan: Plan = PLAN, **given) -> Study:
        ensemble = members()
        return study_of(plan, asked(make_process(timestep_spacing="trailing"), ensemble), ensemble, **given)

    return make


class Linear(nn.Module):
    """Features that are a linear map of the pixels."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.flatten(1) @ single(4, 3, seed=21)


def test_planted_pictures_are_scored_by_every_measure_on_its_own_direction(make_study):
    """Two patterns of two copies, two queries each; every score again, from what the members answer."""
    pattern = torch.tensor([-1] * 28 + [0, 0, 0, 0, 1, 1, 1, 1])
    hidden = torch.tensor([False] * 28 + [False, False, True, True] * 2)
    data = UnitDataModule(Source(single(36, *SHAPE, seed=1), None, pattern, hidden), clusters=3)
    study = make_study(data=data, extractor=Linear())
    answers = study.answers
    queries, ensemble = answers.queries, answers.ensemble
    pictures, units, mine = data.held_out.images, data.unit_images, data.held_out_units
    assert len(pictures) == 4
    table = dict(tables(study))["planted"]

    made, response = queries.replayed(ensemble, pictures, study.plan.members_per_step)
    denoised = queries.denoised(ensemble, pictures)
    gram = residual_gram(ensemble, queries.process, pictures, queries.times, queries.noise)
    estimator = Estimator.of_distance(answers.codewords, pixel_distance(pictures, units), answers.settings.gls_share)
    assert (made - pictures).abs().max() > 0.1
    bright = torch.cat(
        [projections(response[:, [q]] * mask, (made * mask)[[q]], units * mask) for q, mask in enumerate(made > 0)], 2
    )
    mapped = (single(4, 3, seed=21).T @ x.flatten(-3)[..., None] for x in (response, made, units))
    along = {
        "denoised_gls": distinctive(denoised, units, data.distance(pictures)),
        "denoised_toward": projections(denoised, pictures, units),
        "jvp_gls": projections(response, made, units),
        "jvp_distinctive": distinctive(response, units, data.distance(made)),
        "jvp_feature": projections(*(x[..., None] for x in mapped)),
        "jvp_region": bright,
    }
    expected = {name: estimator.estimate(given).pull for name, given in along.items()}
    for method in ("jvp", "denoised"):
        expected[f"{method}_posterior"] = estimator.estimate(along[f"{method}_gls"]).posterior
    for name, moved in (("jvp_norm", response), ("denoised_norm", denoised)):
        expected[name] = Response(moved).displacement(answers.codewords).flatten(2).norm(dim=2)
    expected |= {
        "loss": loss_change(gram, answers.codewords),
        "pixel": pixel(pictures, units),
        "member_loss": subset_means(-gram.diagonal(dim1=1, dim2=2).T, answers.codewords),
    }
    assert set(table.method) == {*expected, "feature"}
    for name, score in expected.items():
        found = torch.tensor(table[table.method == name].score.tolist()).double()
        torch.testing.assert_close(found, score[mine, torch.arange(4)].double(), rtol=1e-4, atol=1e-5)


def test_without_pictures_whose_unit_is_known_there_is_no_table(make_study):
    assert dict(tables(make_study())) == {}


TINY_PLANTED = (
    "experiment=planted",
    *TINY_SIZES,
    "data.source.source._target_=ddattr.data.sources.first.first",
    "+data.source.source.source._target_=ddattr.data.sources.digits.digits",
    "+data.source.source.count=24",
    "data.source.copies=[6,1]",
    "data.source.queries=2",
    "data.clusters=6",
    "attribution.queries=2",
    "attribution.ablation_units=3",
    "validation.draws=4",
    "validation.retrained_members=3",
    "validation.removal_sizes=[1]",
)


@pytest.mark.slow
def test_every_verb_runs_on_a_tiny_planted_experiment_and_retrains_nothing(ddattr, tmp_path):
    given = [*TINY_PLANTED, f"root={tmp_path / 'run'}"]
    for verb in (["train", "-m", "member=range(0,6)"], ["evaluate"], ["attribute"], ["report"], ["validate"]):
        said = ddattr(*verb, *given)
        assert said.status == 0, said.err
    folder = tmp_path / "run" / "validation"
    table = load_table(folder / "planted.csv")
    methods = {
        "loss",
        "member_loss",
        "denoised_gls",
        "denoised_posterior",
        "denoised_toward",
        "denoised_norm",
        "jvp_gls",
        "jvp_posterior",
        "jvp_distinctive",
        "jvp_feature",
        "jvp_region",
        "jvp_norm",
        "feature",
        "pixel",
    }
    assert set(table.method) == methods
    assert table.groupby("method")["query"].apply(list).tolist() == [[0, 1, 2, 3]] * len(methods)
    assert table.unit.unique().tolist() == [6, 7]
    assert table.copies.unique().tolist() == [6, 1]
    assert (table[table.method == "pixel"]["rank"] == 1).all()
    assert (table[table.method == "loss"].p_value >= 1 / 8).all()  # 15 codewords, 8 of them held
    assert not (folder / "retraining").exists()
    assert not (folder / "scores").exists()
    assert not list(folder.glob("agreement*")) + list(folder.glob("lds*")) + list(folder.glob("members*"))
    drawn = {f"fig13_planted.{end}" for end in ("png", "pdf", "csv")}
    assert {path.name for path in (folder / "figures").iterdir()} == drawn
    assert "planted units found first, by their share of the data: loss 1/" in said.out
    for verb in ("retrain", "validate"):
        said = ddattr(verb, *given)
        assert said.status == 0
        assert said.out.startswith(f"{verb}: already done\n")


def test_queries_are_part_of_the_validation_and_of_nothing_that_members_depend_on(tmp_path):
    one, other = (Run(composed(*TINY_PLANTED, f"root={tmp_path}", f"data.source.queries={k}")) for k in (2, 3))
    assert one.validation_artifact.fingerprint != other.validation_artifact.fingerprint
    assert one.scores_artifact.fingerprint == other.scores_artifact.fingerprint
