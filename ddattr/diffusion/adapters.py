"""Adapters: low-rank changes of one frozen network, which all members share."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation: W + alpha / rank B A in place of W, in every module that is named.

    Args:
        rank: of a change.
        alpha: its scale, times the rank; None is the rank, a scale of 1.
        target_modules: the last parts of the names of linear and convolutional modules, as diffusers and peft have
            them. The default is a diffusion network's attention.
    Source: Hu et al. 2021, LoRA, arXiv 2106.09685.
    """

    rank: Annotated[int, Ge(1)] = 4
    alpha: Annotated[float, Gt(0)] | None = None
    target_modules: Sequence[str] = ("to_q", "to_k", "to_v", "to_out.0")


class Base:
    """A frozen network with room for an adapter: held once, however many adapters are evaluated on it.

    It is no nn.Module, so that its weights are no part of a member's parameters, state, average or copies. It goes to
    the device and the type of whichever adapter is evaluated. As it is frozen, it drops no units.

    Args:
        network: with its weights; it becomes the base, and is of no other use from here on.
    Raises:
        ValueError: a target that the network has no module for; peft is not installed.
    """

    def __init__(self, network: nn.Module, lora: Lora):
        self.lora = lora
        self.digest = _digest(network)
        _check_targets(network, lora)
        self.network = _with_room(network, lora).eval().requires_grad_(False)
        for module in self.network.modules():
            if hasattr(module, "base_layer"):
                module.forward = partial(_changed, module)  # type: ignore[method-assign]
        own = {name: p for name, p in self.network.named_parameters() if ".lora_" in name}
        self.places = {name.replace(".default.", "."): name for name in own}
        self.shapes = {name: own[place].shape for name, place in self.places.items()}
        for weight in own.values():
            weight.data = torch.empty(0)  # an adapter's own weights take its place

    def __deepcopy__(self, memo: Any) -> "Base":
        return self

    @property
    def parameters(self) -> int:
        """Number of its weights."""
        return sum(p.numel() for p in self.network.parameters())

    @property
    def about(self) -> dict[str, Any]:
        """What an adapter's file says of it: the base's digest, rank, alpha and targets; plain containers."""
        alpha = self.lora.rank if self.lora.alpha is None else self.lora.alpha
        targets = list(self.lora.target_modules)
        return {"base": self.digest, **asdict(self.lora), "alpha": alpha, "target_modules": targets}

    def check(self, path: Any, about: Mapping[str, Any]) -> None:
        """Refuses an adapter whose file says that it is of another base, or of another scale.

        Raises:
            ValueError: names both.
        """
        if about.get("base", self.digest) != self.digest:
            raise ValueError(
                f"{path} is an adapter of another base, {about['base']}, expected one of {self.digest}, which unet is. "
                "Set unet.path to the base that it was trained on, or delete its folder and train it again."
            )
        alpha = self.about["alpha"]
        if about.get("alpha", alpha) != alpha:
            raise ValueError(
                f"{path} is an adapter of alpha={about['alpha']:g}, expected {alpha:g}, by which all of this run's are "
                "scaled. Set training.lora.alpha, in a run of its own, or take an adapter of that alpha."
            )

    def fresh(self) -> dict[str, Tensor]:
        """A new adapter, drawn by torch's generator on the CPU: A uniform as peft has it, B zero: no change yet."""
        adapter = {name: torch.zeros(shape) for name, shape in self.shapes.items()}
        for name, weight in adapter.items():
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(weight, math.sqrt(5))
        return adapter

    def follow(self, like: Tensor) -> None:
        """Goes to the device and the type of an adapter's weight; not within a derivative's transform."""
        own = next(self.network.parameters())
        if (own.device, own.dtype) != (like.device, like.dtype):
            with torch.inference_mode(False):  # of predict, whose tensors no derivative takes
                nn.Module.to(self.network, like.device, like.dtype)  # diffusers' own warns of types

    def __call__(self, adapter: Mapping[str, Tensor], *given: Any) -> Any:
        """What the network says with this adapter."""
        self.follow(next(iter(adapter.values())))  # another's may have had it elsewhere since
        return functional_call(self.network, {self.places[k]: w for k, w in adapter.items()}, given, tie_weights=False)


class Adapted(nn.Module):
    """One adapter on a shared base; called as the base's network is. Its parameters and state are the adapter's alone.

    They have the names that peft gives them in files.
    """

    def __init__(self, base: Base):
        super().__init__()
        self.base = base
        for name, weight in base.fresh().items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in dict(module.named_children()):
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(last, nn.Parameter(weight))

    def _apply(self, fn: Any, recurse: bool = True) -> "Adapted":
        super()._apply(fn, recurse)
        self.base.follow(next(self.parameters()))
        return self

    def forward(self, *given: Any) -> Any:
        return self.base(dict(self.named_parameters()), *given)


def _changed(layer: Any, x: Tensor) -> Tensor:
    """What a layer with an adapter says: W + scale B A in the place of W, one layer for three.

    Made where it is used, and gone after, so that no more than a layer's weights are held twice. Where the adapter is
    to be differentiated, and in convolutions by groups, peft's own, three layers: they need no gradient of W.
    """
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    own = layer.base_layer
    trained = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    if trained or getattr(own, "groups", 1) != 1:
        return type(layer).forward(layer, x)
    merged = torch.addmm(own.weight.flatten(1), b.flatten(1), a.flatten(1), alpha=layer.scaling["default"])
    if isinstance(own, nn.Linear):
        return nn.functional.linear(x, merged, own.bias)
    return own._conv_forward(x, merged.view_as(own.weight), own.bias)


def _with_room(network: nn.Module, lora: Lora) -> nn.Module:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ValueError(
            "training: lora needs the library peft. Install it: pip install 'ddattr[lora]', or set training.lora=null."
        ) from None
    alpha: Any = lora.rank if lora.alpha is None else lora.alpha
    return inject_adapter_in_model(
        LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=list(lora.target_modules)), network
    )


def _check_targets(network: nn.Module, lora: Lora) -> None:
    fit = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    wanted = list(lora.target_modules)
    lost = [target for target in wanted if not any(f".{name}".endswith(f".{target}") for name in fit)]
    if lost or not wanted:
        parts = (name.split(".") for name in fit)
        some = sorted({".".join(part[-2:] if part[-1].isdigit() else part[-1:]) for part in parts})
        raise ValueError(
            f"training: lora.target_modules={wanted}, but no linear or convolutional module of the network is named "
            f"{lost[0] if lost else 'so'}, expected some of {', '.join(some[:20])}. Set training.lora.target_modules."
        )


def _digest(network: nn.Module) -> str:
    """16 hexadecimal digits of the SHA-256 of the weights by their names."""
    whole = hashlib.sha256()
    for name, weight in network.state_dict().items():
        whole.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        whole.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return whole.hexdigest()[:16]
