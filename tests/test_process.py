"""The process: parity of its reverse step with diffusers, and its loss restated."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
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


@pytest.mark.parametrize(
    ("timesteps", "steps", "spacing"),
    [
        *itertools.product([100], [10, 100], ["leading", "trailing", "linspace"]),
        *itertools.product([1000], [13, 50], ["leading", "trailing", "linspace"]),
        *itertools.product([1000], [7, 600], ["trailing", "linspace"]),
        (100, 1, "trailing"),
    ],
)
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
    [(100, 1, "trailing"), (100, 10, "leading"), (100, 10, "trailing"), (1000, 50, "trailing"), (1000, 30, "leading")],
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


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_ddim_that_ends_at_timestep_0_takes_the_last_step_of_diffusers(eta, offset, predicts):
    """`set_alpha_to_one=False`, as Stable Diffusion's config has it: what is left of the noise there stays."""

    def scheduler() -> DDIMScheduler:
        return DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=offset,
            prediction_type=predicts,
        )

    theirs = scheduler()
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.final_alpha_cumprod = theirs.alphas_cumprod[0]
    theirs.set_timesteps(50)
    x, estimate, z = random_pictures(3)
    reverse = Process(scheduler()).reverse_steps(50, eta)
    assert [step.t for step in reverse] == theirs.timesteps.tolist()
    for step in reverse:
        expected = theirs.step(estimate, step.t, x, eta=eta, variance_noise=z).prev_sample
        torch.testing.assert_close(our_step(step, x, estimate, z), expected, rtol=1e-9, atol=1e-9)
    assert (reverse[-1].c > 0) == (offset > 0 and eta > 0)


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


STEPS = [7, 13, 25, 600, 1000]


def spaced(spacing: str, steps: int, timesteps: int = 1000) -> list[int]:
    """Table 2 of Lin et al. 2023, arXiv 2305.08891."""
    if spacing == "leading":
        return [i * (timesteps // steps) for i in reversed(range(steps))]
    if spacing == "trailing":
        return [round(timesteps - i * timesteps / steps) - 1 for i in range(steps)]
    return [round(i * (timesteps - 1) / max(1, steps - 1)) for i in reversed(range(steps))]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_coefficients_are_the_posterior_s_in_closed_form(make_process, steps, spacing):
    """Mean and variance of q(x_s | x_t, x_0) of Gaussians, x_0 from the noise estimate (Ho et al. 2020, eq. 6, 7)."""
    process, times = make_process(1000, timestep_spacing=spacing), spaced(spacing, steps)
    if times[0] < 900:
        with pytest.raises(ValueError, match=f"steps={steps}, spaced as leading, begin at timestep {times[0]} of 1000"):
            process.reverse_steps(steps, 1.0)
        return
    bars = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0).double()
    reverse = process.reverse_steps(steps, 1.0)
    assert [step.t for step in reverse] == times
    for step, before in zip(reverse, [*times[1:], None], strict=True):
        bar, earlier = bars[step.t], torch.ones(()).double() if before is None else bars[before]
        alpha, beta = bar / earlier, 1 - bar / earlier  # of the jump
        of_clean, of_noisy = earlier.sqrt() * beta / (1 - bar), alpha.sqrt() * (1 - earlier) / (1 - bar)
        a, b = of_noisy + of_clean / bar.sqrt(), -of_clean * (1 - bar).sqrt() / bar.sqrt()
        c = (beta * (1 - earlier) / (1 - bar)).sqrt()
        torch.testing.assert_close(torch.tensor(step[1:]).double(), torch.stack([a, b, c]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("steps", STEPS)
def test_the_default_spacing_begins_near_the_last_timestep_and_says_when_it_is_another(make_process, steps):
    process = make_process(1000)
    times = [step.t for step in process.reverse_steps(steps, 1.0)]
    assert times[0] >= 900
    replaced = spaced("leading", steps)[0] < 900
    assert times == spaced("trailing" if replaced else "leading", steps)
    assert process.respaced(steps) == ("trailing" if replaced else None)
    told = [line for line in process.remarks(steps) if "spaced" in line]
    assert [f"{steps} sampler steps are spaced as `trailing`" in line for line in told] == [True] * replaced


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("timesteps", [7, 100])
def test_any_number_of_steps_descends_within_the_timesteps_or_is_refused(make_process, spacing, timesteps):
    process = make_process(timesteps, timestep_spacing=spacing)
    for steps in range(1, timesteps + 1):
        expected = spaced(spacing, steps, timesteps)
        if expected[0] < 0.9 * timesteps:
            with pytest.raises(ValueError, match=r"Set diffusion.scheduler.timestep_spacing=trailing"):
                process.reverse_steps(steps, 1.0)
            continue
        times = [step.t for step in process.reverse_steps(steps, 1.0)]
        assert len(times) == steps
        assert times == sorted(set(times), reverse=True)
        assert times[-1] >= 0
        assert 0.9 * timesteps <= times[0] < timesteps


def test_an_offset_past_the_last_timestep_is_refused(make_process):
    process = make_process(1000, steps_offset=1)
    assert process.reverse_steps(50, 1.0)[0].t == 981
    with pytest.raises(ValueError, match=r"steps=1000 begin at timestep 1000, expected 0 to 999.*steps_offset=0"):
        process.reverse_steps(1000, 1.0)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("variance_type", "fixed_large", "expected fixed_small, which is what is done"),
        ("clip_sample", True, "expected False, which is what is done"),
        ("thresholding", True, "expected False, which is what is done"),
        ("sample_max_value", 2.0, "expected some of beta_end, beta_schedule, beta_start, num_train_timesteps"),
    ],
)
def test_a_key_that_is_not_heeded_is_refused_where_it_is_set(key, value, expected):
    with pytest.raises(
        ValueError, match=rf"diffusion: {key}={value}, {expected}.*Remove diffusion\.scheduler\.{key}\."
    ):
        Process(DDPMScheduler(**{key: value}))


def test_a_key_that_says_what_is_done_is_taken():
    said = DDPMScheduler(clip_sample=False, thresholding=False, variance_type="fixed_small")
    assert Process(said).reverse_steps(10, 1.0) == Process(DDPMScheduler()).reverse_steps(10, 1.0)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_a_last_timestep_without_signal_is_refused_where_the_noise_is_predicted(spacing):
    with pytest.raises(ValueError, match=r"leaves nothing of a picture at the last timestep.*zero_snr=false, or pred"):
        Process(DDPMScheduler(rescale_betas_zero_snr=True, timestep_spacing=spacing))


@pytest.mark.parametrize(
    "betas",
    [
        {"beta_start": -1.0},
        {"beta_start": 0.0},
        {"beta_end": 1.5},
        {"trained_betas": [0.1, 1.0], "num_train_timesteps": 2},
    ],
)
def test_betas_outside_0_to_1_are_refused(betas):
    with pytest.raises(ValueError, match=r"diffusion: betas from .* expected values between 0 and 1.*beta_start"):
        Process(DDPMScheduler(**betas))


def test_another_number_of_betas_than_timesteps_is_refused():
    with pytest.raises(ValueError, match=r"2 trained_betas, expected 1000.*num_train_timesteps"):
        Process(DDPMScheduler(trained_betas=[0.1, 0.2]))


def test_another_kind_of_scheduler_is_refused():
    with pytest.raises(ValueError, match="a EulerDiscreteScheduler, expected DDPMScheduler or DDIMScheduler"):
        Process(EulerDiscreteScheduler())


@pytest.mark.parametrize("timesteps", [100, 500, 1000])
def test_a_picture_that_is_left_at_the_last_timestep_is_told_with_the_figure(make_process, timesteps):
    left = torch.cumprod(1 - torch.linspace(1e-4, 0.02, timesteps), 0)[-1].sqrt().item()
    told = [line for line in make_process(timesteps).remarks(10) if "is left" in line]
    assert told == (
        [] if left < 0.1 else [line for line in told if line.startswith(f"{left:.0%} of a picture is left")]
    )
    assert bool(told) == (timesteps == 100)


def test_a_scheduler_of_another_target_is_refused():
    with pytest.raises(
        ValueError, match=r"prediction_type=flow, expected one of epsilon, v_prediction, sample\. Set diff"
    ):
        Process(DDPMScheduler(prediction_type="flow"))


def test_a_function_of_picture_and_timestep_is_a_denoiser():
    assert isinstance(lambda x, t: x, Denoiser)
