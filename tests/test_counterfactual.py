"""Counterfactuals: the factual's own tape, under the members that never saw the unit."""

import pytest
import torch
from torch import nn

from ddattr.attribution.counterfactual import ablated, ablated_each, counterfactual, factual
from ddattr.codebook import Codebook, ablation
from ddattr.diffusion.conditions import Given
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.sampler import DDPM, trajectory
from ddattr.ensemble.ensemble import Ensemble

SHAPE = (1, 8, 8)
SEEDS = [0, 7]
CODEWORDS = torch.tensor([[True, False, False], [False, True, False], [True, True, False]])


@pytest.fixture
def reverse(process):
    return DDPM(4).reverse(process)


def replay(networks, reverse) -> torch.Tensor:
    """Pictures on the seeds' tape under the plain mean of some networks."""

    def mean(x, t):
        return sum(network(x, t) for network in networks) / len(networks)

    *_, x = trajectory(mean, reverse, noise_tape(SEEDS, 4, SHAPE))
    return x


def test_the_factual_is_the_replay_of_all_members(unets, reverse):
    torch.testing.assert_close(factual(unets, SEEDS, reverse, SHAPE), replay(unets.members, reverse))


def test_a_counterfactual_is_the_replay_of_the_members_that_never_saw_the_unit(unets, reverse):
    pictures = counterfactual(unets, CODEWORDS, SEEDS, reverse, SHAPE)
    for picture, codeword in zip(pictures, CODEWORDS.tolist(), strict=True):
        survivors = [network for network, saw in zip(unets.members, codeword, strict=True) if not saw]
        torch.testing.assert_close(picture, replay(survivors, reverse))


def test_a_member_that_saw_the_unit_is_never_called(make_unets, reverse):
    class Untouchable(nn.Module):
        def forward(self, x, t):
            raise AssertionError("a member that saw the unit was called")

    ensemble = Ensemble([*make_unets(2), Untouchable()])
    codewords = torch.tensor([[False, True, True], [True, False, True], [False, False, True]])
    assert counterfactual(ensemble, codewords, SEEDS, reverse, SHAPE).shape == (3, 2, *SHAPE)


@pytest.mark.parametrize("units_per_pass", [1, 2, 64])
def test_units_per_pass_changes_nothing_beyond_rounding(unets, reverse, units_per_pass):
    pictures = counterfactual(unets, CODEWORDS, SEEDS, reverse, SHAPE, units_per_pass=units_per_pass)
    expected = counterfactual(unets, CODEWORDS, SEEDS, reverse, SHAPE)
    torch.testing.assert_close(pictures, expected, rtol=0, atol=1e-5)


def test_identical_members_have_no_counterfactual_but_the_factual(make_unets, reverse):
    ensemble = Ensemble(make_unets(1) * 4)
    codewords = Codebook(5, 4, 2).codewords(torch.arange(5))
    pictures = counterfactual(ensemble, codewords, SEEDS, reverse, SHAPE)
    expected = factual(ensemble, SEEDS, reverse, SHAPE).expand_as(pictures)
    torch.testing.assert_close(pictures, expected, rtol=0, atol=1e-5)


def test_equal_codewords_give_equal_counterfactuals(unets, reverse):
    first, second = counterfactual(unets, CODEWORDS[[0, 0]], SEEDS, reverse, SHAPE)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def test_a_unit_that_every_member_saw_is_refused(unets, reverse):
    with pytest.raises(ValueError, match="seen by every member"):
        counterfactual(unets, torch.tensor([[True, False, True], [True, True, True]]), SEEDS, reverse, SHAPE)


class Counted(nn.Module):
    """Adds up the pictures that it is asked of."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale, self.asked = scale, 0

    def forward(self, x, t):
        self.asked += len(x)
        return self.scale * torch.tanh(x)


def test_before_the_first_step_units_share_what_every_member_says(reverse):
    """Pictures part with the first step: there a member is asked of each query once, then of each unit without it."""
    members = [Counted(0.1 * (k + 1)) for k in range(3)]
    counterfactual(Ensemble(members), CODEWORDS, SEEDS, reverse, SHAPE)
    alive = (~CODEWORDS).sum(0).tolist()
    assert [member.asked for member in members] == [2 * (1 + 3 * units) for units in alive]


@pytest.mark.parametrize(
    "of", [CODEWORDS, CODEWORDS[:, None].expand(-1, 2, -1), CODEWORDS[torch.tensor([[0, 2], [1, 1]])]]
)
def test_rows_that_share_their_pictures_have_what_each_alone_has(unets, of):
    """Of weights for all queries, or of each query's own."""
    x, weights = noise_tape(SEEDS, 0, SHAPE)[0], ablation(of)
    denoiser = unets.weighted(weights)
    torch.testing.assert_close(denoiser(x, 3), denoiser(x.expand(len(weights), *x.shape), 3), rtol=0, atol=1e-6)


def test_each_querys_own_units_are_replayed_once_and_known_ones_not_at_all(unets, reverse):
    """Four units, of which 0 and 2 are known; unit 3 is asked twice of query 0, and once of query 1."""
    codewords = torch.tensor([[True, False, False], [False, True, False], [True, True, False], [False, False, True]])
    tape = noise_tape(SEEDS, 4, SHAPE)
    known = torch.tensor([0, 2])
    exact = ablated(unets, codewords[known], tape, reverse)
    units = torch.tensor([[3, 0], [3, 3], [2, 1]])
    expected = ablated(unets, codewords[units], tape, reverse)
    for together in (1, 64):
        found = ablated_each(unets, codewords, units, tape, reverse, (known, exact), together)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(found[1:, 0], torch.stack([found[0, 0], exact[1, 0]]))
    counted = Ensemble([Counted(0.1 * (k + 1)) for k in range(3)])
    ablated_each(counted, codewords, units, tape, reverse, (known, exact))
    # of query 0 unit 3; of query 1 units 3 and 1
    assert [member.asked for member in counted.members] == [4 * 3, 4 * 2, 4 * 1]


def test_nothing_is_replayed_where_all_is_known(reverse):
    counted, tape = Ensemble([Counted(0.1 * (k + 1)) for k in range(3)]), noise_tape(SEEDS, 4, SHAPE)
    exact = torch.randn(3, 2, *SHAPE)
    units = torch.tensor([[2, 0], [0, 1]])
    found = ablated_each(counted, CODEWORDS, units, tape, reverse, (torch.arange(3), exact))
    assert torch.equal(found, exact[units, torch.arange(2)])
    assert not any(member.asked for member in counted.members)


def test_under_conditions_each_pair_is_asked_under_its_querys(process, reverse):
    class Scaled(nn.Module):
        def forward(self, x, t, condition):
            return (1 + condition[:, None, None, None]) * torch.tanh(x)

    ensemble = Ensemble([Scaled(), Scaled(), Scaled()]).given(Given(torch.tensor([0.0, 1.0])))
    tape, units = noise_tape([7, 7], 4, SHAPE), torch.tensor([[1, 2], [2, 2]])
    exact = ablated(ensemble, CODEWORDS[:1], tape, reverse)
    found = ablated_each(ensemble, CODEWORDS, units, tape, reverse, (torch.tensor([0]), exact))
    torch.testing.assert_close(found, ablated(ensemble, CODEWORDS[units], tape, reverse), rtol=0, atol=1e-5)
    assert not torch.allclose(found[1, 0], found[1, 1])
