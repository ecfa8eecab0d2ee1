"""Adapters of a text-to-image network in plain diffusers: its StableDiffusionPipeline, and the mean of several."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from ddattr.diffusion.adapters import Adapted
from ddattr.diffusion.pipeline import quiet
from ddattr.diffusion.pretrained import fetched, model_folder, opened
from ddattr.diffusion.sampler import DDIM, Sampler

ALONE = "pytorch_lora_weights.safetensors"  # where `load_lora_weights` looks, if it is told no name
_SIDES = 8  # what StableDiffusionPipeline takes are multiples of it


def check_exportable(network: nn.Module, sampler: Sampler, guidance: float, shape: Sequence[int]) -> None:
    """Raises ValueError for what StableDiffusionPipeline does not do.

    Args:
        shape: (C, H, W) of pictures.
    """
    if not isinstance(network, Adapted):
        raise ValueError(
            "export: members are whole networks of text to image, expected adapters, which load_lora_weights of "
            "diffusers takes. Set training=lora, or load members/NNN/member.safetensors into the base's "
            "UNet2DConditionModel by a program of your own."
        )
    if not isinstance(sampler, DDIM):
        raise ValueError(
            f"export: sampler is a {type(sampler).__name__}, expected one that diffusers has. Set sampler=ddpm or ddim."
        )
    if guidance < 1:
        raise ValueError(
            f"export: guidance={guidance:g}, which StableDiffusionPipeline takes for none, expected 1 or more. "
            "Set conditions.guidance."
        )
    if any(side % _SIDES for side in shape[1:]):
        size = " x ".join(map(str, shape))
        raise ValueError(
            f"export: pictures of {size}, but StableDiffusionPipeline makes those whose sides are multiples of "
            f"{_SIDES}. Load the adapters in members/ by a program of your own."
        )


def loaded(path: str, folder: Path, adapters: Sequence[str]) -> StableDiffusionPipeline:
    """The pipeline of a base's parts and of an export's scheduler and adapters.

    Args:
        path: of the base, a folder or an id of the hub.
        adapters: files in the export; with several, the network is their mean.
    """
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found", module="peft")  # several adapters: it is meant
        pipeline = StableDiffusionPipeline(
            vae=opened(AutoencoderKL, model_folder(path, "vae", "AutoencoderKL")),
            text_encoder=CLIPTextModel.from_pretrained(
                fetched(path) / "text_encoder", use_safetensors=True, local_files_only=True, dtype=torch.float32
            ),
            tokenizer=CLIPTokenizer.from_pretrained(fetched(path) / "tokenizer", local_files_only=True),
            unet=opened(UNet2DConditionModel, model_folder(path, "unet", "UNet2DConditionModel")).eval(),
            scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        names = [Path(file).stem for file in adapters]
        for name, file in zip(names, adapters, strict=True):
            place = folder / file
            pipeline.load_lora_weights(place.parent, weight_name=place.name, adapter_name=name)
    pipeline.set_progress_bar_config(disable=True)
    if len(names) > 1:
        average(pipeline, names)
    return pipeline


def average(pipeline: StableDiffusionPipeline, names: Sequence[str]) -> None:
    """From here on the network says the mean of what it says with each of its adapters: a model card shows it."""
    one = pipeline.unet.forward

    def mean(*given: Any, **options: Any) -> tuple[Tensor]:
        total: Any = 0
        for name in names:
            pipeline.set_adapters(name)
            total = total + one(*given, **options)[0]
        return (total / len(names),)

    pipeline.unet.forward = mean


@torch.no_grad()
def replayed(
    pipeline: StableDiffusionPipeline,
    tape: Float[Tensor, "tape 1 d y x"],
    eta: float,
    prompt: str,
    guidance: float,
    shape: Sequence[int],
) -> Float[Tensor, "1 d y x"]:
    """Latents of a tape under a prompt, by the pipeline's own call: a model card shows it.

    It would draw the noise of its steps itself: its scheduler's step is handed the tape's.

    Args:
        shape: (C, H, W) of pictures.
    """
    with quiet():
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    step, noise = pipeline.scheduler.step, iter(tape[1:])

    def on_tape(out: Tensor, t: Tensor, x: Tensor, **_: Any) -> Any:
        return step(out, t, x, eta=eta, variance_noise=next(noise), return_dict=False)

    pipeline.scheduler.step = on_tape
    return pipeline(
        prompt,
        *shape[1:],
        latents=tape[0],
        num_inference_steps=len(tape) - 1,
        guidance_scale=guidance,
        output_type="latent",
    ).images
