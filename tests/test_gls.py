"""Leave-one-out GLS: a unit is weighed as least squares would without it; its null is exact whatever others do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddattr.attribution.gls import LeaveOneOutGLS
from ddattr.attribution.influence import pull
from ddattr.attribution.significance import pull_significance, set_significance
from ddattr.codebook import Codebook

CODE = Codebook(20, 9, 4)
CODEWORDS = CODE.codewords(torch.arange(20))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near(units: int = 20, queries: int = 2) -> torch.Tensor:
    return torch.rand(units, queries, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def restated(codewords, similarity, share, answers, left_out, q):
    """Generalised least squares with a constant, from the whole covariance of what is not left out."""
    n = codewords.shape[1]
    x = codewords.double() - codewords.double().mean(1, keepdim=True)
    variance = similarity[:, q] ** 2
    size = (variance[:, None] * x**2).sum() / n
    kept = [j for j in range(len(codewords)) if j not in left_out]
    covariance = share * sum(variance[j] * torch.outer(x[j], x[j]) for j in kept) / size
    precision = torch.linalg.inv(covariance + (1 - share) * torch.eye(n, dtype=torch.float64))
    one = torch.ones(n, dtype=torch.float64)
    constant = torch.outer(precision @ one, one @ precision) / (one @ precision @ one)
    return (precision - constant) @ answers * (n - 1) / (precision - constant).trace()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_unit_is_weighed_by_least_squares_with_all_others_discounted(share):
    answers = randn(9, 20, 2)
    found = LeaveOneOutGLS(CODEWORDS, near(), share).adjust(answers)
    for unit in range(20):
        for q in range(2):
            expected = restated(CODEWORDS, near(), share, answers[:, unit, q], [unit], q)
            torch.testing.assert_close(found[:, unit, q], expected)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_set_is_weighed_with_all_that_are_not_in_it_discounted(share):
    answers, sets = randn(9, 20, 2), torch.tensor([[[0, 3, 7], [1, 3, -1]], [[19, -1, -1], [2, 4, 6]]])
    found = LeaveOneOutGLS(CODEWORDS, near(), share).adjust_sets(answers, sets)
    for s, q in ((0, 0), (0, 1), (1, 0), (1, 1)):
        held = [unit for unit in sets[s, q].tolist() if unit >= 0]
        for place, unit in enumerate(held):
            expected = restated(CODEWORDS, near(), share, answers[:, unit, q], held, q)
            torch.testing.assert_close(found[:, s, q, place], expected)


def test_a_set_of_one_unit_is_the_unit():
    answers, gls = randn(9, 20, 2), LeaveOneOutGLS(CODEWORDS, near())
    alone = gls.adjust_sets(answers, torch.arange(20)[:, None, None].expand(-1, 2, -1))
    torch.testing.assert_close(alone[..., 0], gls.adjust(answers))


def test_members_that_say_the_same_say_nothing():
    """To the last bit: rounding is no answer."""
    gls, same = LeaveOneOutGLS(CODEWORDS, near()), torch.full((9, 20, 2), 0.3, dtype=torch.float64)
    assert (gls.adjust(same) == 0).all()
    assert (gls.adjust_sets(same, torch.tensor([[[0, 1]] * 2])) == 0).all()


def test_without_a_share_of_units_scores_are_plain_contrasts():
    answers = randn(9, 20, 2)
    torch.testing.assert_close(
        pull(LeaveOneOutGLS(CODEWORDS, near(), 0.0).adjust(answers), CODEWORDS), pull(answers, CODEWORDS)
    )


@given(st.integers(0, 19), st.integers(0, CODE.phantoms - 1))
def test_a_unit_s_own_codeword_is_not_seen(unit, phantom):
    answers, other = randn(9, 20, 2), CODEWORDS.clone()
    other[unit] = CODE.phantom_codewords(torch.tensor([phantom]))[0]
    before, after = (LeaveOneOutGLS(codewords, near()).adjust(answers) for codewords in (CODEWORDS, other))
    torch.testing.assert_close(after[:, unit], before[:, unit])
    sets = torch.tensor([[[unit, (unit + 1) % 20]] * 2])
    before, after = (LeaveOneOutGLS(codewords, near()).adjust_sets(answers, sets) for codewords in (CODEWORDS, other))
    torch.testing.assert_close(after, before)


def test_the_null_is_exact_whatever_the_other_units_do():
    """Over every codeword that a unit without influence could hold, its p takes every possible value once; the other
    units move the members as they like."""
    x = CODEWORDS.double()
    answers = torch.einsum("jn,juq->nuq", x, randn(20, 20, 1, seed=2) * 5)
    free = torch.cat([CODEWORDS[:1], CODE.phantom_codewords(torch.arange(CODE.phantoms))])
    answers[:, 0, 0] = x[1:].T @ randn(19, seed=3) + randn(9, seed=4)  # unit 0 does nothing
    found = []
    for held in range(len(free)):
        codewords = torch.cat([free[held : held + 1], CODEWORDS[1:]])
        adjusted = LeaveOneOutGLS(codewords, near(queries=1)).adjust(answers)
        _, p = pull_significance(adjusted, codewords, codewords)
        found.append(p[0, 0])
    expected = torch.arange(1, len(free) + 1).double() / len(free)
    torch.testing.assert_close(torch.stack(found).sort().values, expected)


def test_the_sets_null_is_exact_whatever_the_other_units_do():
    """300 codebooks: as many below 0.1 as the level says, within 4 standard errors, a false alarm
    in 15,000."""
    code, p = Codebook(8, 9, 4), []
    sets = torch.tensor([[[0, 1, 2]]])
    for seed in range(300):
        code = Codebook(8, 9, 4, seed)
        codewords = code.codewords(torch.arange(8))
        answers = torch.einsum("jn,juq->nuq", codewords[3:].double(), randn(5, 8, 1, seed=seed) * 5)
        adjusted = LeaveOneOutGLS(codewords, near(8, 1)).adjust_sets(answers, sets)
        p.append(set_significance(sets, adjusted, code)[2])
    assert abs((torch.stack(p) <= 0.1).double().mean() - 0.1) < 4 * (0.1 * 0.9 / 300) ** 0.5


def test_least_squares_have_less_noise_than_contrasts_when_the_others_are_as_said():
    """In closed form, for every unit and query: signal over noise of its weights, noise the covariance without it."""
    share, x = 0.6, CODEWORDS.double() - CODEWORDS.double().mean(1, keepdim=True)
    gains = []
    for q in range(2):
        variance = near()[:, q] ** 2
        size = (variance[:, None] * x**2).sum() / 9
        for unit in range(20):
            kept = torch.arange(20) != unit
            noise = share * (x[kept].T * variance[kept]) @ x[kept] / size + (1 - share) * torch.eye(9)
            own = LeaveOneOutGLS(CODEWORDS, near(), share).adjust(x.T[:, :, None].expand(-1, -1, 2))[:, unit, q]
            gains.append(
                ((own @ x[unit]) ** 2 / (own @ noise @ own)) / ((x[unit] @ x[unit]) ** 2 / (x[unit] @ noise @ x[unit]))
            )
    assert min(gains) > 1 - 1e-9
    assert torch.stack(gains).mean() > 1.05
