"""Adapters: one frozen base, many low-rank changes of it, each as good as a network of its own."""

import copy
import gc
import sys

import pytest
import torch
from torch import nn

from ddattr.attribution.agreement import relative_error
from ddattr.attribution.denoising import denoised
from ddattr.attribution.jacobian import jacobian
from ddattr.diffusion.adapters import Adapted, Base, Lora
from ddattr.diffusion.noise import Stream, noise_tape, seeded_torch
from ddattr.diffusion.sampler import DDPM
from ddattr.diffusion.tangents import pushed
from ddattr.diffusion.unet import UNet
from ddattr.ensemble.ensemble import Ensemble

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LORA = Lora(rank=2, alpha=3.0, target_modules=[*ATTENTION, "conv1", "conv_shortcut"])


def moved(base: Base, seed: int) -> Adapted:
    """An adapter that changes something."""
    with seeded_torch(seed, Stream.ADAPTER):
        adapted = Adapted(base)
        for name, weight in adapted.named_parameters():
            if ".lora_B." in name:
                nn.init.normal_(weight, std=0.1)
    return adapted


def merged(network: nn.Module, adapted: Adapted, scale: float) -> nn.Module:
    """A network of its own, with W + scale B A by hand; a convolution's B is one of 1 x 1."""
    whole, adapter = copy.deepcopy(network), adapted.state_dict()
    for name, a in adapter.items():
        if ".lora_A." in name:
            place, b = name.replace(".lora_A", ""), adapter[name.replace("lora_A", "lora_B")]
            change = (b.flatten(1) @ a.flatten(1)).reshape(len(b), *a.shape[1:])
            whole.get_parameter(place).data += scale * change
    return whole


def pictures(seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def network(make_unets) -> UNet:
    return make_unets(1, attention=True)[0].eval()


@pytest.fixture
def base(network) -> Base:
    return Base(copy.deepcopy(network), LORA)


def test_rounded_adapters_are_near_those_in_float32(base, process):
    ensemble = Ensemble([moved(base, seed) for seed in range(3)])
    tape, reverse = noise_tape([0, 1], 4, (1, 8, 8)), DDPM(4).reverse(process)
    full, rounded = (jacobian(ensemble.rounded(of), tape, reverse)[1] for of in (torch.float32, torch.bfloat16))
    error = relative_error(rounded, full)
    assert (error > 0).all()
    assert (error < 0.1).all()


def test_a_new_adapter_changes_nothing(network, base):
    found, expected = Adapted(base).double()(pictures(), 3), network.double()(pictures(), 3)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_an_adapter_s_parameters_and_state_are_its_own_alone_by_the_names_of_peft(network, base):
    adapted = Adapted(base)
    names = list(adapted.state_dict())
    assert names == [name for name, _ in adapted.named_parameters()]
    assert "down_blocks.1.attentions.0.to_out.0.lora_B.weight" in names
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)
    assert sum(p.numel() for p in adapted.parameters()) < base.parameters
    assert base.parameters == sum(p.numel() for p in network.parameters())
    assert copy.deepcopy(adapted).base is base


def test_a_gradient_reaches_the_adapter_and_leaves_the_base_alone(base):
    adapted = moved(base, 0)
    adapted(pictures(dtype=torch.float32), 3).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapted.parameters())
    assert all(p.grad is None and not p.requires_grad for p in base.network.parameters())


@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize("targets", [ATTENTION, ("conv1", "conv_in"), ("time_emb_proj", "linear_1")])
def test_an_adapter_is_the_network_with_the_product_added(network, alpha, targets):
    lora = Lora(2, alpha, targets)
    adapted = moved(Base(copy.deepcopy(network), lora), 0).double()
    whole = merged(network.double(), adapted, 1.0 if alpha is None else alpha / 2)
    assert not torch.allclose(whole(pictures(), 3), network(pictures(), 3), rtol=1e-3)
    torch.testing.assert_close(adapted(pictures(), 3), whole(pictures(), 3), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("targets", [ATTENTION, ("conv1", "conv_in", "conv"), ("time_emb_proj", "linear_1")])
def test_one_layer_for_three_says_what_peft_s_three_say(make_unets, monkeypatch, targets):
    """Where nothing of the adapter is differentiated; derivatives in pictures too. `conv` has strides of 2 among it."""
    adapted = moved(Base(make_unets(1, attention=True)[0], Lora(2, 3.0, list(targets))), 0).double()
    x, direction = pictures(), pictures(1)
    ran = []
    layer = next(module for module in adapted.base.network.modules() if hasattr(module, "base_layer"))
    layer.lora_A["default"].register_forward_hook(lambda *_: ran.append(1))
    three = adapted(x, 3).detach()  # with gradients
    assert ran
    ran.clear()
    with torch.no_grad():
        torch.testing.assert_close(adapted(x, 3), three, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(adapted.float()(x.float(), 3), three.float(), rtol=1e-5, atol=1e-6)
    adapted.double()
    derivative = pushed(lambda y: adapted(y, 3), x, direction[None])[1]
    assert not ran
    monkeypatch.setattr(torch, "is_grad_enabled", lambda: True)  # peft's three, in the same derivative
    expected = pushed(lambda y: adapted(y, 3), x, direction[None])[1]
    assert ran
    torch.testing.assert_close(derivative, expected, rtol=1e-10, atol=1e-10)


def test_attribution_with_adapters_is_that_of_merged_networks(network, base, process):
    """Pictures, Jacobian and denoising, in float32, to 1e-5 of their size."""
    members = [moved(base, k) for k in range(3)]
    one = Ensemble(members)
    other = Ensemble([merged(network, member, 1.5) for member in members])
    reverse = process.reverse_steps(3, 1.0)
    tape = noise_tape([0, 1], len(reverse), (1, 8, 8))
    weights = torch.cat([one.uniform[None], torch.tensor([[0.5, 0.5, 0.0]])])
    times, noise = torch.tensor([10, 60]), noise_tape([5], 1, (1, 8, 8))[:, 0]

    def attributed(ensemble: Ensemble) -> list[torch.Tensor]:
        replayed = ensemble.replay(weights, tape, reverse)
        answers = denoised(ensemble, process, replayed[0], times, noise)
        return [replayed, *jacobian(ensemble, tape, reverse), answers]

    for found, expected in zip(attributed(one), attributed(other), strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_derivatives_pass_through_an_adapter_as_central_differences_have_it(base):
    network, (x, direction), step = Ensemble([moved(base, 0).double()]), (pictures(), pictures(1)), 1e-4
    estimate, derivative = pushed(lambda y: network.member(0, y, 3), x, direction[None])
    with torch.no_grad():
        above, below = (network.member(0, x + sign * step * direction, 3) for sign in (1, -1))
        torch.testing.assert_close(estimate, network.member(0, x, 3))
    torch.testing.assert_close(derivative[0], (above - below) / (2 * step), rtol=1e-5, atol=1e-6)


def storages() -> dict[int, int]:
    """Bytes of every tensor storage that lives in this process, by its address."""
    gc.collect()
    with torch.no_grad():
        found = [t.untyped_storage() for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


@pytest.mark.slow
def test_32_adapters_hold_their_base_once(make_unets):
    """At most 1.3 times the base and the adapters, all of it counted, after their use as well."""
    before = storages()
    base = Base(make_unets(1, attention=True, channels=(16, 32))[0], Lora(rank=1))
    ensemble = Ensemble([Adapted(base) for _ in range(32)])
    x = pictures(dtype=torch.float32)
    pushed(lambda y: ensemble.outputs(y, 3), x, x[None])
    del x
    held = sum(size for at, size in storages().items() if at not in before)
    needed = 4 * (base.parameters + sum(p.numel() for p in ensemble.parameters()))
    assert 4 * base.parameters > 0.5 * needed  # so that a second base would be seen
    assert held <= 1.3 * needed


def test_a_base_goes_where_its_adapter_is(base):
    one, other = moved(base, 0), moved(base, 1).double()
    x = pictures()
    before = one(x.float(), 3)
    assert other(x, 3).dtype == torch.float64
    assert torch.equal(one(x.float(), 3), before)


def test_a_new_adapter_is_drawn_as_peft_draws(base):
    """A uniform within 1 / sqrt(inputs), B zero."""
    for name, weight in base.fresh().items():
        if ".lora_B." in name:
            assert not weight.any()
        elif weight.numel() >= 32:
            assert 0.8 < weight.abs().max() * weight[0].numel() ** 0.5 <= 1


@pytest.mark.parametrize("targets", [["to_q", "to_x"], []])
def test_an_unknown_target_is_refused_with_some_that_exist(network, targets):
    with pytest.raises(ValueError, match=r"target_modules=\[.*expected some of conv, .*to_out\.0, .* Set training"):
        Base(network, Lora(target_modules=targets))


def test_without_peft_one_line_says_how_to_get_it(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"training: lora needs the library peft\. .* pip install 'ddattr\[lora\]'"):
        Base(network, LORA)


def test_an_adapter_of_another_base_is_refused(network, base):
    base.check("here", base.about)
    network.conv_in.bias.data += 1e-6
    other = Base(network, LORA)
    with pytest.raises(
        ValueError, match=rf"here is an adapter of another base, {base.digest}, .*{other.digest}.* Set unet"
    ):
        other.check("here", base.about)
    with pytest.raises(ValueError, match=r"here is an adapter of alpha=9, expected .* Set training\.lora\.alpha"):
        base.check("here", base.about | {"alpha": 9.0})
