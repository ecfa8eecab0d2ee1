"""members.csv: what some members of an ensemble say, against retraining."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
import torch
from additive import study_of

from ddattr.attribution.estimator import Estimator, draw_members
from ddattr.attribution.significance import TestSettings
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.diffusion.sampler import DDPM
from ddattr.validation.answers import SubEnsemble
from ddattr.validation.metrics import law, lds, noise_ratio
from ddattr.validation.plan import Plan
from ddattr.validation.queries import Queries
from ddattr.validation.study import Study
from ddattr.validation.tables.members import tables

BOOK, SHAPE, SEEDS = Codebook(25, 8, 2), (1, 2, 2), 3
CODEWORDS = BOOK.codewords(torch.arange(25))
FIVE = draw_members(5, 8, seed=0)
PART = Estimator(CODEWORDS, torch.ones(25, 3)).of_members(FIVE)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def make_study(make_linear, process) -> Callable[..., Study]:
    """Eight members, and five of them, that answer three generated and two real queries at random.

    Those that are not among the five answer by the seed `others`.
    """

    def make(others: int = 0) -> Study:
        def answered(*shape: int, seed: int) -> torch.Tensor:
            found = randn(8, *shape, seed=100 + seed + others)
            found[FIVE] = randn(5, *shape, seed=seed)
            return found

        sizes = {"retrained_units": 12, "retrained_members": 5, "replicates": SEEDS, "lds_subsets": 10}
        plan = Plan(BOOK, {}, 0, groups=None, removal_queries=0, **sizes)
        drawn, real, units = randn(30, *SHAPE, seed=1).float().split([3, 2, 25])
        queries = Queries(process, DDPM(2).reverse(process), [4, 0, 9], drawn, real, 4, seed=0)
        jacobian, denoised = (answered(3, *SHAPE, seed=seed).float() for seed in (2, 3))
        study = study_of(
            plan,
            queries,
            make_linear(8),
            UnitDataModule(Source(units, None), clusters=3),
            jacobian=jacobian,
            denoised=denoised,
            settings=TestSettings(0, neighbourhoods=(1, 3)),
        )
        residual = answered(5, 20, seed=5).transpose(0, 1)
        study.answers.member_distances = answered(3, seed=7)
        study.answers.gram = residual @ residual.mT / 20
        study.answers.sub_ensembles = [
            SubEnsemble(torch.arange(8), 0, jacobian),
            SubEnsemble(FIVE, 0, jacobian[FIVE]),
        ]
        study.truth.displacements = randn(SEEDS, 12, 3, *SHAPE, seed=8).float()
        study.truth.half_targets = {"loss": randn(SEEDS, 10, 5, seed=9), "distance": randn(SEEDS, 10, 3, seed=10)}
        study.scores = {"generated": {"pixel": randn(25, 3, seed=11)}}
        return study

    return make


def curve(study: Study) -> pd.Series:
    return dict(tables(study))["members"].set_index(["members", "statistic"]).value


def test_what_some_members_say_does_not_depend_on_the_other_members(make_study):
    one, other = curve(make_study()), curve(make_study(others=1))
    pd.testing.assert_series_equal(one[5], other[5])
    own = ~one[8].index.str.contains("law_|pixel")
    assert (one[8][own] != other[8][own]).all()


def test_a_member_s_own_outputs_identify_the_units_that_some_of_them_saw_and_others_did_not(make_study):
    """The mean of those that saw a unit less that of the others, against the half-data models; 0 where all did, or
    none."""
    study = make_study()
    found, masks = curve(study), study.plan.half_masks()[:10]
    outputs = {"loss": -study.answers.gram[:3].diagonal(dim1=1, dim2=2).T, "distance": -study.answers.member_distances}
    assert not PART.identifiable.all()
    for target, method in (("loss", "member_loss"), ("distance", "member_picture")):
        score = torch.zeros(25, 3, dtype=torch.float64)
        for unit in PART.identifiable[:, 0].nonzero()[:, 0].tolist():
            saw, did_not = ([k for k in FIVE.tolist() if bool(CODEWORDS[unit, k]) == bit] for bit in (True, False))
            score[unit] = outputs[target][saw].mean(0) - outputs[target][did_not].mean(0)
        expected = lds(score, study.truth.half_targets[target].mean(0)[:, :3], masks).mean()
        assert found[5, f"lds_{target}_{method}"] == pytest.approx(expected.item())


@pytest.mark.parametrize(("still", "noisy"), [("loss", "distance"), ("distance", "loss")])
def test_the_law_of_a_target_is_of_its_own_noise_on_the_generated_queries(make_study, still, noisy):
    """A target that is the same at every seed has none; what it is on real queries is not asked."""
    study = make_study()
    study.truth.half_targets[still][:, :, :3] = study.truth.half_targets[still][:1, :, :3]
    study.truth.half_targets[noisy] += 2 * randn(1, 10, study.truth.half_targets[noisy].shape[2], seed=12)
    noise = noise_ratio(study.truth.half_targets[noisy][:, :, :3]).median().item()
    assert 0.1 < noise < 10
    found = curve(study)
    for size in (5, 8):
        assert found[size, f"law_{still}"] == pytest.approx((1 + 25 / size) ** -0.5)
        assert found[size, f"law_{noisy}"] == pytest.approx(law(25, size, noise, SEEDS))


@pytest.mark.parametrize("left_out", ["retrained_units", "lds_subsets"])
def test_without_retrained_units_or_subsets_there_is_no_table(make_study, left_out):
    study = make_study()
    study.answers.plan = replace(study.plan, **{left_out: 0})
    assert dict(tables(study)) == {}
