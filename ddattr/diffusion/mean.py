"""Several networks as one of diffusers: their mean. An export has a copy of this file, which needs no ddattr."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn


class MeanUNet(ModelMixin, ConfigMixin):
    """UNets of one kind; what it says of a picture is the mean of what they say.

    Args:
        count: of the networks.
        unet: the config of each, as UNet2DModel has it.
        sample_size, in_channels: of pictures, where pipelines look for them.
    """

    @register_to_config
    def __init__(self, count: int, unet: Mapping[str, Any], sample_size: int | list[int], in_channels: int):
        super().__init__()
        self.networks = nn.ModuleList(UNet2DModel.from_config(unet) for _ in range(count))

    def forward(self, sample: Tensor, timestep: Tensor | int, return_dict: bool = True) -> UNet2DOutput | tuple[Tensor]:
        each = [network(sample, timestep, return_dict=False)[0] for network in self.networks]
        mean = torch.stack(each).mean(0)
        return UNet2DOutput(sample=mean) if return_dict else (mean,)
