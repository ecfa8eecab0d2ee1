"""The diffusion process: schedule, loss, and the reverse step as three numbers."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from diffusers import DDIMScheduler, DDPMScheduler, SchedulerMixin
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Denoiser(Protocol):
    """What a network says of pictures at one timestep, f(x, t): the noise in them, v, or the clean pictures, as its
    process's `prediction_type` has it."""

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
    "set_alpha_to_one",
}
_DONE = {"clip_sample": False, "thresholding": False, "variance_type": "fixed_small"}
_TYPES = ("epsilon", "v_prediction", "sample")
_NEAR = 0.9  # share of the timesteps that the first sampler step has to reach
_LEFT = 0.1  # share of a picture that may be left at the last timestep, without a word
_AMPLIFIED = 10.0  # times the error of a noise estimate that a step may add to a picture, without a word


class Process:
    """A forward process q(x_t | x_0), taken from a diffusers scheduler, and what networks predict of it.

    With x_t = alpha x_0 + sigma z, alpha^2 = `alphas_cumprod` and sigma^2 = 1 - alpha^2, they predict the noise z, or
    v = alpha z - sigma x_0, or the `sample` x_0. At the same x_t and t each is affine in the others. So weights that
    sum to 1, as of an ensemble or an ablation, give the same mean whichever of them it is taken in, and a reverse step
    is three numbers for each. It would be another mean if every member's x_0 were clipped or thresholded, or its
    guidance rescaled, before it is taken: none of these is affine, and none is done.

    Betas, timesteps and their spacing are the scheduler's; the reverse step is ours, so that a key of its config which
    would change that step is refused.

    Raises:
        ValueError: the scheduler is for another target, has betas outside 0 .. 1, nothing left of a picture at the end
            where the noise is predicted, or a key that is not heeded.
    Source: Ho et al. 2020, arXiv 2006.11239; v, Salimans & Ho 2022, arXiv 2202.00512.
    """

    def __init__(self, scheduler: SchedulerMixin):
        _check(scheduler)
        self.scheduler = scheduler
        self.predicts: str = scheduler.config.prediction_type
        self.timesteps: int = scheduler.config.num_train_timesteps
        self.alphas_cumprod = scheduler.alphas_cumprod.double()
        # alpha^2 of what the last step leads to: of the picture, or, as a DDIM's config may say, of timestep 0
        whole = scheduler.config.get("set_alpha_to_one", True)
        self.final_alpha_cumprod = 1.0 if whole else self.alphas_cumprod[0].item()

    def loss(
        self,
        network: torch.nn.Module,
        images: Float[Tensor, "batch *image"],
        noise: Float[Tensor, "batch *image"],
        times: Int[Tensor, "batch"],
        *condition: Tensor,
    ) -> Float[Tensor, "batch"]:
        """Mean squared error of what is predicted, per image: of the noise, the simple loss (Ho et al. 2020, eq. 14).

        In the prediction's own units, as it is trained in; in those of noise, see `noise_factor`.

        Args:
            condition: a row an image, of a network that takes one.
        """
        noisy = self.scheduler.add_noise(images, noise, times)
        return (network(noisy, times, *condition) - self.target(images, noise, times)).square().flatten(1).mean(1)

    def target(
        self,
        images: Float[Tensor, "batch *image"],
        noise: Float[Tensor, "batch *image"],
        times: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch *image"]:
        """What a network that knows everything predicts of the images, noised so."""
        if self.predicts == "v_prediction":
            return self.scheduler.get_velocity(images, noise, times)
        return noise if self.predicts == "epsilon" else images

    def noise_factor(self, t: int) -> float:
        """How much a noise estimate changes with the prediction at timestep t: d z / d f at a fixed x_t.

        Differences of predictions (of a member to the ensemble, or to the target) times this are in units of noise,
        the same for each type. It is 0 where x_t is noise alone.
        """
        bar = self.alphas_cumprod[t].item()
        return {"epsilon": 1.0, "v_prediction": bar**0.5, "sample": -((bar / (1 - bar)) ** 0.5)}[self.predicts]

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
        most = max(abs(step.b) for step in self.reverse_steps(steps, 1.0))
        if self.predicts == "epsilon" and steps > 1 and most > _AMPLIFIED:
            found.append(
                f"a sampler step multiplies the noise estimate, and its error, by {most:.0f}: the schedule leaves next "
                "to nothing of a picture there. Set diffusion.scheduler.timestep_spacing=leading, or prediction_type="
                "v_prediction."
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
        bar_previous = self.final_alpha_cumprod if previous is None else self.alphas_cumprod[previous].item()
        variance = eta**2 * (1 - bar_previous) / (1 - bar) * (1 - bar / bar_previous)
        alpha, sigma = bar**0.5, (1 - bar) ** 0.5
        kept, towards = bar_previous**0.5, max(0.0, 1 - bar_previous - variance) ** 0.5  # of x_0 and of the noise
        if self.predicts == "v_prediction":  # x_0 = alpha x - sigma v, z = sigma x + alpha v
            a, b = kept * alpha + towards * sigma, towards * alpha - kept * sigma
        elif self.predicts == "sample":  # z = (x - alpha x_0) / sigma
            a, b = towards / sigma, kept - towards * alpha / sigma
        else:  # x_0 = (x - sigma z) / alpha
            a = (bar_previous / bar) ** 0.5
            b = towards - a * sigma
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
    if config.prediction_type not in _TYPES:
        raise ValueError(
            f"diffusion: prediction_type={config.prediction_type}, expected one of {', '.join(_TYPES)}. "
            "Set diffusion.scheduler.prediction_type."
        )
    if config.rescale_betas_zero_snr and config.prediction_type == "epsilon":
        raise ValueError(
            "diffusion: rescale_betas_zero_snr=True leaves nothing of a picture at the last timestep, where no "
            "estimate of the noise says anything of it. Set diffusion.scheduler.rescale_betas_zero_snr=false, or "
            "prediction_type=v_prediction or sample."
        )
    if len(scheduler.betas) != config.num_train_timesteps:
        raise ValueError(
            f"diffusion: {len(scheduler.betas)} trained_betas, expected {config.num_train_timesteps}. "
            "Set diffusion.scheduler.num_train_timesteps."
        )
    # without signal at the end the last beta is 1
    low, high = (
        scheduler.betas.min().item(),
        scheduler.betas[: -1 if config.rescale_betas_zero_snr else None].max().item(),
    )
    if not 0 < low <= high < 1:
        raise ValueError(
            f"diffusion: betas from {low:.3g} to {high:.3g}, expected values between 0 and 1. "
            "Set diffusion.scheduler.beta_start and beta_end."
        )
