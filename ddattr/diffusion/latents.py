"""Latents: pictures as the frozen VAE of a pipeline encodes them, and pictures again."""

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

_BATCH = 8  # pictures in one call of the VAE


class Latents:
    """A VAE's code: deterministic both ways.

    Args:
        vae: its weights stay as they are.
        shape: (C, H, W) of the pictures.
        device: where it works; what it gives is on the CPU.
    Raises:
        ValueError: pictures of other channels, or of sides that it cannot halve as often as it does.
    Source: Rombach et al. 2022, arXiv 2112.10752, section 3.1.
    """

    def __init__(self, vae: AutoencoderKL, shape: tuple[int, ...], device: torch.device | str = "cpu"):
        channels, *sides = shape
        halved = len(vae.config.block_out_channels) - 1
        size = " x ".join(map(str, shape))
        if channels != vae.config.in_channels:
            raise ValueError(
                f"unet: pictures of {size}, but the VAE takes {vae.config.in_channels} channels. Set "
                f"data.source.channels={vae.config.in_channels}."
            )
        if any(side % 2**halved for side in sides):
            raise ValueError(
                f"unet: pictures of {size}, but the VAE halves their sides {halved} times, expected multiples of "
                f"{2**halved}. Set data.source.size."
            )
        self.vae = vae.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.shape = (int(vae.config.latent_channels), *(side // 2**halved for side in sides))

    @torch.no_grad()
    def encode(self, pictures: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d y x"]:
        """The mean of the posterior, shifted and scaled as the UNet was trained on it."""
        means = self._by_parts(pictures, lambda part: self.vae.encode(part).latent_dist.mean)
        return (means - self._shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "batch d y x"]) -> Float[Tensor, "batch c h w"]:
        """Pictures, about in [-1, 1] and not clipped."""
        raw = latents / self.vae.config.scaling_factor + self._shift
        return self._by_parts(raw, lambda part: self.vae.decode(part).sample)

    @property
    def _shift(self) -> float:
        return self.vae.config.get("shift_factor") or 0.0

    def _by_parts(self, given: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        parts = given.float().split(_BATCH) if len(given) else ()
        with torch.inference_mode(False), torch.no_grad():  # Lightning's predict is in inference mode
            made = [call(part.clone().to(self.device)).cpu() for part in parts]
        return torch.cat(made) if made else given.new_zeros(0, *self._empty(given))

    def _empty(self, given: Tensor) -> tuple[int, ...]:
        """Shape of what comes of no picture, or of no latent."""
        if tuple(given.shape[1:]) != self.shape:
            return self.shape
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return (int(self.vae.config.out_channels), *(side * factor for side in self.shape[1:]))
