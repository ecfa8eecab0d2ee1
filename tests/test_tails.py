"""Tails: counted by halves as by going through all, and the saddlepoint's as near to them as is said."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from ddattr.attribution.tails import _EDGE, _within, counted, saddlepoint


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draws(members: int, weight: int) -> torch.Tensor:
    """All of them, as rows of bits."""
    chosen = torch.tensor(list(combinations(range(members), weight)))
    return torch.zeros(len(chosen), members, dtype=torch.float64).scatter_(1, chosen, 1)


def standard(numbers: torch.Tensor, total: torch.Tensor, weight: int) -> torch.Tensor:
    """z of sums (tests,) over a set's units, numbers (n, size, tests)."""
    n = len(numbers)
    deviation = (numbers.var(0).sum(0) * weight * (n - weight) / n).sqrt()
    return (total - weight * numbers.mean(0).sum(0)) / deviation


@given(st.integers(2, 11), st.data())
def test_counting_by_halves_is_going_through_all(members, data):
    weight = data.draw(st.integers(1, members - 1))
    numbers = randn(members, 5, seed=data.draw(st.integers(0, 99)))
    sums = draws(members, weight) @ numbers
    for least in (numbers[:weight].sum(0), sums.amax(0), sums.amax(0) + 1, sums.amin(0)):
        least = least - 1e-9
        assert torch.equal(counted(numbers, least, weight), (sums >= least).sum(0))


def test_a_test_s_count_does_not_depend_on_the_others():
    numbers = randn(20, 700)
    least = numbers[:9].sum(0)
    apart = torch.cat([counted(part, of, 9) for part, of in zip(numbers.split(13, 1), least.split(13), strict=True)])
    assert torch.equal(counted(numbers, least, 9), apart)
    assert counted(numbers, torch.full((700,), -1e9, dtype=torch.float64), 9).unique().tolist() == [math.comb(20, 9)]


@pytest.mark.parametrize(("members", "weight", "bound"), [(18, 8, 0.12), (22, 10, 0.05), (24, 11, 0.035)])
def test_the_saddlepoint_is_near_the_counted_tail(members, weight, bound):
    """Of 95 of 100 tests on normal numbers, at p of 0.001 to 0.5; its median is nearer than 1 %."""
    numbers = randn(members, 1, 300)
    numbers[:weight] += torch.linspace(0, 1.2, 300)
    total = numbers[:weight, 0].sum(0)
    p = counted(numbers[:, 0], total - 1e-9, weight) / math.comb(members, weight)
    ratio = saddlepoint(numbers, standard(numbers, total, weight), weight)[p > 1e-3] / p[p > 1e-3]
    assert len(ratio) > 150
    assert abs(ratio.median() - 1) < 0.01
    assert (ratio - 1).abs().quantile(0.95) < bound


def test_of_two_values_it_is_the_hypergeometric_tail_between_its_steps():
    """A lattice: 32 of 64 numbers are 1. The tail of a continuous sum lies between those of a step and of the next."""
    numbers = (torch.arange(64) < 32).double()[:, None, None].expand(-1, 1, 12) + 1e-4 * randn(64, 1, 12)
    total = torch.arange(14.0, 26.0, dtype=torch.float64)
    p = saddlepoint(numbers, standard(numbers, total, 28), 28)
    upper, lower = (torch.from_numpy(hypergeom(64, 32, 28).sf(total.numpy() - step)) for step in (1, 0))
    assert (p <= upper).all()
    assert (p >= lower).all()


def test_upper_and_lower_tails_are_one():
    numbers, z = randn(40, 3, 200), torch.linspace(-6, 6, 200, dtype=torch.float64)
    both = saddlepoint(numbers, z, 18) + saddlepoint(-numbers, -z, 18)
    torch.testing.assert_close(both, torch.ones_like(both), rtol=0, atol=1e-6)


def test_members_that_draw_are_those_that_do_not_turned_round():
    """The sum over h of n is the whole less that over the others."""
    numbers, z = randn(30, 2, 100), torch.linspace(-4, 4, 100, dtype=torch.float64)
    torch.testing.assert_close(saddlepoint(-numbers, z, 30 - 13), saddlepoint(numbers, z, 13), rtol=1e-5, atol=0)


@given(st.floats(-3, 3), st.floats(1e-6, 1e6), st.permutations(range(26)))
def test_neither_place_nor_scale_nor_order_of_members_moves_it(shift, scale, order):
    numbers, z = randn(26, 2, 40), torch.linspace(-4, 5, 40, dtype=torch.float64)
    expected = saddlepoint(numbers, z, 12)
    torch.testing.assert_close(saddlepoint(scale * numbers[order] + shift, z, 12), expected, rtol=1e-4, atol=0)


def test_units_that_do_not_vary_change_nothing():
    numbers, z = randn(26, 2, 40), torch.linspace(-4, 5, 40, dtype=torch.float64)
    padded = torch.cat([numbers, torch.full((26, 3, 40), 7.0, dtype=torch.float64)], 1)
    torch.testing.assert_close(saddlepoint(padded, z, 12), saddlepoint(numbers, z, 12), rtol=1e-6, atol=0)
    assert (saddlepoint(padded[:, 2:], z, 12) == 1).all()


def test_many_units_are_normal():
    """Central limit: the sum of 300 units' draws, within 1 % of the normal tail down to 1e-3."""
    z = torch.linspace(-2, 3, 20, dtype=torch.float64)
    p = saddlepoint(randn(24, 300, 20), z, 11)
    torch.testing.assert_close(p, torch.special.ndtr(-z), rtol=1e-2, atol=0)


def hostile(members: int, kind: str) -> torch.Tensor:
    plain = randn(members, 1, 200)
    first = (torch.arange(members) == 0)[:, None, None]
    return {
        "heavy": plain**5,
        "outlier": plain + 20 * first,
        "two outliers": plain - 100 * (torch.arange(members) < 2)[:, None, None],
        "all but two values": plain.sign() + 1e-6 * plain,
        "one member": 1e-6 * plain + first,
    }[kind]


KINDS = ["heavy", "outlier", "two outliers", "all but two values", "one member"]


def over_the_range(numbers: torch.Tensor, weight: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums from the smallest to the largest there is, and their z."""
    ordered = numbers[:, 0, 0].sort().values
    low, high = float(ordered[:weight].sum()), float(ordered[-weight:].sum())
    total = torch.linspace(low, high, numbers.shape[2], dtype=torch.float64)
    return total, standard(numbers, total, weight)


@pytest.mark.parametrize("members", [22, 64, 256])
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_numbers_have_no_p_that_is_far_too_small(members, kind):
    """At the ends of the range and past them it is that of all, and of next to none; below the mean Cantelli's bound
    holds; nowhere is it less than a quarter of what 4,000 plain draws say, within 4.5 of their standard errors."""
    weight = members * 4 // 9
    numbers = hostile(members, kind)[..., :1].expand(-1, 1, 200)
    _, z = over_the_range(numbers, weight)
    z = torch.cat([z[:1] - 5, z[1:-1], z[-1:] + 5])
    p = saddlepoint(numbers, z, weight)
    assert p[0] > 0.9
    assert (p >= torch.where(z < 0, z.square() / (1 + z.square()), 0)).all()
    order = torch.rand(4000, members, generator=torch.Generator().manual_seed(2)).argsort(1)[:, :weight]
    sums = torch.sort(standard(numbers[..., :1], numbers[order, 0, 0].sum(1), weight)).values
    share = 1 - torch.searchsorted(sums, z + 1e-9).double() / 4000
    assert (p >= share / 4 - 4.5 * (share * (1 - share) / 4000).sqrt()).all()


@pytest.mark.parametrize(("kind", "wrong"), zip(KINDS, (0.01, 0.01, 0.03, 0.2, 0.03), strict=True))
def test_on_hostile_numbers_it_is_seldom_wrong_by_half(kind, wrong):
    """22 members, counted. Sums of all but two values are a lattice, and the worst; the judge is for those."""
    numbers, weight = hostile(22, kind)[..., :1].expand(-1, 1, 200), 9
    total, z = over_the_range(numbers, weight)
    p = counted(numbers[:, 0], total - 1e-9 * numbers.std(), weight) / math.comb(22, weight)
    ratio = saddlepoint(numbers, z, weight)[p > 1e-4] / p[p > 1e-4]
    assert ((ratio < 1 / 2) | (ratio > 2)).double().mean() <= wrong
    assert ratio.median() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kind", ["normal", *KINDS])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(("members", "weight"), [(64, 28), (64, 60), (7, 3)])
def test_a_z_is_taken_back_from_the_range_s_end_whether_or_not_that_was_looked_for(kind, size, members, weight):
    """To the bit what it is by the ordered numbers, test by test: most are too small to need them."""
    parts = [randn(members, 1, 200, seed=s) if kind == "normal" else hostile(members, kind) for s in range(size)]
    a = torch.cat(parts, 1).double()
    a = a - a.mean(0)
    a = a / (a.square().sum((0, 1)) * (weight * (1 - weight / members) / (members - 1))).sqrt()
    for one in a.split(1, 2)[::20]:
        ordered = one.sort(0).values
        low, high = ordered[:weight].sum((0, 1)), ordered[-weight:].sum((0, 1))
        bound = _EDGE * (high - low)
        for z in torch.linspace(-8, 8, 65, dtype=torch.float64)[:, None]:
            assert torch.equal(_within(one, z, weight), z.clamp(low + bound, high - bound))


def test_a_z_that_is_well_within_the_range_is_not_looked_at_twice(monkeypatch):
    """64 normal numbers: none of one deviation is near an end."""
    numbers, z = randn(64, 1, 50), torch.linspace(-1, 1, 50, dtype=torch.float64)
    monkeypatch.setattr(torch.Tensor, "sort", lambda *_: pytest.fail("numbers were ordered"))
    saddlepoint(numbers, z, 28)
