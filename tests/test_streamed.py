"""Blocks of units: of any size, they make what all units at once do."""

import pytest
import torch

from ddattr.attribution.denoising import Distinctive, distinctive
from ddattr.attribution.estimator import Estimator
from ddattr.attribution.influence import similarity
from ddattr.attribution.streamed import Streamed
from ddattr.codebook import ORTHOGONAL, Codebook

CODES = {
    "counted": Codebook(40, 12, 5),
    "saddlepoint": Codebook(40, 32, 14),
    "orthogonal": Codebook(40, 64, 32, design=ORTHOGONAL),
}
ROUNDED = {"rtol": 1e-9, "atol": 1e-12}
BLOCKS = pytest.mark.parametrize("block", [1, 7, 39, 40, 1000])


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=list(CODES))
def code(request) -> Codebook:
    return CODES[request.param]


@pytest.fixture
def estimator(code) -> Estimator:
    near = similarity(1 + torch.rand(40, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    return Estimator(code.codewords(torch.arange(40)), near, basis=code.basis)


@pytest.fixture
def answers(code) -> torch.Tensor:
    """Of members, some units of which matter."""
    words = code.codewords(torch.arange(40)).T[..., None]
    return randn(code.members, 40, 3) + 2.0 * words * (torch.arange(40) % 9 == 0)[:, None]


@pytest.fixture
def estimated(request) -> tuple[Codebook, Estimator, torch.Tensor]:
    """A code of random words, an estimator and answers."""
    code = CODES[getattr(request, "param", "saddlepoint")]
    near = similarity(1 + torch.rand(40, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    return code, Estimator(code.codewords(torch.arange(40)), near), randn(code.members, 40, 3)


@BLOCKS
def test_blocks_have_the_scores_and_tests_of_all_units_at_once(estimator, answers, block):
    found = Streamed(estimator, lambda units: answers[:, units], block).found()
    whole = estimator.estimate(answers)
    for name in ("plain", "pull", "deviation", "posterior"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), **ROUNDED)
    z, p = estimator.test(whole.adjusted)
    torch.testing.assert_close(found.z, z, **ROUNDED)
    torch.testing.assert_close(found.p, p, rtol=1e-6, atol=0)  # Newton's rounds are those of the slowest of a block


def test_one_block_is_all_units_at_once_to_the_bit(estimator, answers):
    found, whole = Streamed(estimator, lambda units: answers[:, units], 40).found(), estimator.estimate(answers)
    for name in ("plain", "pull", "deviation", "posterior"):
        assert torch.equal(getattr(found, name), getattr(whole, name))
    assert all(torch.equal(*pair) for pair in zip((found.z, found.p), estimator.test(whole.adjusted), strict=True))


@BLOCKS
def test_no_more_units_than_a_block_are_asked_of_at_once(estimator, answers, block):
    asked = []

    def of(units):
        asked.append(units.tolist())
        return answers[:, units]

    Streamed(estimator, of, block).found()
    assert max(map(len, asked)) <= block
    assert [unit for units in asked for unit in units] == list(range(40))


@BLOCKS
def test_sets_are_tested_as_all_at_once_whatever_the_blocks(estimator, answers, code, block):
    """Of a partition, and of neighbourhoods that are every query's own; one set is padded, one of a single unit."""
    fixed = torch.tensor([[0, 9, 18, 27], [1, 2, 3, -1], [5, -1, -1, -1]])[:, None].expand(-1, 3, -1)
    own = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(q))[:4] for q in range(3)])[None]
    sets = torch.cat([fixed, own])
    found = Streamed(estimator, lambda units: answers[:, units], block).test_sets(sets, code)
    for one, other in zip(found, estimator.test_sets(answers, sets, code), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)


@BLOCKS
@pytest.mark.parametrize("estimated", ["counted", "saddlepoint"], indirect=True)
def test_large_sets_have_the_score_and_z_of_sets_that_are_held(estimated, block, monkeypatch):
    """Of sets that are the same for all queries, and of every query's own; smaller ones stay as they are."""
    code, estimator, answers = estimated
    fixed = torch.tensor([[0, 9, 18, 27, 36, 2], [1, 2, 3, -1, -1, -1], [5, -1, -1, -1, -1, -1]])[:, None].expand(
        -1, 3, -1
    )
    own = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(q))[:6] for q in range(3)])[None]
    sets = torch.cat([fixed, own])
    wanted = Streamed(estimator, lambda units: answers[:, units], 40).test_sets(sets, code)
    monkeypatch.setattr("ddattr.attribution.streamed.LARGE", 3)
    found = Streamed(estimator, lambda units: answers[:, units], block).test_sets(sets, code)
    for one, other in zip(found[:2], wanted[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found[2][1:3], wanted[2][1:3], rtol=1e-6, atol=0)
    assert not torch.equal(found[2][[0, 3]], wanted[2][[0, 3]])  # by another way


def test_a_large_set_of_members_whose_codewords_no_integer_of_64_bits_counts(monkeypatch):
    code, answers, alike = Codebook(40, 72, 32), randn(72, 40, 1), torch.ones(40, 1, dtype=torch.float64)
    streamed = Streamed(Estimator(code.codewords(torch.arange(40)), alike), lambda units: answers[:, units], 7)
    wanted = streamed.test_sets(torch.arange(9)[None, None], code)
    monkeypatch.setattr("ddattr.attribution.streamed.LARGE", 3)
    found = streamed.test_sets(torch.arange(9)[None, None], code)
    for one, other in zip(found[:2], wanted[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    assert 0 < found[2].item() <= 1


def test_no_more_units_of_a_large_set_than_a_block_are_asked_of_at_once(estimated, monkeypatch):
    code, estimator, answers = estimated
    monkeypatch.setattr("ddattr.attribution.streamed.LARGE", 8)
    asked = []
    streamed = Streamed(estimator, lambda units: asked.append(len(units)) or answers[:, units], 7)
    streamed.test_sets(torch.arange(30).expand(1, 3, -1), code)
    assert asked == [7, 7, 7, 7, 2]


@BLOCKS
def test_pairs_are_those_of_all_adjusted_answers(estimator, answers, block):
    streamed = Streamed(estimator, lambda units: answers[:, units], block)
    units, queries = torch.tensor([7, 0, 39, 7, 7]), torch.tensor([0, 1, 2, 2, 0])
    expected = estimator.estimate(answers).adjusted[:, units, queries]
    torch.testing.assert_close(streamed.pairs(units, queries), expected, **ROUNDED)


def test_what_is_said_of_some_units_is_what_is_said_of_all():
    response, images, distance = randn(5, 3, 1, 8, 8), randn(40, 1, 8, 8, seed=1).float(), randn(40, 3, seed=2).abs()
    said, units = Distinctive(response.float(), images, distance), torch.tensor([3, 38, 0])
    torch.testing.assert_close(said(units), distinctive(response.float(), images, distance)[:, units], **ROUNDED)
