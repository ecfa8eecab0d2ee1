"""What several tests share: a process, tiny networks, and linear denoisers whose every derivative is known."""

from collections.abc import Callable

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import settings
from torch import Tensor, nn

from ddattr.diffusion.noise import Stream, seeded_torch
from ddattr.diffusion.process import Process
from ddattr.diffusion.unet import UNet
from ddattr.ensemble.ensemble import Ensemble

torch.set_num_threads(1)
settings.register_profile("law", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("law")


class LinearDenoiser(nn.Module):
    """f(x, t) = A x + b on the pixels of a picture."""

    def __init__(self, a: Tensor, b: Tensor):
        super().__init__()
        self.register_buffer("a", a)
        self.register_buffer("b", b)

    def forward(self, x: Tensor, t: Tensor | int) -> Tensor:
        return (x.flatten(1) @ self.a.T + self.b).reshape(x.shape)


def _unets(count: int, attention: bool) -> list[UNet]:
    down, up = ("AttnDownBlock2D", "AttnUpBlock2D") if attention else ("DownBlock2D", "UpBlock2D")
    with seeded_torch(0, Stream.INITIALISATION):
        return [
            UNet(
                sample_size=8,
                in_channels=1,
                out_channels=1,
                block_out_channels=(4, 8),
                layers_per_block=1,
                down_block_types=("DownBlock2D", down),
                up_block_types=(up, "UpBlock2D"),
                norm_num_groups=2,
                attention_head_dim=4,
                add_attention=attention,
            )
            for _ in range(count)
        ]


@pytest.fixture
def make_process() -> Callable[..., Process]:
    """Process of a linear schedule; keywords go to the diffusers scheduler."""

    def make(timesteps: int = 100, **scheduler) -> Process:
        return Process(DDPMScheduler(num_train_timesteps=timesteps, beta_start=1e-4, beta_end=0.02, **scheduler))

    return make


@pytest.fixture
def process(make_process) -> Process:
    return make_process()


@pytest.fixture
def make_linear() -> Callable[..., Ensemble]:
    """Ensemble of n linear denoisers on (1, 2, 2) pictures; `spread` is how far their matrices differ."""

    def make(n: int, spread: float = 0.3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Ensemble:
        draw = torch.Generator().manual_seed(seed)
        a = 0.3 * torch.randn(4, 4, generator=draw, dtype=dtype)
        a = a + spread * torch.randn(n, 4, 4, generator=draw, dtype=dtype)
        b = torch.randn(n, 4, generator=draw, dtype=dtype)
        return Ensemble([LinearDenoiser(*pair) for pair in zip(a, b, strict=True)])

    return make


@pytest.fixture
def make_unets() -> Callable[..., list[UNet]]:
    """Networks of 1x8x8 pictures in float32, with or without attention; the same ones at every call."""

    def make(count: int, attention: bool = False) -> list[UNet]:
        return _unets(count, attention)

    return make


@pytest.fixture
def unets(make_unets) -> Ensemble:
    """Three networks without attention, float32."""
    return Ensemble(make_unets(3))
