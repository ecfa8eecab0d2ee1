"""The network: an estimate out of it; derivatives through it are in test_tangents."""

import pytest
import torch

from ddattr.diffusion.unet import UNet


def pictures(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("attention", [False, True])
def test_the_network_returns_the_estimate_itself(make_unets, attention):
    network = make_unets(1, attention)[0].double().eval()
    estimate = network(pictures(), 3)
    assert estimate.shape == (2, 1, 8, 8)
    assert torch.equal(estimate, network(pictures(), torch.tensor([3, 3])))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sample_size": (7, 9)}, r"pictures of 7 x 9 do not fit 2 levels, .* multiples of 2, such as 8 x 10\."),
        ({"norm_num_groups": 3}, r"norm_num_groups=3 does not divide .*\[4, 8\], expected one of 1, 2, 4\. Set unet"),
        ({"class_embed_type": "timestep"}, r"class_embed_type=timestep, .* Set unet\.class_embed_type=null"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_what_would_fit(options, words):
    with pytest.raises(ValueError, match=words):
        small(**options)


@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (8, 8)), (3, (6, 10)), (4, (2, 2))])
def test_pictures_of_any_channels_and_of_sizes_that_fit_pass_through(channels, size):
    network = small(sample_size=size, in_channels=channels, out_channels=channels)
    assert network(torch.zeros(2, channels, *size), 3).shape == (2, channels, *size)


def test_sizes_of_any_parity_fit_one_level():
    network = small(
        sample_size=(7, 9), block_out_channels=[4], down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"]
    )
    assert network(torch.zeros(1, 1, 7, 9), 3).shape == (1, 1, 7, 9)


def small(**options) -> UNet:
    plain = {
        "sample_size": (8, 8),
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": [4, 8],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "norm_num_groups": 2,
        "add_attention": False,
    }
    return UNet(**plain | options)
