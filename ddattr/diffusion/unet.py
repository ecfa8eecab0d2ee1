"""The network: diffusers' UNet2DModel, made fit for forward-mode differentiation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class UNet(UNet2DModel):
    """UNet2DModel that returns the estimate itself: (batch, C, H, W), timesteps -> (batch, C, H, W)."""

    def forward(self, sample: Tensor, timestep: Tensor | int) -> Tensor:  # type: ignore[override]
        return super().forward(sample, timestep, return_dict=False)[0]


@contextmanager
def forward_mode(networks: nn.Module) -> Iterator[None]:
    """Context in which jvp passes through these networks, attention included.

    Flash attention has no forward-mode formula, and GroupNorm's fails on tangents that are not contiguous.
    """
    norms = [module for module in networks.modules() if isinstance(module, nn.GroupNorm)]
    hooks = [norm.register_forward_pre_hook(lambda _, args: (args[0].contiguous(),)) for norm in norms]
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()
