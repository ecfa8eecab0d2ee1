"""A denoiser and its schedule as a folder that plain diffusers loads."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, ModelMixin, SchedulerMixin, UNet2DModel
from diffusers.utils import logging
from jaxtyping import Float
from torch import Tensor, nn

from ddattr.diffusion import mean
from ddattr.diffusion.adapters import Adapted
from ddattr.diffusion.mean import MeanUNet
from ddattr.diffusion.process import Process
from ddattr.diffusion.sampler import DDIM, Sampler

_STEPS_SAME = {"clip_sample": False, "thresholding": False}  # what ours does, and no default of theirs


def check_exportable(network: nn.Module, sampler: Sampler) -> None:
    """Raises ValueError for a network, or a sampler, that diffusers does not have."""
    whole = network.base.network if isinstance(network, Adapted) else network
    if not isinstance(whole, UNet2DModel):
        raise ValueError(
            f"export: unet is a {type(whole).__name__}, expected a UNet2DModel, which pipelines of diffusers load. "
            "Set unet, or save its members/NNN/member.safetensors by a program of your own."
        )
    if whole.config.num_class_embeds is not None:
        raise ValueError(
            "export: members are asked under classes, expected none: no pipeline of diffusers gives any to a "
            "UNet2DModel. Load members/NNN/member.safetensors into one by a program of your own."
        )
    if not isinstance(sampler, DDIM):
        raise ValueError(
            f"export: sampler is a {type(sampler).__name__}, expected one that diffusers has. Set sampler=ddpm or ddim."
        )


def denoiser(networks: Sequence[nn.Module]) -> ModelMixin:
    """Networks as one of diffusers' own classes: itself, or the mean of several."""
    first = _plain(networks[0])
    if len(networks) == 1:
        return first
    config = {key: value for key, value in first.config.items() if not key.startswith("_")}
    mean = MeanUNet(len(networks), config, config["sample_size"], config["in_channels"])
    for place, network in zip(mean.networks, networks, strict=True):
        place.load_state_dict(_plain(network).state_dict())
    return mean.eval()


def _plain(network: nn.Module) -> UNet2DModel:
    """As a UNet2DModel, an adapter merged into its base."""
    whole = merged(network) if isinstance(network, Adapted) else network
    unet = UNet2DModel.from_config(whole.config)
    unet.load_state_dict(_weights(whole))
    return unet.eval()


def merged(adapted: Adapted) -> nn.Module:
    """A copy of an adapter's base in which W + alpha / rank B A stands in the place of every W that it changes."""
    whole = deepcopy(adapted.base.network)
    places = dict(whole.named_parameters())
    for name, weight in adapted.state_dict().items():
        places[adapted.base.places[name]].data = weight.detach().clone()
    for module in [*whole.modules()]:
        if hasattr(module, "base_layer"):
            module.merge()  # type: ignore[operator]
    return whole


def _weights(network: nn.Module) -> dict[str, Tensor]:
    """By the names that they have without peft."""
    own = {name: weight for name, weight in network.state_dict().items() if ".lora_" not in name}
    return {name.replace(".base_layer.", "."): weight for name, weight in own.items()}


def lora_weights(adapted: Adapted) -> dict[str, Tensor]:
    """An adapter by the names that diffusers' `load_lora_weights` and `load_lora_adapter` look for.

    They take alpha for the rank, where nothing says otherwise: B has the scale in it.
    """
    about = adapted.base.about
    scale = about["alpha"] / about["rank"]
    weights = {f"unet.{name}": weight.detach() for name, weight in adapted.state_dict().items()}
    return {name: weight * scale if ".lora_B." in name else weight for name, weight in weights.items()}


def scheduler(process: Process, sampler: DDIM) -> SchedulerMixin:
    """The scheduler of diffusers that goes back as the sampler does, on the same timesteps."""
    spacing = process.respaced(sampler.steps)
    ours = _STEPS_SAME | ({} if spacing is None else {"timestep_spacing": spacing})
    whole = process.final_alpha_cumprod == 1
    if sampler.eta == 1 and whole:
        return _like(DDPMScheduler, process, variance_type="fixed_small", **ours)
    return _like(DDIMScheduler, process, set_alpha_to_one=whole, **ours)


def _like(kind: type[SchedulerMixin], process: Process, **options: Any) -> SchedulerMixin:
    with quiet():  # keys of the other kind, which it names
        return kind.from_config(process.scheduler.config, **options)


@contextmanager
def quiet() -> Iterator[None]:
    """No word of diffusers, and no bars."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def save(folder: Path, unet: ModelMixin, back: SchedulerMixin) -> None:
    """Writes a pipeline's folder: `DiffusionPipeline.from_pretrained(folder)`.

    A mean of networks has its class beside its weights: whoever loads it sets `trust_remote_code`.
    """
    library = "diffusers"
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    if isinstance(unet, MeanUNet):
        library = "mean"
        shutil.copyfile(mean.__file__, folder / "unet" / f"{library}.py")
    back.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "DDPMPipeline" if isinstance(back, DDPMScheduler) else "DDIMPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", type(back).__name__],
        "unet": [library, type(unet).__name__],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def loaded(folder: Path) -> DiffusionPipeline:
    """The pipeline of a folder that `save` wrote."""
    with quiet():
        pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
    pipeline.unet.eval()
    return pipeline


@torch.no_grad()
def replayed(pipeline: DiffusionPipeline, tape: Float[Tensor, "tape q c h w"], eta: float) -> Float[Tensor, "q c h w"]:
    """The pictures of a tape, by nothing but a loop over diffusers' own scheduler: a model card shows it.

    DDIMScheduler takes the noise of a step, as DDPMScheduler does not, and is the same at eta = 1.
    """
    with quiet():
        back = DDIMScheduler.from_config(pipeline.scheduler.config)
    back.set_timesteps(len(tape) - 1)
    x = tape[0]
    for t, z in zip(back.timesteps, tape[1:], strict=False):  # for some numbers of steps, `trailing` has one more
        x = back.step(pipeline.unet(x, t).sample, t, x, eta=eta, variance_noise=z).prev_sample
    return x
