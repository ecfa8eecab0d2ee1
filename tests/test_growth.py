"""Growth: what part of an ensemble finds, and what the whole one's z foretells of it."""

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from ddattr.validation.bench import Bench
from ddattr.validation.growth import _power, growth
from ddattr.validation.lds import law, lds, noise_ratio
from ddattr.validation.measurement import Measurement
from ddattr.validation.part import Part
from ddattr.validation.retraining import Validation
from scipy import stats
from torch import nn

from ddattr.attribution.power import expected_power
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.source import Source
from ddattr.diffusion.sampler import DDPM

Z = 3 + 1.5 * torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BOOK, SHAPE, SEEDS = Codebook(25, 8, 2), (1, 2, 2), 3
CODEWORDS = BOOK.codewords(torch.arange(25))
PART = Part.draw(5, CODEWORDS, seed=0)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def make_bench(make_linear, process) -> Callable[..., Bench]:
    """Eight members, and five of them, that answer three generated and two real queries at random.

    Those that are not among the five answer by the seed `others`.
    """

    def make(others: int = 0) -> Bench:
        def answers(*shape: int, seed: int) -> torch.Tensor:
            found = randn(8, *shape, seed=100 + seed + others)
            found[PART.members] = randn(5, *shape, seed=seed)
            return found

        plan = Validation(BOOK, {}, 0, units=12, members=5, replicates=SEEDS, halves=10, groups=None, removal_queries=0)
        drawn, real, units = randn(30, *SHAPE, seed=1).float().split([3, 2, 25])
        queries = Measurement(process, DDPM(2).reverse(process), [4, 0, 9], drawn, real, 4, seed=0)
        data = UnitDataModule(Source(units, None), clusters=3)
        response, denoised = (answers(3, *SHAPE, seed=seed).float() for seed in (2, 3))
        bench = Bench(
            plan,
            queries,
            data,
            make_linear(8),
            nn.Module,
            pd.DataFrame(),
            response,
            denoised,
            nn.Flatten(),
            neighbourhoods=(1, 3),
        )
        residual = answers(5, 20, seed=5).transpose(0, 1)
        queries.distances = lambda networks: answers(3, seed=7)
        bench.gram = residual @ residual.mT / 20
        bench.parts = [(Part(torch.arange(8), CODEWORDS), 0, response), (PART, 0, response[PART.members])]
        bench.truth = randn(SEEDS, 12, 3, *SHAPE, seed=8).float()
        bench.half_targets = {"loss": randn(SEEDS, 10, 5, seed=9), "distance": randn(SEEDS, 10, 3, seed=10)}
        return bench

    return make


def curve(bench: Bench) -> pd.Series:
    table = growth(bench, {"generated": {"pixel": randn(25, 3, seed=11)}})
    return table.set_index(["members", "statistic"]).value


def test_what_a_part_finds_does_not_depend_on_the_other_members(make_bench):
    """What is foretold of it does."""
    one, other = curve(make_bench()), curve(make_bench(others=1))
    foretold = one[5].index.str.endswith("_foretold")
    pd.testing.assert_series_equal(one[5][~foretold], other[5][~foretold])
    assert (one[5][foretold] != other[5][foretold]).any()
    own = ~foretold & ~one[5].index.str.contains("law_|pixel|found_")
    assert (one[8][own] != other[8][own]).all()


def test_a_member_s_own_outputs_tell_the_units_that_some_of_the_part_saw_and_others_did_not(make_bench):
    """The mean of those that saw a unit less that of the others, against the half-data models; 0 where all did, or
    none."""
    bench = make_bench()
    found, masks = curve(bench), bench.plan.half_masks()[:10]
    outputs = {"loss": -bench.gram[:3].diagonal(dim1=1, dim2=2).T, "distance": -bench.queries.distances([])}
    assert not PART.told.all()
    for target, method in (("loss", "member_loss"), ("distance", "member_picture")):
        score = torch.zeros(25, 3, dtype=torch.float64)
        for unit in PART.told[:, 0].nonzero()[:, 0].tolist():
            saw, did_not = (
                [k for k in PART.members.tolist() if bool(CODEWORDS[unit, k]) == bit] for bit in (True, False)
            )
            score[unit] = outputs[target][saw].mean(0) - outputs[target][did_not].mean(0)
        expected = lds(score, bench.half_targets[target].mean(0)[:, :3], masks).mean()
        assert found[5, f"lds_{target}_{method}"] == pytest.approx(expected.item())


@pytest.mark.parametrize(("still", "noisy"), [("loss", "distance"), ("distance", "loss")])
def test_the_law_of_a_target_is_of_its_own_noise_on_the_generated_queries(make_bench, still, noisy):
    """A target that is the same at every seed has none; what it is on real queries is not asked."""
    bench = make_bench()
    bench.half_targets[still][:, :, :3] = bench.half_targets[still][:1, :, :3]
    bench.half_targets[noisy] += 2 * randn(1, 10, bench.half_targets[noisy].shape[2], seed=12)
    noise = noise_ratio(bench.half_targets[noisy][:, :, :3]).median().item()
    assert 0.1 < noise < 10
    found = curve(bench)
    for members in (5, 8):
        assert found[members, f"law_{still}"] == pytest.approx((1 + 25 / members) ** -0.5)
        assert found[members, f"law_{noisy}"] == pytest.approx(law(25, members, noise, SEEDS))


def test_what_is_found_has_z_beyond_the_one_sided_level():
    found = _power("nearest:5", Z, Z, 1.0, level=0.01)
    assert list(found) == ["z_nearest:5", "z_nearest:5_foretold", "found_nearest:5", "found_nearest:5_foretold"]
    assert found["z_nearest:5"] == found["z_nearest:5_foretold"] == pytest.approx(Z.mean().item())
    assert found["found_nearest:5"] == (stats.norm.sf(Z.numpy()) <= 0.01).mean()


def test_what_is_foretold_is_of_the_whole_ensemble_alone_and_grows_with_the_root_of_its_share():
    few, more = (_power("nearest", z, Z, 0.25, 0.05) for z in (0 * Z, Z))
    for name in ("z_nearest_foretold", "found_nearest_foretold"):
        assert few[name] == more[name]
    assert few["z_nearest_foretold"] == pytest.approx(Z.mean().item() / 2)
    assert few["found_nearest_foretold"] == expected_power(Z, 0.25)
    assert few["found_nearest"] == 0
