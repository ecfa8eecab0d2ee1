"""Samplers: the reverse process on a noise tape, as a generator over x_T, ..., x_0."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ddattr.diffusion.process import Denoiser, Process, ReverseStep


@runtime_checkable
class Sampler(Protocol):
    """A choice of reverse steps for a process."""

    @property
    def steps(self) -> int: ...

    def reverse(self, process: Process) -> list[ReverseStep]: ...


class DDIM:
    """Implicit sampling on `steps` respaced timesteps; `eta` scales the noise (Song et al. 2020, arXiv 2010.02502)."""

    def __init__(self, steps: int, eta: float = 0.0):
        self.steps = steps
        self.eta = eta

    def reverse(self, process: Process) -> list[ReverseStep]:
        return process.reverse_steps(self.steps, self.eta)


class DDPM(DDIM):
    """Ancestral sampling (Ho et al. 2020, arXiv 2006.11239): implicit sampling with eta = 1, step for step."""

    def __init__(self, steps: int):
        super().__init__(steps, eta=1.0)


def trajectory(
    denoiser: Denoiser, reverse: list[ReverseStep], tape: Float[Tensor, "tape q *image"]
) -> Iterator[Float[Tensor, "*pictures"]]:
    """Yields x_T, ..., x_0 of the tape under the denoiser (eq. 1 and 2 of the slides; eq. 3 and 4 when it is ablated).

    Nothing is clipped. Keep only what you need: the last value is the picture.

    Raises:
        ValueError: the tape was made for another number of steps.
    """
    check_tape(tape, reverse)
    x = tape[0]
    yield x
    for step, z in zip(reverse, tape[1:], strict=True):
        x = step.a * x + step.b * denoiser(x, step.t) + step.c * z
        yield x


def check_tape(tape: Float[Tensor, "tape q *image"], reverse: list[ReverseStep]) -> None:
    """Raises ValueError unless the tape has one row to start from and one for every step."""
    if len(tape) != len(reverse) + 1:
        raise ValueError(
            f"noise tape: {len(tape)} rows, but {len(reverse)} sampler steps need {len(reverse) + 1}. "
            f"Make it with noise_tape(seeds, steps={len(reverse)}, ...)."
        )
