"""Baselines: each equals its own plain formula."""

import pytest
import torch

from ddattr.attribution.baselines import individual, individual_centred, last_step, pixel, random
from ddattr.attribution.counterfactual import counterfactual, factual
from ddattr.codebook import Codebook
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.sampler import DDIM, DDPM

SEEDS, SHAPE = [0, 4], (1, 8, 8)
CODEWORDS = Codebook(3, 3, 1).codewords(torch.arange(3))


@pytest.fixture
def process(make_process):
    """Timesteps that end above 0, so that the last step moves the picture."""
    return make_process(timestep_spacing="trailing")


def members(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 2, *SHAPE, generator=torch.Generator().manual_seed(0))


def mean_picture() -> torch.Tensor:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("weight", [1, 2, 3, 5])
def test_individual_is_minus_the_mean_of_what_the_members_that_saw_the_unit_add(weight):
    """-(1/n) sum over members k that saw i of (y_k - y_0), as on the slides."""
    codewords, y, y_0 = Codebook(6, 6, weight).codewords(torch.arange(6)), members(), mean_picture()
    expected = [-sum(y[k] - y_0 for k in range(6) if codeword[k]) / 6 for codeword in codewords]
    displacement = individual(y, y_0, weight).displacement(codewords)
    torch.testing.assert_close(displacement, torch.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight", [1, 2, 3, 5])
def test_individual_centred_is_the_survivors_mean_less_everyone_s(weight):
    codewords, y = Codebook(6, 6, weight).codewords(torch.arange(6)), members()
    expected = [y[~codeword].mean(0) - y.mean(0) for codeword in codewords]
    displacement = individual_centred(y).displacement(codewords)
    torch.testing.assert_close(displacement, torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_individual_is_the_centred_one_scaled_when_the_factual_is_the_members_mean():
    y, codewords = members(), Codebook(6, 6, 2).codewords(torch.arange(6))
    scaled = individual(y, y.mean(0), 2).displacement(codewords)
    torch.testing.assert_close(scaled, individual_centred(y).displacement(codewords) * 4 / 6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampler", [DDPM(4), DDIM(4), DDPM(1)])
def test_last_step_ablates_the_last_step_alone(unets, process, sampler):
    reverse = sampler.reverse(process)
    tape = noise_tape(SEEDS, len(reverse), SHAPE)
    x = tape[0]
    for step, z in zip(reverse[:-1], tape[1:-1], strict=True):
        x = step.a * x + step.b * unets.outputs(x, step.t).mean(0) + step.c * z
    outputs = unets.outputs(x, reverse[-1].t)
    expected = [reverse[-1].b * (outputs[~codeword].mean(0) - outputs.mean(0)) for codeword in CODEWORDS]
    displacement = last_step(unets, tape, reverse).displacement(CODEWORDS)
    torch.testing.assert_close(displacement, torch.stack(expected), rtol=1e-4, atol=1e-6)


def test_last_step_is_the_exact_ablation_when_there_is_one_step(unets, process):
    reverse = DDPM(1).reverse(process)
    displacement = last_step(unets, noise_tape(SEEDS, 1, SHAPE), reverse).displacement(CODEWORDS)
    exact = counterfactual(unets, CODEWORDS, SEEDS, reverse, SHAPE) - factual(unets, SEEDS, reverse, SHAPE)
    torch.testing.assert_close(displacement, exact, rtol=1e-4, atol=2e-6)


def test_pixel_is_minus_the_distance_to_the_clipped_picture():
    picture, units = 2 * mean_picture(), members(5)[:, 0].clamp(-1, 1)
    similarity = pixel(picture, units)
    assert similarity.shape == (5, 2)
    for i in range(5):
        for q in range(2):
            torch.testing.assert_close(similarity[i, q], -(units[i] - picture[q].clamp(-1, 1)).norm())


def test_pixel_of_the_picture_itself_is_0_and_the_largest():
    """Among enough units that distances are not taken from inner products, whose rounding is 1e-3 here."""
    units = torch.rand(100, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    similarity = pixel(units[:40], units)
    assert (similarity.diagonal() == 0).all()
    assert torch.equal(similarity.argmax(0), torch.arange(40))


def test_random_scores_have_an_address():
    scores = random(50, [3, 0, 5 + 2**32, 5], seed=0)
    assert scores.shape == (50, 4)
    assert torch.equal(scores, random(50, [3, 0, 5 + 2**32, 5], seed=0))
    assert torch.equal(scores[:, :1], random(50, [3], seed=0))
    assert not torch.equal(scores, random(50, [3, 0, 5 + 2**32, 5], seed=1))
    assert not torch.equal(scores[:, 2], scores[:, 3])
