"""The diffusion process: schedule, loss, and the reverse step as three numbers."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from diffusers import DDIMScheduler, DDPMScheduler, SchedulerMixin
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


# What a scheduler's config says that is taken from it, and the values of other keys that say what is done anyway
READ = {
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "rescale_betas_zero_snr",
}
_DONE = {"clip_sample": False, "thresholding": False, "variance_type": "fixed_small", "set_alpha_to_one": True}
_NEAR = 0.9  # share of the timesteps that the first sampler step has to reach
_LEFT = 0.1  # share of a picture that may be left at the last timestep, without a word


class Process:
    """A forward process q(x_t | x_0), taken from a diffusers scheduler; networks estimate its noise.

    Betas, timesteps and their spacing are the scheduler's; the reverse step is ours, so that a key of its config which
    would change that step is refused.

    Raises:
        ValueError: the scheduler is for another target than the noise, has betas outside 0 .. 1, or a key that is not
            heeded.
    Source: Ho et al. 2020, arXiv 2006.11239.
    """

    def __init__(self, scheduler: SchedulerMixin):
        _check(scheduler)
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
            ValueError: more steps than timesteps, steps that do not begin near the last, or eta outside 0 .. 1.
        Source: Song et al. 2020, arXiv 2010.02502, eq. 12 and 16.
        """
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"sampler: steps={steps}, expected 1 to {self.timesteps}. Set sampler.steps.")
        if not 0 <= eta <= 1:
            raise ValueError(f"sampler: eta={eta}, expected 0 to 1. Set sampler.eta.")
        times, _ = self._respaced(steps)
        return [self._reverse_step(t, previous, eta) for t, previous in zip(times, [*times[1:], None], strict=True)]

    def respaced(self, steps: int) -> str | None:
        """The spacing of `steps` timesteps where it is another than the scheduler's own, which nobody had chosen."""
        return self._respaced(steps)[1]

    def remarks(self, steps: int) -> list[str]:
        """What a user should know of this process, and of `steps` steps back, before training."""
        found, left = [], self.alphas_cumprod[-1].item() ** 0.5
        if left > _LEFT:
            found.append(
                f"{left:.0%} of a picture is left at the last of {self.timesteps} timesteps, where sampling starts "
                "from noise alone. Set diffusion.scheduler.beta_end or num_train_timesteps higher."
            )
        if spacing := self.respaced(steps):
            found.append(
                f"{steps} sampler steps are spaced as `{spacing}`: as `leading`, the default, they would not begin "
                f"near timestep {self.timesteps}, where there is noise alone."
            )
        return found

    def _respaced(self, steps: int) -> tuple[list[int], str | None]:
        """Timesteps from the noisiest down, and their spacing where it replaces the scheduler's default."""
        scheduler, spacing = self.scheduler, None
        times = _spaced(scheduler, steps)
        if times[0] < _NEAR * self.timesteps:
            if "timestep_spacing" not in scheduler.config["_use_default_values"]:
                raise ValueError(
                    f"sampler: steps={steps}, spaced as {scheduler.config.timestep_spacing}, begin at timestep "
                    f"{times[0]} of {self.timesteps}, where there is not noise alone. "
                    "Set diffusion.scheduler.timestep_spacing=trailing, or sampler.steps to another number."
                )
            spacing = "trailing"
            times = _spaced(type(scheduler).from_config(scheduler.config, timestep_spacing=spacing), steps)
        if times[0] >= self.timesteps:
            raise ValueError(
                f"sampler: steps={steps} begin at timestep {times[0]}, expected 0 to {self.timesteps - 1}. "
                "Set diffusion.scheduler.steps_offset=0, or sampler.steps lower."
            )
        return times, spacing

    def _reverse_step(self, t: int, previous: int | None, eta: float) -> ReverseStep:
        bar = self.alphas_cumprod[t].item()
        bar_previous = 1.0 if previous is None else self.alphas_cumprod[previous].item()
        variance = eta**2 * (1 - bar_previous) / (1 - bar) * (1 - bar / bar_previous)
        a = (bar_previous / bar) ** 0.5
        b = (1 - bar_previous - variance) ** 0.5 - a * (1 - bar) ** 0.5
        return ReverseStep(t, a, b, variance**0.5)


def _spaced(scheduler: SchedulerMixin, steps: int) -> list[int]:
    scheduler.set_timesteps(steps)
    return scheduler.timesteps[:steps].tolist()  # for some numbers of steps, `trailing` has a -1 after them


def _check(scheduler: SchedulerMixin) -> None:
    if not isinstance(scheduler, DDPMScheduler | DDIMScheduler):
        raise ValueError(
            f"diffusion: a {type(scheduler).__name__}, expected DDPMScheduler or DDIMScheduler of diffusers. "
            "Set diffusion.scheduler._target_."
        )
    config = scheduler.config
    for key in sorted(set(config) - READ - set(config["_use_default_values"])):
        if not key.startswith("_") and config[key] != _DONE.get(key):
            expected = f"{_DONE[key]}, which is what is done" if key in _DONE else f"some of {', '.join(sorted(READ))}"
            raise ValueError(f"diffusion: {key}={config[key]}, expected {expected}. Remove diffusion.scheduler.{key}.")
    if config.prediction_type != "epsilon":
        raise ValueError(
            f"diffusion: prediction_type={config.prediction_type}, expected epsilon. "
            "Set diffusion.scheduler.prediction_type."
        )
    if config.rescale_betas_zero_snr:
        raise ValueError(
            "diffusion: rescale_betas_zero_snr=True leaves nothing of a picture at the last timestep, where no "
            "estimate of the noise says anything of it. Set diffusion.scheduler.rescale_betas_zero_snr=false."
        )
    if len(scheduler.betas) != config.num_train_timesteps:
        raise ValueError(
            f"diffusion: {len(scheduler.betas)} trained_betas, expected {config.num_train_timesteps}. "
            "Set diffusion.scheduler.num_train_timesteps."
        )
    low, high = scheduler.betas.min().item(), scheduler.betas.max().item()
    if not 0 < low <= high < 1:
        raise ValueError(
            f"diffusion: betas from {low:.3g} to {high:.3g}, expected values between 0 and 1. "
            "Set diffusion.scheduler.beta_start and beta_end."
        )
