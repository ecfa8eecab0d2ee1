"""The judge: unbiased at any p, whatever the saddlepoint says."""

import math

import pytest
import torch

from ddattr.attribution import verified
from ddattr.attribution.estimator import Estimator
from ddattr.attribution.significance import TestSettings, benjamini_hochberg
from ddattr.attribution.streamed import Streamed
from ddattr.attribution.tails import counted, saddlepoint
from ddattr.attribution.verified import drawn, verification, verification_of_sets
from ddattr.codebook import Codebook


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def standard(numbers: torch.Tensor, weight: int) -> torch.Tensor:
    """z of the first members' draw."""
    n, total = len(numbers), numbers[:weight].sum(0)
    return (total - weight * numbers.mean(0)) / (numbers.var(0) * weight * (n - weight) / n).sqrt()


def test_draws_have_the_counted_tail():
    """16 p from 0.5 to 1 of 43,758, each within 4.5 of its standard errors (false alarm 7e-6 each) and 2 draws."""
    numbers = randn(18, 16)
    numbers[:8] += torch.linspace(0, 3, 16)
    p = counted(numbers, numbers[:8].sum(0) - 1e-9, 8) / math.comb(18, 8)
    assert p.min() < 1e-4
    found, error = drawn(numbers[:, None], standard(numbers, 8), 8, draws=20_000)
    assert ((found - p).abs() <= 4.5 * error + 1e-3 * p).all()


@pytest.mark.parametrize(("size", "farthest"), [(1, 6.0), (3, 7.5)])
def test_a_tail_of_1e_12_is_known_to_some_percent(size, farthest):
    """64 members: draws and the saddlepoint agree within 4.5 standard errors, each of less than 5 %, and 3 %."""
    numbers = randn(64, size, 12) / size**0.5
    z = torch.linspace(2, farthest, 12, dtype=torch.float64)
    found, error = drawn(numbers, z, 28, draws=4000)
    p = saddlepoint(numbers, z, 28)
    assert found.min() < 1e-12
    assert (error / found < 0.05).all()
    assert ((found / p - 1).abs() < 4.5 * error / found + 0.03).all()


def test_a_test_s_draws_are_its_own():
    """They have an address: neither the other tests nor the block moves them, and another seed has others."""
    numbers, z = randn(26, 2, 7), torch.linspace(0, 4, 7, dtype=torch.float64)
    whole, error = drawn(numbers, z, 12, seed=3, draws=50)
    alone, _ = drawn(numbers[..., 4:5], z[4:5], 12, seed=3, draws=50)
    torch.testing.assert_close(alone, whole[4:5], rtol=1e-6, atol=0)
    assert not torch.equal(drawn(numbers, z, 12, seed=4, draws=50)[0], whole)
    assert (error > 0).all()


def judged(members: int, weight: int):
    code = Codebook(30, members, weight)
    codewords = code.codewords(torch.arange(30))
    answers = randn(members, 30, 4) + 0.8 * (torch.arange(30) < 3)[:, None] * codewords.T[..., None]
    estimator = Estimator(codewords, torch.ones(30, 4, dtype=torch.float64))
    adjusted = estimator.gls.adjust(answers)
    return code, adjusted, *estimator.test(adjusted)


def test_all_that_pass_and_a_sample_are_verified(monkeypatch):
    monkeypatch.setattr(verified, "_DRAWS", 300)
    code, adjusted, z, p = judged(64, 28)
    seeds = torch.tensor([5, 6, 7, 9])
    table = verification(lambda u, q: adjusted[:, u, q], z, p, code, seeds, TestSettings(0, verified=10))
    passing = benjamini_hochberg(p) <= 0.05
    assert 3 <= passing.sum() < 40
    pairs = set(zip(table["query"], table.unit, strict=True))
    assert {(int(seeds[q]), u) for u, q in passing.nonzero().tolist()} <= pairs
    assert passing.sum() <= len(pairs) == len(table) <= passing.sum() + 10
    for row in table.itertuples():
        assert row.p_value == p[row.unit, seeds.tolist().index(row.query)]
        assert row.ratio == pytest.approx(row.p_value / row.drawn)
    none = verification(lambda u, q: adjusted[:, u, q], z, p, code, seeds, TestSettings(0, verified=0))
    assert len(none) == passing.sum()


def of_some_sets(level: float):
    """Units in sets of three, and pairs, on four queries, tested and verified."""
    code, _, _, _ = judged(18, 8)
    estimator = Estimator(code.codewords(torch.arange(30)), torch.rand(30, 4, dtype=torch.float64) + 0.5)
    answers = randn(18, 30, 4, seed=5) + 0.3 * estimator.codewords.T[..., None]
    sets = torch.cat([torch.arange(30).reshape(10, 3), torch.tensor([[0, 9, -1], [4, -1, -1]])])
    sets = sets[:, None].expand(-1, 4, -1)
    names = [f"some:{i}" for i in range(12)]
    _, z, p = estimator.test_sets(answers, sets, code)
    streamed = Streamed(estimator, lambda units: answers[:, units], 30)
    given = names, sets, streamed.sets, z, p, code, torch.tensor([5, 6, 7, 9]), TestSettings(0, level=level)
    return p, verification_of_sets(*given)


def test_some_sets_that_pass_are_verified():
    p, table = of_some_sets(0.9)
    assert len(table) == 8
    assert "some:11" not in set(table.set)  # of one unit
    for row in table.itertuples():
        assert row.p_value == p[int(row.set.partition(":")[2]), [5, 6, 7, 9].index(row.query)]
        assert abs(row.drawn - row.p_value) < 4.5 * row.error + 0.03 * row.p_value + 1e-9
    p, table = of_some_sets(1e-12)
    assert (p[:11] > 1e-12).all()
    assert table.empty
    assert list(table) == ["query", "unit", "p_value", "drawn", "error", "ratio", "set"]


def test_what_is_counted_needs_no_judge():
    code, adjusted, z, p = judged(18, 8)
    assert verification(lambda u, q: adjusted[:, u, q], z, p, code, torch.arange(4), TestSettings(0)) is None
