"""The network: diffusers' UNet2DModel, which says the estimate itself."""

from collections.abc import Mapping
from functools import wraps
from inspect import signature
from math import gcd
from typing import Any

from diffusers import UNet2DModel
from torch import Tensor


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
