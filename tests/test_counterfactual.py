"""Counterfactuals: the factual's own tape, under the members that never saw the unit."""

import pytest
import torch
from torch import nn

from ddattr.attribution.counterfactual import counterfactual, factual
from ddattr.codebook import Codebook
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
