"""The network: diffusers' UNet2DModel, made fit for forward-mode differentiation."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from inspect import signature
from itertools import chain
from math import gcd
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ddattr.diffusion.adapters import Adapted


class UNet(UNet2DModel):
    """UNet2DModel that returns the estimate itself: (batch, C, H, W), timesteps -> (batch, C, H, W).

    With `num_class_embeds` it takes the class numbers (batch,) as well.

    Raises:
        ValueError: pictures of a size, or groups of a number, that its levels cannot have; classes that are no numbers.
    """

    @wraps(UNet2DModel.__init__)  # type: ignore[misc]
    def __init__(self, **options: Any):
        given = signature(UNet2DModel.__init__).bind(self, **options)
        given.apply_defaults()
        _check(given.arguments)
        super().__init__(**options)

    def forward(  # type: ignore[override]
        self, sample: Tensor, timestep: Tensor | int, classes: Tensor | None = None
    ) -> Tensor:
        return super().forward(sample, timestep, classes, return_dict=False)[0]


def _check(options: Mapping[str, Any]) -> None:
    channels, size, groups = (options[key] for key in ("block_out_channels", "sample_size", "norm_num_groups"))
    if (kind := options["class_embed_type"]) is not None:
        raise ValueError(
            f"unet: class_embed_type={kind}, but classes are given as numbers. Set unet.class_embed_type=null."
        )
    if (common := gcd(*channels)) % groups:
        fit = ", ".join(str(count) for count in range(1, common + 1) if common % count == 0)
        raise ValueError(
            f"unet: norm_num_groups={groups} does not divide block_out_channels={list(channels)}, expected one of "
            f"{fit}. Set unet.norm_num_groups."
        )
    multiple = 2 ** (len(channels) - 1)  # every level but the last halves the sides
    sides = (size, size) if isinstance(size, int) else size
    if sides is not None and any(side % multiple for side in sides):
        near = " x ".join(str(-(-side // multiple) * multiple) for side in sides)
        raise ValueError(
            f"unet: pictures of {' x '.join(map(str, sides))} do not fit {len(channels)} levels, expected sides "
            f"that are multiples of {multiple}, such as {near}. Set unet.block_out_channels to fewer levels, or resize "
            "the pictures."
        )


@contextmanager
def forward_mode(networks: nn.Module) -> Iterator[None]:
    """Context in which jvp passes through these networks, attention included.

    Flash attention has no forward-mode formula. GroupNorm's fails on tangents that are not contiguous, and takes a
    dozen passes over memory where five do: it has a formula of its own here. Lightning's predict is in inference mode,
    where torch 2.11 cannot vmap a jvp.
    """
    bases = {module.base: module.base.network for module in networks.modules() if isinstance(module, Adapted)}
    inside = chain(networks.modules(), *(network.modules() for network in bases.values()))
    norms = [module for module in inside if isinstance(module, nn.GroupNorm)]
    for norm in norms:
        norm.forward = partial(_apply_norm, norm)  # type: ignore[method-assign]
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for norm in norms:
            del norm.forward


def _apply_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    weight = x.new_ones(norm.num_channels) if norm.weight is None else norm.weight
    bias = x.new_zeros(norm.num_channels) if norm.bias is None else norm.bias
    return _GroupNorm.apply(x.contiguous(), weight, bias, norm.num_groups, norm.eps)[0]


class _GroupNorm(torch.autograd.Function):
    """group_norm with the tangent scale (dx - mean(dx) - y mean(y dx)), y the normalised input, by groups."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        batch, channels, *space = x.shape
        size = torch.Size(space).numel()
        out, mean, rstd = torch.native_group_norm(x, weight, bias, batch, channels, size, groups, eps)
        normal = (x.reshape(batch, groups, -1) - mean[..., None]) * rstd[..., None]
        scale = weight.expand(batch, -1) * rstd.repeat_interleave(channels // groups, 1)
        return out, normal, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_forward(*output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: Any) -> tuple[Tensor, None, None]:
        normal, scale = ctx.saved_tensors
        grouped = dx.reshape(normal.shape)
        along = (grouped[:, :, None] @ normal[..., None])[..., 0] / normal.shape[-1]
        moved = grouped - torch.addcmul(grouped.mean(-1, keepdim=True), normal, along)
        return moved.reshape(dx.shape) * scale.reshape(*scale.shape, *[1] * (dx.dim() - 2)), None, None
