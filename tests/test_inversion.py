"""Inversion: the tape leads back to the picture, and is standard normal where the denoiser knows it."""

from itertools import pairwise

import pytest
import torch
from scipy import stats
from test_sampler import DEVIATION, MEAN, curved, ideal

from ddattr.diffusion.inversion import exact_steps, inverted
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.sampler import DDIM, DDPM, trajectory

SHAPE, STEPS = (1, 4, 4), 20


def pictures(count: int = 3) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def tape_of(process, denoiser, shown, steps: int = STEPS) -> torch.Tensor:
    noise = noise_tape(range(len(shown)), steps, SHAPE).double()
    return inverted(denoiser, process, DDPM(steps).reverse(process), shown, noise)


def test_the_replay_passes_through_the_forward_process_of_the_picture(process):
    """Whatever the denoiser: from x_0 back to every x_t by the forward process's own steps, on the same noise."""
    shown, reverse = pictures(), DDPM(STEPS).reverse(process)
    noise = noise_tape(range(3), STEPS, SHAPE).double()
    states = list(trajectory(curved, reverse, tape_of(process, curved, shown)))
    x, before = shown, 1.0
    for i in reversed(range(STEPS)):
        bar = process.alphas_cumprod[reverse[i].t].item()
        x = (bar / before) ** 0.5 * x + (1 - bar / before) ** 0.5 * noise[i]
        torch.testing.assert_close(states[i], x)
        before = bar


def test_the_replay_ends_at_the_estimate_of_the_picture(process):
    """The last step adds no noise, so it ends near the picture; on it, where the denoiser knows the picture."""
    shown, reverse = pictures(), DDPM(STEPS).reverse(process)
    *_, before, made = trajectory(curved, reverse, tape_of(process, curved, shown))
    bar, t = process.alphas_cumprod[reverse[-1].t], reverse[-1].t
    torch.testing.assert_close(made, (before - (1 - bar).sqrt() * curved(before, t)) / bar.sqrt())
    known = knows(process, shown)
    *_, made = trajectory(known, reverse, tape_of(process, known, shown))
    torch.testing.assert_close(made, shown)


@pytest.mark.parametrize("steps", [1, 2, STEPS])
def test_the_exact_steps_end_at_the_picture_whatever_the_denoiser(process, steps):
    """And change nothing but the last: what they add there is all that the estimate lacks."""
    shown, reverse = pictures(), DDPM(steps).reverse(process)
    tape = tape_of(process, curved, shown, steps)
    *states, made = trajectory(curved, exact_steps(reverse), tape)
    torch.testing.assert_close(made, shown)
    *before, estimate = trajectory(curved, reverse, tape)
    assert torch.equal(torch.stack(states), torch.stack(before))
    torch.testing.assert_close(tape[-1], shown - estimate)
    assert (made - estimate).abs().max() > 0.01


def test_another_denoiser_on_the_tape_is_as_far_from_the_picture_as_from_its_estimate(process):
    """What the last step adds is the picture's, and no denoiser's: displacements are those without it."""

    def other(x: torch.Tensor, t: int) -> torch.Tensor:
        return curved(x, t) + 0.1 * torch.sin(x)

    shown, reverse = pictures(), DDPM(STEPS).reverse(process)
    tape, ends = tape_of(process, curved, shown), []
    for steps in (reverse, exact_steps(reverse)):
        ends.append([list(trajectory(denoiser, steps, tape))[-1] for denoiser in (curved, other)])
    torch.testing.assert_close(ends[0][1] - ends[0][0], ends[1][1] - ends[1][0])


def knows(process, shown):
    """The best denoiser of data that are these pictures."""

    def denoiser(x: torch.Tensor, t: int) -> torch.Tensor:
        bar = process.alphas_cumprod[t]
        return (x - bar.sqrt() * shown) / (1 - bar).sqrt()

    return denoiser


def test_the_tape_is_standard_normal_where_the_denoiser_knows_the_picture(process):
    """Kolmogorov-Smirnov of every row and of the whole, at a false-alarm rate of 1e-4 in all; rows do not correlate."""
    shown = pictures(200)
    tape = tape_of(process, knows(process, shown), shown)[:-1].flatten(1)
    tape = tape[1:]  # the start x_T has what is left of the picture
    p = [stats.kstest(row.numpy(), "norm").pvalue for row in (*tape, tape.flatten())]
    assert min(p) > 1e-4 / len(p)
    correlation = torch.corrcoef(tape).fill_diagonal_(0).abs().max()
    assert correlation < stats.norm.isf(1e-4 / STEPS**2) / 3200**0.5


def test_rows_of_normal_data_have_the_variance_that_conditioning_gives(make_process):
    """What x_t leaves open of x_{t-1}, over the step's own: more than 1, as x_t leaves the picture open."""
    process = make_process(1000)
    reverse, count = DDPM(STEPS).reverse(process), 4000
    shown = MEAN + DEVIATION * pictures(count)
    tape = tape_of(process, ideal(process), shown)
    for i, (step, after) in enumerate(pairwise(reverse)):
        bar, nearer = (process.alphas_cumprod[t].item() for t in (step.t, after.t))
        variance, total = nearer * DEVIATION**2 + 1 - nearer, bar * DEVIATION**2 + 1 - bar
        left = variance * (1 - bar / nearer * variance / total)
        row, numbers = tape[i + 1], count * 16
        assert row.mean().abs() < stats.norm.isf(1e-4) * (left / step.c**2 / numbers) ** 0.5
        assert row.var() * step.c**2 / left == pytest.approx(1, abs=stats.norm.isf(1e-4) * (2 / numbers) ** 0.5)
        assert left / step.c**2 > 1


def test_a_picture_does_not_depend_on_its_neighbours(process):
    shown = pictures()
    both, alone = tape_of(process, curved, shown), tape_of(process, curved, shown[:1])
    torch.testing.assert_close(both[:, :1], alone)


def test_a_sampler_without_noise_and_a_tape_of_another_length_are_refused(process):
    noise = noise_tape([0], STEPS, SHAPE).double()
    with pytest.raises(ValueError, match=r"adds no noise.*Set sampler=ddpm\."):
        inverted(curved, process, DDIM(STEPS).reverse(process), pictures(1), noise)
    with pytest.raises(ValueError, match="21 rows, but 10 sampler steps"):
        inverted(curved, process, DDPM(10).reverse(process), pictures(1), noise)


def test_one_step_has_a_start_and_what_its_estimate_lacks(process):
    """The forward process in one go."""
    shown = pictures(1)
    tape = tape_of(process, curved, shown, steps=1)
    bar = process.alphas_cumprod[DDPM(1).reverse(process)[0].t]
    noise = noise_tape([0], 1, SHAPE).double()
    torch.testing.assert_close(tape[0], bar.sqrt() * shown + (1 - bar).sqrt() * noise[0])
    (*_, made) = trajectory(curved, DDPM(1).reverse(process), tape)
    torch.testing.assert_close(tape[1], shown - made)
