"""Text to image: a Stable-Diffusion-like pipeline's folder, as diffusers saves it."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from ddattr.diffusion.latents import Latents
from ddattr.diffusion.pretrained import fetched, model_folder, opened, scheduler_file


class TextUNet(UNet2DConditionModel):
    """UNet2DConditionModel that returns the estimate itself: (batch, d, y, x), timesteps, (batch, tokens, width)."""

    def forward(self, sample: Tensor, timestep: Tensor | int, prompts: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(sample, timestep, prompts, return_dict=False)[0]


def unet(path: str, sample_size: Sequence[int], in_channels: int, out_channels: int) -> TextUNet:
    """The UNet2DConditionModel of a pipeline's folder, with its weights, in float32 and training mode.

    Args:
        path: of the pipeline's folder, with unet/, vae/, text_encoder/, tokenizer/ and scheduler/; else an id of the
            Hugging Face hub.
        sample_size: (H, W) of the latents; another than the model was trained at is taken.
        in_channels, out_channels: of the latents.
    Raises:
        FileNotFoundError: no such folder, or a part of the pipeline is missing.
        ValueError: parts of other kinds, pickled weights, weights that do not fit, or a model of other latents.
    """
    place = model_folder(path, "unet", "UNet2DConditionModel")
    config = json.loads((place / "config.json").read_text())
    of = config.get("in_channels", 4), config.get("out_channels", 4)
    if of != (in_channels, out_channels):
        raise ValueError(
            f"unet: the model in {place} takes {of[0]} channels and gives {of[1]}, but the latents have {in_channels}. "
            "Set unet.path to a pipeline that makes pictures of text alone."
        )
    if config.get("addition_embed_type") or config.get("class_embed_type"):
        raise ValueError(
            f"unet: the model in {place} takes more than a prompt, expected one like Stable Diffusion 1 and 2. "
            "Set unet.path."
        )
    return opened(TextUNet, place).train()


def latents(path: str, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Latents:
    """The code of a pipeline's VAE, for pictures of a shape.

    Raises:
        FileNotFoundError, ValueError: as `unet`; pictures that the VAE does not take.
    """
    return Latents(opened(AutoencoderKL, model_folder(path, "vae", "AutoencoderKL")), shape, device)


@cache
def digest(path: str) -> str:
    """16 hexadecimal digits of the SHA-256 of the files of all parts; they are the same wherever the folder lies."""
    root, scheduler = fetched(path), scheduler_file(path)
    whole = hashlib.sha256()
    for name, file in [*_files(root), *([] if scheduler is None else [("scheduler", scheduler)])]:
        with file.open("rb") as handle:
            whole.update(f"{name}/{file.name} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()[:16]


@cache
def vae_digest(path: str) -> str:
    """The same of the VAE alone, which latents depend on."""
    whole = hashlib.sha256()
    for _, file in (pair for pair in _files(fetched(path)) if pair[0] == "vae"):
        with file.open("rb") as handle:
            whole.update(f"{file.name} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()[:16]


def _files(root: Path) -> list[tuple[str, Path]]:
    """What each part is read from: configs, vocabularies and weights in safetensors."""
    kinds = {
        "unet": ("config.json", "diffusion_pytorch_model*.safetensors*"),
        "vae": ("config.json", "diffusion_pytorch_model*.safetensors*"),
        "text_encoder": ("config.json", "model*.safetensors*"),
        "tokenizer": ("*.json", "*.txt"),
    }
    return [
        (part, file)
        for part, patterns in kinds.items()
        for pattern in patterns
        for file in sorted((root / part).glob(pattern))
    ]
