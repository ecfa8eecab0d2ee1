"""The network: an estimate out of it, and derivatives through it."""

import pytest
import torch
from torch.func import jvp, vmap

from ddattr.diffusion.unet import UNet, forward_mode


def pictures(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("attention", [False, True])
def test_the_network_returns_the_estimate_itself(make_unets, attention):
    network = make_unets(1, attention)[0].double().eval()
    estimate = network(pictures(), 3)
    assert estimate.shape == (2, 1, 8, 8)
    assert torch.equal(estimate, network(pictures(), torch.tensor([3, 3])))


@pytest.mark.parametrize("attention", [False, True])
def test_forward_mode_agrees_with_central_differences(make_unets, attention):
    """In float64 the differences err by step^2 and by rounding / step: about 1e-8 at a step of 1e-4."""
    network = make_unets(1, attention)[0].double().eval()
    x, direction, step = pictures(), pictures(1), 1e-4
    with forward_mode(network):
        estimate, derivative = jvp(lambda y: network(y, 3), (x,), (direction,))
        difference = (network(x + step * direction, 3) - network(x - step * direction, 3)) / (2 * step)
        torch.testing.assert_close(estimate, network(x, 3))
    torch.testing.assert_close(derivative, difference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", [False, True])
def test_many_directions_at_once_equal_one_at_a_time(make_unets, attention):
    network = make_unets(1, attention)[0].double().eval()
    x, directions = pictures(), torch.stack([pictures(1), pictures(2)])
    with forward_mode(network):
        together = vmap(lambda e: jvp(lambda y: network(y, 3), (x,), (e,))[1])(directions)
        alone = [jvp(lambda y: network(y, 3), (x,), (e,))[1] for e in directions]
    torch.testing.assert_close(together, torch.stack(alone))


def test_forward_mode_leaves_nothing_behind(make_unets):
    network = make_unets(1)[0].eval()

    def replaced() -> int:
        return sum("forward" in vars(module) for module in network.modules())

    def fail():
        with forward_mode(network):
            assert replaced() > 0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert replaced() == 0


@pytest.mark.parametrize("affine", [True, False])
def test_the_group_norm_of_forward_mode_is_torchs_own(affine):
    """Its value, and its tangent as central differences have it, in float64, on inputs without contiguity."""
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(2, 4, affine=affine).double()
    if affine:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    x, e = torch.randn(2, 3, 4, 5, 4).double().transpose(2, 4)
    step = 1e-6
    with torch.no_grad():
        differences = (norm(x + step * e) - norm(x - step * e)) / (2 * step)
        plain = norm(x)
    with forward_mode(norm):
        value, tangent = jvp(norm, (x,), (e,))
    torch.testing.assert_close(value, plain, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(tangent, differences, rtol=1e-7, atol=1e-8)


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
