"""The process: parity of its reverse step with diffusers, and its loss restated."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm

from ddattr.diffusion.process import Denoiser, Process

SHAPE = (3, 1, 4, 4)


def in_double(scheduler):
    """The scheduler with its coefficients in float64, so that parity is of formulas and not of rounding."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.one = torch.ones((), dtype=torch.float64)
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return scheduler


def random_pictures(count: int) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def our_step(step, x, estimate, z):
    return step.a * x + step.b * estimate + step.c * z


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(("timesteps", "steps"), [(100, 1), (100, 10), (100, 100), (1000, 50), (1000, 7)])
def test_eta_1_is_the_ddpm_step_of_diffusers(make_process, monkeypatch, timesteps, steps, spacing):
    process = make_process(timesteps, timestep_spacing=spacing)
    theirs = in_double(
        DDPMScheduler(timesteps, 1e-4, 0.02, variance_type="fixed_small", clip_sample=False, timestep_spacing=spacing)
    )
    theirs.set_timesteps(steps)
    x, estimate, z = random_pictures(3)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: z)
    reverse = process.reverse_steps(steps, eta=1.0)
    assert [step.t for step in reverse] == theirs.timesteps.tolist()
    for step in reverse:
        expected = theirs.step(estimate, step.t, x).prev_sample
        torch.testing.assert_close(our_step(step, x, estimate, z), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("timesteps", "steps", "spacing"),
    [(100, 1, "leading"), (100, 10, "leading"), (100, 10, "trailing"), (1000, 50, "trailing"), (1000, 30, "leading")],
)
def test_any_eta_is_the_ddim_step_of_diffusers(make_process, timesteps, steps, spacing, eta):
    process = make_process(timesteps, timestep_spacing=spacing)
    theirs = in_double(DDIMScheduler(timesteps, 1e-4, 0.02, clip_sample=False, timestep_spacing=spacing))
    theirs.set_timesteps(steps)
    x, estimate, z = random_pictures(3)
    reverse = process.reverse_steps(steps, eta)
    assert [step.t for step in reverse] == theirs.timesteps.tolist()
    for step in reverse:
        expected = theirs.step(estimate, step.t, x, eta=eta, variance_noise=z).prev_sample
        torch.testing.assert_close(our_step(step, x, estimate, z), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_last_step_adds_no_noise_and_inverts_the_forward_process(process, eta):
    """With the true noise for an estimate, the last step gives back the clean picture."""
    clean, noise = random_pictures(2)
    last = process.reverse_steps(10, eta)[-1]
    bar = process.alphas_cumprod[last.t]
    assert last.c == 0
    torch.testing.assert_close(last.a * (bar.sqrt() * clean + (1 - bar).sqrt() * noise) + last.b * noise, clean)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_step_keeps_the_marginal_of_the_forward_process(process, eta):
    """From the law of x_t given x_0, a step with the true noise leads to the law of x_{t-1} given x_0."""
    reverse = process.reverse_steps(20, eta)
    for step, following in itertools.pairwise(reverse):
        bar, bar_next = process.alphas_cumprod[step.t], process.alphas_cumprod[following.t]
        mean = step.a * bar.sqrt()
        variance = (step.a * (1 - bar).sqrt() + step.b) ** 2 + step.c**2
        torch.testing.assert_close(mean, bar_next.sqrt())
        torch.testing.assert_close(variance, 1 - bar_next)


def test_less_eta_means_less_noise(process):
    noise = [sum(step.c for step in process.reverse_steps(10, eta)) for eta in (0.0, 0.25, 0.5, 1.0)]
    assert noise[0] == 0
    assert noise == sorted(noise)


def test_reverse_steps_do_not_depend_on_what_was_asked_before(process):
    before = process.reverse_steps(10, 0.5)
    process.reverse_steps(7, 1.0)
    assert process.reverse_steps(10, 0.5) == before


def test_the_loss_is_the_mean_square_of_the_missed_noise(process):
    images, noise = random_pictures(2)
    times = torch.tensor([0, 50, 99])

    class Scaled(torch.nn.Module):
        def forward(self, x, t):
            return x * t.reshape(-1, 1, 1, 1) / 100

    expected = []
    for image, eps, t in zip(images, noise, times, strict=True):
        bar = process.alphas_cumprod[t]
        estimate = (bar.sqrt() * image + (1 - bar).sqrt() * eps) * t / 100
        expected.append((estimate - eps).square().mean())
    torch.testing.assert_close(process.loss(Scaled(), images, noise, times), torch.stack(expected), rtol=1e-6, atol=0)


def test_a_network_that_knows_the_noise_has_no_loss(process):
    images, noise = random_pictures(2)

    class Oracle(torch.nn.Module):
        def forward(self, x, t):
            return noise

    assert (process.loss(Oracle(), images, noise, torch.tensor([0, 1, 2])) == 0).all()


@pytest.mark.parametrize("steps", [0, -1, 101])
def test_an_impossible_number_of_steps_is_refused(process, steps):
    with pytest.raises(ValueError, match=f"sampler: steps={steps}, expected 1 to 100. Set sampler.steps."):
        process.reverse_steps(steps, 0.0)


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_an_impossible_eta_is_refused(process, eta):
    with pytest.raises(ValueError, match=f"sampler: eta={eta}, expected 0 to 1. Set sampler.eta."):
        process.reverse_steps(10, eta)


def test_a_scheduler_of_another_target_is_refused():
    with pytest.raises(ValueError, match=r"prediction_type=v_prediction, expected epsilon\. Set diffusion\.scheduler"):
        Process(DDPMScheduler(prediction_type="v_prediction"))


def test_a_function_of_picture_and_timestep_is_a_denoiser():
    assert isinstance(lambda x, t: x, Denoiser)
