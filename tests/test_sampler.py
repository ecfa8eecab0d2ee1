"""Samplers: parity of whole trajectories with diffusers, and closed forms on Gaussian data."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm

from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.sampler import DDIM, DDPM, Sampler, trajectory

SHAPE = (1, 4, 4)
MEAN, DEVIATION = 0.7, 0.4  # of the Gaussian data


def curved(x: torch.Tensor, t: int) -> torch.Tensor:
    """A denoiser that depends on picture and timestep."""
    return torch.tanh(x) + 0.01 * t


def ideal(process):
    """The best estimate of the noise when all pixels of the data are normal: it is affine in the picture."""

    def denoiser(x: torch.Tensor, t: int) -> torch.Tensor:
        bar = process.alphas_cumprod[t]
        return (1 - bar).sqrt() * (x - bar.sqrt() * MEAN) / (bar * DEVIATION**2 + 1 - bar)

    return denoiser


def last(states):
    *_, x = states
    return x


def transported(process, steps: int) -> tuple[float, float]:
    """Mean and deviation of DDIM's pictures when x_T has the law of the noised data: the map is affine in the tape."""
    bar = process.alphas_cumprod[process.reverse_steps(steps, 0.0)[0].t]
    start = torch.zeros(steps + 1, 2, 1, 1, 1, dtype=torch.float64)
    start[0, 0], start[0, 1] = bar.sqrt() * MEAN, bar.sqrt() * MEAN + (bar * DEVIATION**2 + 1 - bar).sqrt()
    centre, edge = last(trajectory(ideal(process), DDIM(steps).reverse(process), start)).flatten().tolist()
    return centre, edge - centre


def test_ddpm_follows_the_trajectory_of_diffusers(make_process, monkeypatch):
    tape = noise_tape([0, 1], 20, SHAPE).double()
    theirs = DDPMScheduler(1000, 1e-4, 0.02, variance_type="fixed_small", clip_sample=False)
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.set_timesteps(20)
    expected = [tape[0]]
    for t, z in zip(theirs.timesteps, tape[1:], strict=True):
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, z=z, **__: z)
        expected.append(theirs.step(curved(expected[-1], int(t)), t, expected[-1]).prev_sample)
    ours = list(trajectory(curved, DDPM(20).reverse(make_process(1000)), tape))
    torch.testing.assert_close(torch.stack(ours), torch.stack(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_follows_the_trajectory_of_diffusers(make_process, eta):
    tape = noise_tape([0, 1], 20, SHAPE).double()
    theirs = DDIMScheduler(1000, 1e-4, 0.02, clip_sample=False)
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.set_timesteps(20)
    expected = [tape[0]]
    for t, z in zip(theirs.timesteps, tape[1:], strict=True):
        estimate = curved(expected[-1], int(t))
        expected.append(theirs.step(estimate, t, expected[-1], eta=eta, variance_noise=z).prev_sample)
    ours = list(trajectory(curved, DDIM(20, eta).reverse(make_process(1000)), tape))
    torch.testing.assert_close(torch.stack(ours), torch.stack(expected), rtol=1e-9, atol=1e-9)


def test_a_trajectory_yields_every_state_from_the_start_of_the_tape(process):
    tape = noise_tape([3], 6, SHAPE)
    states = list(trajectory(curved, DDPM(6).reverse(process), tape))
    assert len(states) == 7
    assert torch.equal(states[0], tape[0])


def test_the_same_tape_gives_the_same_bits(process):
    reverse, tape = DDPM(6).reverse(process), noise_tape([3], 6, SHAPE)
    assert torch.equal(last(trajectory(curved, reverse, tape)), last(trajectory(curved, reverse, tape.clone())))


def test_a_query_does_not_depend_on_its_neighbours_on_the_tape(process):
    reverse, tape = DDPM(6).reverse(process), noise_tape([3, 4, 5], 6, SHAPE)
    together = last(trajectory(curved, reverse, tape))
    for q in range(3):
        torch.testing.assert_close(together[q : q + 1], last(trajectory(curved, reverse, tape[:, q : q + 1])))


def test_ddim_without_eta_uses_the_start_of_the_tape_only(process):
    tape = noise_tape([3], 6, SHAPE)
    other = torch.cat([tape[:1], tape[1:] + 1])
    reverse = DDIM(6).reverse(process)
    assert torch.equal(last(trajectory(curved, reverse, tape)), last(trajectory(curved, reverse, other)))


def test_ddpm_is_ddim_with_eta_1(process):
    assert DDPM(6).reverse(process) == DDIM(6, eta=1.0).reverse(process)


def test_a_perfect_estimate_of_one_picture_ends_on_it(process):
    """When the data are a single picture, the ideal denoiser brings every tape to it, at any eta."""
    picture = noise_tape([9], 0, SHAPE)[0].double()

    def denoiser(x, t):
        bar = process.alphas_cumprod[t]
        return (x - bar.sqrt() * picture) / (1 - bar).sqrt()

    tape = noise_tape([0, 1, 2], 8, SHAPE).double()
    for eta in (0.0, 0.5, 1.0):
        torch.testing.assert_close(
            last(trajectory(denoiser, DDIM(8, eta).reverse(process), tape)), picture.expand(3, *SHAPE)
        )


def test_ddim_transports_the_noise_to_gaussian_data(make_process):
    """DDIM is a first-order integrator of an exact flow: its error halves with twice the steps.

    The limit, extrapolated from 250 and 500 steps, is then right to second order, about (error at 500)^2 < 1e-3.
    """
    process = make_process(1000)
    coarse, fine = transported(process, 250), transported(process, 500)
    for exact, at_250, at_500 in zip((MEAN, DEVIATION), coarse, fine, strict=True):
        assert abs(at_500 - exact) < 0.02 * exact
        assert abs(at_500 - exact) <= 0.6 * abs(at_250 - exact) + 1e-9
        assert abs(2 * at_500 - at_250 - exact) < 1e-3


def test_ddpm_samples_gaussian_data(make_process):
    """The map from tape to picture is affine: its response to every row gives mean and variance without sampling.

    Ancestral sampling with the posterior's variance is too narrow, by O(1 / steps): the deficit halves with twice the
    steps.
    """
    process = make_process(1000)
    deficit = []
    for steps in (125, 250, 500):
        impulses = torch.eye(steps + 1, steps + 2, dtype=torch.float64)[..., None, None, None]
        y = last(trajectory(ideal(process), DDPM(steps).reverse(process), impulses)).flatten()
        response = y[:-1] - y[-1]
        torch.testing.assert_close(y[-1].item(), MEAN, rtol=0, atol=0.01)
        deficit.append(DEVIATION**2 - response.square().sum().item())
    assert 0 < deficit[2] < 0.1 * DEVIATION**2
    assert deficit[1] < 0.6 * deficit[0]
    assert deficit[2] < 0.6 * deficit[1]


@pytest.mark.parametrize("rows", [1, 6, 8])
def test_a_tape_of_another_length_is_refused(process, rows):
    with pytest.raises(ValueError, match=f"noise tape: {rows} rows, but 6 sampler steps need 7"):
        next(trajectory(curved, DDPM(6).reverse(process), noise_tape([0], rows - 1, SHAPE)))


def test_both_samplers_keep_the_protocol():
    assert isinstance(DDIM(3), Sampler)
    assert isinstance(DDPM(3), Sampler)
