"""Least squares of all effects at once, and its t-test: held against lstsq and closed forms; false alarms counted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from ddattr.attribution.estimator import Estimator
from ddattr.attribution.gls import LeaveOneOutGLS
from ddattr.attribution.influence import pull
from ddattr.attribution.significance import benjamini_hochberg
from ddattr.codebook import ORTHOGONAL, Codebook, encode

CODE = encode(13, 20, design=ORTHOGONAL)
CODEWORDS = CODE.basis
NEAR = 0.5 + torch.rand(13, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WHOLE = Estimator(CODEWORDS, NEAR, basis=CODEWORDS)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ANSWERS = randn(20, 13, 3)


def fitted(answers: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(effects, their standard errors) of all units by ordinary least squares, from the textbook."""
    design = np.column_stack([np.ones(20), CODEWORDS.double().T.numpy()])
    effects, residual, *_ = np.linalg.lstsq(design, answers.numpy(), rcond=None)
    error = np.sqrt(residual[0] / (20 - 14) * np.diag(np.linalg.inv(design.T @ design)))
    return effects[1:], error[1:]


def test_estimates_are_ordinary_least_squares_and_so_are_plain_contrasts():
    """A pull is half an effect: the mean of all members less that of half of them."""
    found = WHOLE.estimate(ANSWERS)
    for unit in range(13):
        for q in range(3):
            effects, error = fitted(ANSWERS[:, unit, q])
            assert found.pull[unit, q].item() == pytest.approx(effects[unit] / 2)
            assert found.deviation[unit, q].item() == pytest.approx(error[unit] / 2)
    torch.testing.assert_close(found.plain, found.pull)
    torch.testing.assert_close(found.plain, pull(ANSWERS, CODEWORDS))


def test_p_is_that_of_the_t_test_of_the_regression():
    z, p = WHOLE.test(WHOLE.estimate(ANSWERS).adjusted)
    for unit in range(13):
        for q in range(3):
            effects, error = fitted(ANSWERS[:, unit, q])
            assert z[unit, q].item() == pytest.approx(effects[unit] / error[unit])
            assert p[unit, q].item() == pytest.approx(stats.t.sf(effects[unit] / error[unit], 6))
    torch.testing.assert_close(z, WHOLE.estimate(ANSWERS).z)


def test_the_error_is_the_root_mean_square_of_what_words_of_no_unit_say():
    """Which leaves their number, 6, as degrees of freedom."""
    unused = CODE.sample_phantoms(100)
    assert len(unused) == CODE.freedom == 6
    along = torch.einsum("pn,nuq->puq", unused.double() * 2 - 1, ANSWERS) / 20
    torch.testing.assert_close(WHOLE.estimate(ANSWERS).deviation, along.square().mean(0).sqrt())


def test_what_other_units_do_is_in_no_estimate_and_in_no_error():
    found, effects = WHOLE.estimate(ANSWERS), 100 * randn(13, 13, 3, seed=4)
    effects[torch.arange(13), torch.arange(13)] = 0  # of every unit along every direction but its own
    other = WHOLE.estimate(ANSWERS + torch.einsum("jn,juq->nuq", CODEWORDS.double(), effects) + 7)
    for one, another in zip(found[2:4], other[2:4], strict=True):
        torch.testing.assert_close(one, another)


def test_scaled_answers_have_the_same_p_and_the_opposite_ones_its_complement():
    """1 to the bit where nothing varies."""
    _, p = WHOLE.test(WHOLE.gls.adjust(ANSWERS))
    _, scaled = WHOLE.test(WHOLE.gls.adjust(1000 * ANSWERS))
    _, opposite = WHOLE.test(WHOLE.gls.adjust(-ANSWERS))
    torch.testing.assert_close(p, scaled)
    torch.testing.assert_close(p, 1 - opposite)
    z, p = WHOLE.test(WHOLE.gls.adjust(torch.full((20, 13, 3), 0.1)))
    assert (p == 1).all()
    assert (z == 0).all()


def test_neither_the_order_of_members_nor_that_of_units_matters():
    members, units = torch.randperm(20, generator=torch.Generator().manual_seed(2)), torch.arange(13).flip(0)
    words = CODEWORDS[units][:, members]
    other = Estimator(words, NEAR[units], basis=words)
    z, p = WHOLE.test(WHOLE.gls.adjust(ANSWERS))
    found = other.test(other.gls.adjust(ANSWERS[members][:, units]))
    torch.testing.assert_close(found, (z[units], p[units]))
    some = torch.tensor([3, 1])
    asked = WHOLE.test(WHOLE.gls.adjust(ANSWERS)[:, some], CODEWORDS[some])
    torch.testing.assert_close(asked, (z[some], p[some]))


def test_all_members_are_the_ensemble_and_some_are_an_ensemble_like_any_other():
    for one, other in zip(WHOLE.of_members(torch.arange(20)).estimate(ANSWERS), WHOLE.estimate(ANSWERS), strict=True):
        assert torch.equal(one, other)
    part = torch.arange(12)
    expected = Estimator(CODEWORDS, NEAR).of_members(part).estimate(ANSWERS[part])
    for one, other in zip(WHOLE.of_members(part).estimate(ANSWERS[part]), expected, strict=True):
        assert torch.equal(one, other)


def test_generalised_least_squares_have_nothing_to_discount_of_orthogonal_words():
    """Up to scale, whatever is thought of the others: their ranks are those of plain contrasts."""
    adjusted = LeaveOneOutGLS(CODEWORDS, NEAR, 0.7).adjust(ANSWERS)
    for unit in range(13):
        ratio = pull(adjusted, CODEWORDS)[unit] / pull(ANSWERS, CODEWORDS)[unit]
        plain = LeaveOneOutGLS(CODEWORDS, NEAR, 0.7).adjust(CODEWORDS.T[:, :, None].double().expand(-1, -1, 3))
        expected = pull(plain, CODEWORDS)[unit] / pull(CODEWORDS.T[:, :, None].double(), CODEWORDS)[unit]
        torch.testing.assert_close(ratio, expected)


# -- sets


def test_a_set_of_one_is_its_unit_and_an_empty_one_is_not_tested():
    sets = torch.tensor([[[4, -1]], [[-1, -1]]]).expand(-1, 3, -1)
    total, z, p = WHOLE.test_sets(ANSWERS, sets, CODE)
    unit_z, unit_p = WHOLE.test(WHOLE.gls.adjust(ANSWERS))
    torch.testing.assert_close(z[0], unit_z[4])
    torch.testing.assert_close(p[0], unit_p[4])
    torch.testing.assert_close(total[0], (NEAR * WHOLE.estimate(ANSWERS).pull)[4])
    assert p[1].isnan().all()
    torch.testing.assert_close(WHOLE.z_of_sets(ANSWERS, sets, CODE.capacity), z)


def test_a_set_along_one_direction_is_tested_as_the_sum_of_its_effects_is():
    """In the regression the sum of k equal-weighted effects has the variance of one, k times."""
    answers, held = ANSWERS[:, :1].expand(-1, 13, -1), torch.tensor([0, 5, 9])
    _, z, p = Estimator(CODEWORDS, torch.ones(13, 3), basis=CODEWORDS).test_sets(answers, held.expand(1, 3, -1), CODE)
    for q in range(3):
        effects, error = fitted(ANSWERS[:, 0, q])
        t = effects[held].sum() / (error[0] * 3**0.5)
        assert z[0, q].item() == pytest.approx(t)
        assert p[0, q].item() == pytest.approx(stats.t.sf(t, 6))


# -- how often, and how well


@pytest.mark.parametrize("noise", ["normal", "uniform", "lognormal"])
def test_units_without_effects_are_found_at_the_level_beside_others_with_large_ones(noise):
    """20,000 draws, one test each, within 4 standard errors of the level (a false alarm in 15,000) of normal noise, of
    which the test is exact; at most a tenth and as much above it of noise without tails, or with long ones."""
    draws, rng = 20_000, np.random.default_rng(3)
    estimator = Estimator(CODEWORDS[:1], torch.ones(1, draws), basis=CODEWORDS)
    values = {
        "normal": rng.normal(size=(20, draws)),
        "uniform": rng.uniform(size=(20, draws)),
        "lognormal": rng.lognormal(0, 1, (20, draws)),
    }[noise]
    shuffled = torch.from_numpy(rng.permuted(values, axis=0))  # which column is which member
    effects = 5 * randn(12, draws, seed=6)
    answers = shuffled + torch.einsum("jn,jd->nd", CODEWORDS[1:].double(), effects)
    _, p = estimator.test(estimator.gls.adjust(answers[:, None]))
    for level in (0.05, 0.01):
        rate, error = (p <= level).double().mean().item(), 4 * (level * (1 - level) / draws) ** 0.5
        assert rate < (level if noise == "normal" else 1.1 * level) + error
        assert rate > (level - error if noise == "normal" else level / 3)


def test_sets_of_several_directions_are_found_no_oftener_than_the_level():
    """2,000 draws of three sets: at most the level by 4 standard errors of independent draws."""
    sets = torch.tensor([[0, 1, 2, 3], [4, 5, -1, -1], [6, 7, 8, -1]])[:, None].expand(-1, 2000, -1)
    estimator = Estimator(CODEWORDS, NEAR[:, :1].expand(-1, 2000), basis=CODEWORDS)
    rates = (estimator.test_sets(randn(20, 13, 2000), sets, CODE)[2] <= 0.05).double().mean(1)
    assert (rates < 0.05 + 4 * (0.05 * 0.95 / 2000) ** 0.5).all()


def additive(code: Codebook, effect: float, seed: int) -> tuple[Estimator, torch.Tensor, torch.Tensor]:
    """An estimator, effects, and answers along one direction, in deviations of a member's noise."""
    words, effects = code.codewords(torch.arange(code.units)), effect * randn(code.units, seed=seed)
    answers = effects @ words.double() + randn(code.members, seed=10_000 + seed)
    estimator = Estimator(words, torch.ones(code.units, 1, dtype=torch.float64), basis=code.basis)
    return estimator, effects, answers[:, None, None].expand(-1, code.units, 1)


def compared(units: int, members: int, effect: float, simulations: int) -> dict[str, np.ndarray]:
    """Of random and of orthogonal words, (simulations, 3): correlation of estimates with the truth, which both share;
    share of positive effects with p <= 0.05; share of units with q <= 0.05."""
    rows: dict[str, list] = {"random": [], "orthogonal": []}
    for seed in range(simulations):
        for design, found in rows.items():
            code = replace(encode(units, members, design=design), seed=seed)
            estimator, effects, answers = additive(code, effect, seed)
            estimate = estimator.estimate(answers)
            _, p = estimator.test(estimate.adjusted)
            correlation = np.corrcoef(estimate.pull[:, 0], effects)[0, 1]
            passing = (p[effects > 0] <= 0.05).double().mean().item()
            found.append([correlation, passing, (benjamini_hochberg(p) <= 0.05).double().mean().item()])
    return {design: np.array(found) for design, found in rows.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("units", "effect"), [(60, 0.3), (30, 0.3), (60, 1.0), (30, 1.0)])
def test_orthogonal_words_say_more_than_random_ones_discounted(units, effect):
    """At n = 64, equal cost; -s prints the table. Effects of 0.3 are too small for q to pass: there no fewer are found,
    by 4 standard errors of the paired difference (a false alarm in 15,000 were there none); of 1.0 more are."""
    found = compared(units, 64, effect, 100)
    for design, rows in found.items():
        correlation, passing, units_found = rows.mean(0)
        print(f"N={units} n=64 effects={effect}: {design:<10} r={correlation:.3f} p={passing:.3f} q={units_found:.4f}")
    gain = found["orthogonal"] - found["random"]
    correlation, _, more = gain.mean(0) / (gain.std(0, ddof=1) / len(gain) ** 0.5)
    assert gain.mean(0)[0] > 0.02
    assert correlation > 4
    assert more > (4 if effect == 1.0 else -4)
