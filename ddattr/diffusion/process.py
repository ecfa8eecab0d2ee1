"""The diffusion process: schedule, loss, and the reverse step as three numbers."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Denoiser(Protocol):
    """Estimate of the noise in pictures at one timestep: eps = f(x, t)."""

    def __call__(self, x: Tensor, t: int) -> Tensor: ...


class ReverseStep(NamedTuple):
    """x_{t-1} = a x_t + b f(x_t, t) + c z: eq. 2 of the slides, with mu_theta written out."""

    t: int
    a: float
    b: float
    c: float


class Process:
    """A forward process q(x_t | x_0), taken from a diffusers scheduler; networks estimate its noise.

    Raises:
        ValueError: the scheduler is for another target than the noise.
    Source: Ho et al. 2020, arXiv 2006.11239.
    """

    def __init__(self, scheduler: DDPMScheduler):
        if scheduler.config.prediction_type != "epsilon":
            raise ValueError(
                f"diffusion: prediction_type={scheduler.config.prediction_type}, expected epsilon. "
                "Set diffusion.scheduler.prediction_type."
            )
        self.scheduler = scheduler
        self.timesteps: int = scheduler.config.num_train_timesteps
        self.alphas_cumprod = scheduler.alphas_cumprod.double()

    def loss(
        self,
        network: torch.nn.Module,
        images: Float[Tensor, "batch *image"],
        noise: Float[Tensor, "batch *image"],
        times: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch"]:
        """Mean squared error of the noise estimate, per image: the simple loss (Ho et al. 2020, eq. 14)."""
        noisy = self.scheduler.add_noise(images, noise, times)
        return (network(noisy, times) - noise).square().flatten(1).mean(1)

    def noised(
        self, pictures: Float[Tensor, "q *image"], noise: Float[Tensor, "*image"], t: int
    ) -> Float[Tensor, "q *image"]:
        """All pictures at timestep t of the forward process, with the same noise: they compare."""
        each, when = noise.to(pictures).expand_as(pictures), torch.full((len(pictures),), t, device=pictures.device)
        return self.scheduler.add_noise(pictures, each, when)  # type: ignore[arg-type]

    def reverse_steps(self, steps: int, eta: float) -> list[ReverseStep]:
        """Reverse steps on the scheduler's respaced timesteps, from x_T down to x_0.

        eta = 1 is ancestral sampling with the posterior's variance, eta = 0 is deterministic.

        Raises:
            ValueError: more steps than timesteps, or eta outside 0 .. 1.
        Source: Song et al. 2020, arXiv 2010.02502, eq. 12 and 16.
        """
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"sampler: steps={steps}, expected 1 to {self.timesteps}. Set sampler.steps.")
        if not 0 <= eta <= 1:
            raise ValueError(f"sampler: eta={eta}, expected 0 to 1. Set sampler.eta.")
        self.scheduler.set_timesteps(steps)
        times = [int(t) for t in self.scheduler.timesteps]
        return [self._reverse_step(t, previous, eta) for t, previous in zip(times, [*times[1:], None], strict=True)]

    def _reverse_step(self, t: int, previous: int | None, eta: float) -> ReverseStep:
        bar = self.alphas_cumprod[t].item()
        bar_previous = 1.0 if previous is None else self.alphas_cumprod[previous].item()
        variance = eta**2 * (1 - bar_previous) / (1 - bar) * (1 - bar / bar_previous)
        a = (bar_previous / bar) ** 0.5
        b = (1 - bar_previous - variance) ** 0.5 - a * (1 - bar) ** 0.5
        return ReverseStep(t, a, b, variance**0.5)
