"""Tangents through a network: those of torch's own forward mode, of central differences, and none that is lost."""

import pytest
import torch
from conftest import torchs_forward_mode
from torch.func import jvp, vmap
from torch.nn import functional as F

from ddattr.diffusion.tangents import pushed


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_torch(f, x, tangents):
    with torchs_forward_mode():
        return vmap(lambda e: jvp(f, (x,), (e,)), out_dims=(None, 0))(tangents)


WEIGHT, BIAS, KERNEL = randn(4, seed=5), randn(4, seed=6), randn(6, 4, 3, 3, seed=7)
SIX, UP, FIVE, ACROSS = randn(6, seed=8), randn(4, 2, 2, 2, seed=9), randn(5, seed=10), randn(5, 8, seed=11)
CHANNELS, PLANE, LIKE, MORE = randn(4, 1, 1), randn(6, 8), randn(3, 4, 6, 8, seed=12), randn(2, 3, 4, 6, 8)
FUNCTIONS = {  # of pictures (3, 4, 6, 8)
    "conv": lambda x: F.conv2d(x, KERNEL, SIX, stride=2, padding=1),
    "grouped conv": lambda x: F.conv2d(x, KERNEL[:, :2], None, 1, 1, 1, 2),
    "transposed conv": lambda x: F.conv_transpose2d(x, UP, stride=2),
    "a kernel of x's own": lambda x: F.conv2d(x, x[:, :, :3, :3], padding=1),
    "linear": lambda x: F.linear(x, ACROSS, FIVE),
    "weights of x's own": lambda x: F.linear(x, x[0, 0]),
    "silu": F.silu,
    "group norm": lambda x: F.group_norm(x, 2, WEIGHT, BIAS, 1e-3),
    "group norm without weights": lambda x: F.group_norm(x, 2),
    "group norm of what is not contiguous": lambda x: F.group_norm(x.transpose(0, 1).transpose(2, 3)[..., :3], 3),
    "group norm of vectors": lambda x: F.group_norm(x.flatten(2).mean(2), 2, WEIGHT, BIAS),
    "layer norm": lambda x: F.layer_norm(x, (8,)),
    "add": lambda x: x + x.tanh() + 3 + CHANNELS + (PLANE + x) + torch.add(x, x, alpha=2),
    "add to something larger": lambda x: x + MORE,
    "add what is smaller": lambda x: x + x.mean((0, 2, 3), keepdim=True),
    "add in place": lambda x: _summed(x.sin(), x),
    "product": lambda x: 2 * x * x * PLANE * 1 * torch.tensor(0.5),
    "quotient": lambda x: x / 3 / 1 / (2 + x.square()) + 1 / (3 + x.square()),
    "cat": lambda x: torch.cat([x, x.sin()], dim=1) + torch.cat([x, LIKE], 1),
    "cat of pictures": lambda x: torch.cat([x[:1], x.sin()]),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "relu in place": lambda x: F.elu(x * 2, inplace=True),
    "in place, and the input again": lambda x: _again(x * 2, F.elu),
    "silu in place, and the input again": lambda x: _again(x * 2, F.silu),
    "a product by one that is changed in place": lambda x: _summed(x * 1, x.sin()) + x,
    "a quotient by one that is changed in place": lambda x: _summed(x / 1.0, x.sin()) + x,
    "what is the same tensor, in place": lambda x: _same(x * 2),
    "in place, when no view is left": lambda x: (a := x * 2, a.flatten().sin(), a.add_(1))[2],
    "called by names": lambda x: torch.cat(tensors=[x, torch.add(input=x, other=1.0)], dim=1),
    "pooling": lambda x: F.avg_pool2d(x, 2),
    "attention": lambda x: F.scaled_dot_product_attention(*x.flatten(2).repeat(1, 3, 1).chunk(3, dim=1)),
    "softmax": lambda x: (x.flatten(2) @ x.flatten(2).mT).softmax(-1),
    "shapes": lambda x: x.reshape(3, -1).unflatten(1, (2, -1)).permute(2, 0, 1)[x.shape[1] :, : x.size(0)].contiguous(),
    "parts": lambda x: sum(part.square() for part in x.split(2, dim=1)),
}


def _again(a, function):
    b = function(a, inplace=True)
    return a + 3 * b


def _same(a):
    b = a.contiguous()
    b += 1
    return a * F.relu(a.to(a.dtype), inplace=True)


def _shown(a, view):
    b = view(a)
    F.relu(a, inplace=True)
    return b


def _summed(a, b):
    a += b
    a *= 2
    return a.add_(1).clamp_(-1, 2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_tangents_are_torchs_own(name):
    f, x, tangents = FUNCTIONS[name], randn(3, 4, 6, 8), randn(5, 3, 4, 6, 8, seed=1)
    for found, expected in zip(pushed(f, x, tangents), by_torch(f, x, tangents), strict=True):
        assert type(found) is torch.Tensor
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("attention", [False, True])
def test_through_a_network_they_agree_with_central_differences(make_unets, attention):
    """In float64 the differences err by step^2 and by rounding / step: about 1e-8 at a step of 1e-4."""
    network, x, directions, step = make_unets(1, attention)[0].double().eval(), *randn(2, 2, 1, 8, 8), 1e-4
    directions = torch.stack([directions, randn(2, 1, 8, 8, seed=3)])
    value, tangents = pushed(lambda y: network(y, 3), x, directions)
    with torch.no_grad():
        torch.testing.assert_close(value, network(x, 3))
        differences = [(network(x + step * e, 3) - network(x - step * e, 3)) / (2 * step) for e in directions]
    torch.testing.assert_close(tangents, torch.stack(differences), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", [False, True])
def test_under_autocast_they_err_no_more_than_torchs_own(make_unets, attention):
    """Against float64, and within the noise of rounding; the value is torch's to the bit."""
    network = make_unets(1, attention)[0].eval().requires_grad_(False)
    x, tangents = randn(2, 1, 8, 8), randn(5, 2, 1, 8, 8, seed=1)
    _, truth = pushed(lambda y: network.double()(y, 3), x, tangents)
    network, x, tangents = network.float(), x.float(), tangents.float()
    with torch.autocast("cpu", torch.bfloat16):
        value, found = pushed(lambda y: network(y, 3), x, tangents)
        torch.testing.assert_close(value, network(x, 3), rtol=0, atol=0)
        _, theirs = by_torch(lambda y: network(y, 3), x, tangents)
    ours, theirs = ((of.double() - truth).norm() / truth.norm() for of in (found, theirs))
    assert 0 < ours < 1.5 * theirs < 0.05


def test_what_does_not_depend_on_x_has_none():
    value, tangents = pushed(lambda x: torch.ones(2, 3), randn(4), randn(5, 4))
    assert torch.equal(value, torch.ones(2, 3))
    assert torch.equal(tangents, torch.zeros(5, 2, 3))


def test_what_is_given_is_left_as_it_is():
    x, tangents = randn(3, 4), randn(5, 3, 4)
    before = x.clone(), tangents.clone()
    pushed(lambda y: F.relu(F.dropout(y, training=False), inplace=True), x, tangents)
    assert torch.equal(x, before[0])
    assert torch.equal(tangents, before[1])


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x[1:].mul_(2),
        lambda x: torch.ones(4).add_(x),
        lambda x: x.__setitem__(0, 1.0) or x,
        lambda x: x * x[0].item(),
        lambda x: x * float(x.sum()),
        lambda x: _shown(x * 2, lambda a: a.view(-1)),
        lambda x: _shown(x * 2, lambda a: a[:1].reshape(1)),
        lambda x: _shown(x * 2, lambda a: a.view(2, 2).view(-1)),
        lambda x: _shown(x * 2, lambda a: a.detach()),
    ],
)
def test_no_derivative_is_lost_without_a_word(f):
    with pytest.raises(RuntimeError, match="derivative would be lost"):
        pushed(f, randn(4), randn(2, 4))


def test_it_works_where_lightning_predicts(make_unets):
    network = make_unets(1, True)[0].eval()
    expected = pushed(lambda y: network(y, 3), torch.ones(1, 1, 8, 8), torch.ones(2, 1, 1, 8, 8))
    with torch.inference_mode():
        found = pushed(lambda y: network(y, 3), torch.ones(1, 1, 8, 8), torch.ones(2, 1, 1, 8, 8))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
