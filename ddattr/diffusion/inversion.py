"""A tape for any picture: the noise on which a denoiser makes it."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.diffusion.process import Denoiser, Process, ReverseStep
from ddattr.diffusion.sampler import check_tape


def inverted(
    denoiser: Denoiser,
    process: Process,
    reverse: Sequence[ReverseStep],
    pictures: Float[Tensor, "q *image"],
    noise: Float[Tensor, "tape q *image"],
) -> Float[Tensor, "tape q *image"]:
    """The tape on which `denoiser` passes through the pictures' forward process, driven by `noise`.

    Pictures are noised step by step to x_T along the sampler's own timesteps; the row that reverse step i adds is then
    what it lacks to come from x_t to x_{t-1}. It is standard normal where the denoiser knows the picture.
    The last row is what the denoiser's estimate of the picture, from the least noised x, lacks of it. A sampler's last
    step adds none of it, and its replay ends at that estimate; `exact_steps` add it, and theirs ends at the picture.

    Args:
        reverse: of ancestral sampling: all steps but the last add noise.
        noise: standard normal; row i drives the step that reverse step i undoes, the last one is not used.
    Raises:
        ValueError: the noise is for another number of steps, or a step before the last adds none.
    Source: Wu & De la Torre 2022, arXiv 2210.05559 (DPM-Encoder).
    """
    steps = list(reverse)
    check_tape(noise, steps)
    if any(step.c == 0 for step in steps[:-1]):
        raise ValueError("inversion: a sampler step adds no noise, and no tape leads to a picture. Set sampler=ddpm.")
    path, reached = [pictures], 1.0  # from x_0 to x_T
    for step, z in zip(reversed(steps), noise.flip(0)[1:], strict=True):
        bar = process.alphas_cumprod[step.t].item()
        kept = bar / reached
        path.append(kept**0.5 * path[-1] + (1 - kept) ** 0.5 * z)
        reached = bar
    path.reverse()
    rows = [path[0]]
    for step, (x, after) in zip(exact_steps(steps), pairwise(path), strict=True):
        rows.append((after - step.a * x - step.b * denoiser(x, step.t)) / step.c)
    return torch.stack(rows)


def exact_steps(reverse: Sequence[ReverseStep]) -> list[ReverseStep]:
    """Reverse steps of which the last adds its whole row, too: on an inverted tape, of whatever ensemble, they lead to
    its picture, or to what the picture would have been."""
    return [*reverse[:-1], reverse[-1]._replace(c=1.0)]
