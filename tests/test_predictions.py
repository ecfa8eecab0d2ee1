"""What networks predict: the noise, v or the picture are one process, step for step, and one attribution."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm
from test_process import in_double, our_step, random_pictures
from torch import nn

from ddattr.attribution.baselines import last_step
from ddattr.attribution.denoising import denoised
from ddattr.attribution.jacobian import jacobian
from ddattr.attribution.loss import loss_draws, residual_gram
from ddattr.diffusion.inversion import exact_steps, inverted
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.process import Process
from ddattr.diffusion.sampler import DDIM, DDPM, trajectory
from ddattr.ensemble.ensemble import Ensemble
from ddattr.validation.peers import Loss

TYPES = ("epsilon", "v_prediction", "sample")
SCHEDULES = (
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1},
    {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
    {"beta_schedule": "linear", "timestep_spacing": "linspace"},
    {"beta_schedule": "scaled_linear", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
)
SHAPE = (1, 2, 2)


def fits(predicts: str, schedule: dict) -> bool:
    return not (predicts == "epsilon" and schedule.get("rescale_betas_zero_snr"))


CASES = [case for case in itertools.product(TYPES, SCHEDULES) if fits(*case)]


@pytest.mark.parametrize("timesteps", [100, 1000])
@pytest.mark.parametrize(("predicts", "schedule"), CASES)
def test_eta_1_is_the_ddpm_step_of_diffusers(monkeypatch, predicts, schedule, timesteps):
    config = {"num_train_timesteps": timesteps, "prediction_type": predicts, **schedule}
    process, theirs = Process(DDPMScheduler(**config)), in_double(DDPMScheduler(**config, clip_sample=False))
    theirs.set_timesteps(20)
    x, output, z = random_pictures(3)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: z)
    reverse = process.reverse_steps(20, eta=1.0)
    assert [step.t for step in reverse] == theirs.timesteps.tolist()
    for step in reverse:
        expected = theirs.step(output, step.t, x).prev_sample
        torch.testing.assert_close(our_step(step, x, output, z), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("predicts", "schedule"), [case for case in CASES if "linspace" not in case[1].values()])
def test_any_eta_is_the_ddim_step_of_diffusers(predicts, schedule, eta):
    """Spaced as `linspace`, diffusers steps down by another stride than that between its timesteps; from noise alone at
    eta = 1 its own step takes the root of a rounding below 0, and is NaN."""
    config = {"prediction_type": predicts, **schedule}
    process, theirs = Process(DDIMScheduler(**config)), in_double(DDIMScheduler(**config, clip_sample=False))
    theirs.set_timesteps(20)
    x, output, z = random_pictures(3)
    reverse = process.reverse_steps(20, eta)
    assert [step.t for step in reverse] == theirs.timesteps.tolist()
    for step in reverse[eta == 1 and process.alphas_cumprod[-1] == 0 :]:
        expected = theirs.step(output, step.t, x, eta=eta, variance_noise=z).prev_sample
        torch.testing.assert_close(our_step(step, x, output, z), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_noise_is_denoised_to_the_bit_as_it_was_before_there_were_types(schedule):
    """The formulas of then, restated: a, b and c of every step, and a factor that changes nothing."""
    if not fits("epsilon", schedule):
        return
    process = Process(DDPMScheduler(**schedule))
    for eta in (0.0, 0.3, 1.0):
        reverse = process.reverse_steps(25, eta)
        for step, after in itertools.zip_longest(reverse, reverse[1:]):
            bar = process.alphas_cumprod[step.t].item()
            bar_previous = 1.0 if after is None else process.alphas_cumprod[after.t].item()
            variance = eta**2 * (1 - bar_previous) / (1 - bar) * (1 - bar / bar_previous)
            a = (bar_previous / bar) ** 0.5
            b = (1 - bar_previous - variance) ** 0.5 - a * (1 - bar) ** 0.5
            assert step[1:] == (a, b, variance**0.5)
            assert process.noise_factor(step.t) == 1
    noise, images = random_pictures(2)
    assert process.target(images, noise, torch.zeros(len(images), dtype=torch.long)) is noise


@pytest.mark.parametrize("predicts", TYPES)
def test_a_step_from_noise_alone_is_finite_and_starts_from_the_prediction(predicts):
    """With no signal at the last timestep x_T says nothing: ancestral sampling leaves it there."""
    if predicts == "epsilon":
        return
    process = Process(DDPMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type=predicts))
    assert process.alphas_cumprod[-1] == 0
    first = process.reverse_steps(10, 1.0)[0]
    assert first.t == 999
    assert first.a == 0
    assert process.noise_factor(999) == 0
    assert first.b == (1 if predicts == "sample" else -1) * process.alphas_cumprod[899].item() ** 0.5


class Said(nn.Module):
    """A network that estimates the noise, made to say v or the picture that follows from it and from x."""

    def __init__(self, network: nn.Module, process: Process):
        super().__init__()
        self.network, self.process = network, process

    def forward(self, x, t):
        estimate = self.network(x, t)
        bar = self.process.alphas_cumprod[torch.as_tensor(t)].reshape(-1, 1, 1, 1)
        alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
        clean = (x - sigma * estimate) / alpha
        said = {"epsilon": estimate, "v_prediction": alpha * estimate - sigma * clean, "sample": clean}
        return said[self.process.predicts]


@pytest.fixture(params=TYPES[1:])
def both(request, make_linear, make_process) -> tuple[tuple[Ensemble, Process], tuple[Ensemble, Process]]:
    """Four linear denoisers that estimate the noise, and the same ones said otherwise."""
    linear, plain, other = make_linear(4), make_process(), make_process(prediction_type=request.param)
    return (linear, plain), (Ensemble([Said(member, other) for member in linear.members]), other)


TAPE = noise_tape([3, 5, 8], 10, SHAPE).double()


@pytest.mark.parametrize("sampler", [DDPM(10), DDIM(10)])
def test_the_same_members_draw_the_same_pictures_with_the_same_jacobian(both, sampler):
    (linear, plain), (said, other) = both
    one = jacobian(linear, TAPE, sampler.reverse(plain))
    for found, expected in zip(jacobian(said, TAPE, sampler.reverse(other)), one, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weights = torch.tensor([[0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4]]).double()
    torch.testing.assert_close(
        said.replay(weights, TAPE, sampler.reverse(other)), linear.replay(weights, TAPE, sampler.reverse(plain))
    )


def test_the_jacobian_of_v_and_of_the_picture_agrees_with_central_differences(both):
    """In float64 they err by step^2 and by rounding / step. To centre them takes weights that sum to 1 out of reach:
    those of contrasts."""
    _, (said, other) = both
    reverse, step = DDPM(10).reverse(other), 1e-4
    contrasts = torch.tensor([[1.0, -1, 0, 0], [0.5, 0.5, -0.5, -0.5]]).double()
    up, down = (said.replay(said.uniform.double() + sign * step * contrasts, TAPE, reverse) for sign in (1, -1))
    along = torch.einsum("un,n...->u...", contrasts, jacobian(said, TAPE, reverse)[1])
    torch.testing.assert_close(along, (up - down) / (2 * step), rtol=1e-5, atol=1e-6)


def test_the_same_members_denoise_alike_and_miss_the_same(both):
    """The denoising, the Gram of the loss, and the last step, in units of noise and of the picture."""
    (linear, plain), (said, other) = both
    pictures = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times, noise = loss_draws(5, plain, SHAPE, 0)
    for measure in (denoised, residual_gram):
        found = measure(said, other, pictures, times, noise.double())
        torch.testing.assert_close(found, measure(linear, plain, pictures, times, noise.double()), rtol=1e-6, atol=1e-8)
    one, two = (last_step(e, TAPE, DDPM(10).reverse(p)) for e, p in both)
    torch.testing.assert_close(two.members, one.members)


def test_a_picture_is_inverted_to_the_same_tape_and_replayed_to_itself(both):
    pictures = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tapes = []
    for ensemble, process in both:
        denoiser = lambda x, t, e=ensemble: e.outputs(x, t).mean(0)  # noqa: E731
        reverse = DDPM(10).reverse(process)
        tapes.append(inverted(denoiser, process, reverse, pictures, TAPE))
        *_, replayed = trajectory(denoiser, exact_steps(reverse), tapes[-1])
        torch.testing.assert_close(replayed, pictures)
    torch.testing.assert_close(tapes[1], tapes[0])


@pytest.mark.parametrize("predicts", TYPES)
def test_a_network_that_knows_everything_has_no_loss_and_a_peer_asks_the_same(make_process, predicts):
    process = make_process(prediction_type=predicts)
    images, noise = random_pictures(2)
    times = torch.tensor([0, 50, 99])

    class Oracle(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x, t):
            bar = process.alphas_cumprod[t].reshape(-1, 1, 1, 1)
            known = {"epsilon": noise, "sample": images, "v_prediction": bar.sqrt() * noise - (1 - bar).sqrt() * images}
            return known[predicts] + self.shift

    assert process.loss(Oracle(), images, noise, times).max() < 1e-12
    peer, network = Loss(process, times, noise), Oracle()
    together = images[:1].expand_as(images)
    for shift in (0.0, 0.3):
        weights = {"shift": torch.tensor(shift, dtype=torch.float64)}
        with torch.no_grad():
            network.shift.fill_(shift)
        expected = process.loss(network, together, noise, times).mean()
        torch.testing.assert_close(peer.of(network, weights, images[0]), expected.detach())


def test_a_schedule_that_blows_up_the_noise_s_error_is_told(make_process):
    """Of the cosine, spaced to its very end, the first step multiplies x; as `leading` or of v it does not."""
    told = {
        (predicts, spacing): [
            line
            for line in Process(
                DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=predicts, timestep_spacing=spacing)
            ).remarks(50)
            if "multiplies the noise estimate" in line
        ]
        for predicts in TYPES
        for spacing in ("leading", "trailing")
    }
    assert {case for case, lines in told.items() if lines} == {("epsilon", "trailing")}
