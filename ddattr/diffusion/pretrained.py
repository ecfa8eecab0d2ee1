"""A network to start from: a folder that diffusers saved, its weights, its scheduler, and the digest of both."""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler, ModelMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from safetensors import SafetensorError
from torch import nn

from ddattr.diffusion.process import READ, Process
from ddattr.diffusion.unet import UNet

_WEIGHTS = "diffusion_pytorch_model"
_NEEDED = ["*config.json", f"*{_WEIGHTS}.safetensors*", "text_encoder/model.safetensors*"]
_NEEDED += ["tokenizer/*.json", "tokenizer/merges.txt"]
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


def pretrained(
    path: str, sample_size: Sequence[int], in_channels: int, out_channels: int, num_class_embeds: int | None = None
) -> UNet:
    """The UNet2DModel of a folder, with its weights, in float32 and training mode.

    A base that knows the classes and no null, which is the last of them here, gets a row for it: the mean of its
    classes'. Members trained whole train that row too; of adapters it stays, as the base does.

    Args:
        path: of the model's folder, or of a pipeline's with `unet/`; else an id of the Hugging Face hub.
        sample_size: (H, W) of the data's pictures; with their channels, what the model has to be of.
        num_class_embeds: classes that members are given, the null among them; None where they are given none.
    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no UNet2DModel, pickled or damaged weights, others than its own, or a model of other
            pictures, or of other classes.
    """
    place = unet_folder(path)
    config = read_config(place / "config.json", "unet")
    _check_shape(path, config, sample_size, in_channels, out_channels)
    _check_classes(path, config, num_class_embeds)
    network = opened(UNet, place)
    if num_class_embeds is not None and network.config.num_class_embeds == num_class_embeds - 1:
        known = network.class_embedding.weight.data
        network.class_embedding = nn.Embedding.from_pretrained(torch.cat([known, known.mean(0, keepdim=True)]), False)
        network.register_to_config(num_class_embeds=num_class_embeds)
    return network.train()


def opened(kind: type[ModelMixin], place: Path) -> Any:
    """A model of diffusers with its weights, in float32.

    Raises:
        ValueError: weights that are damaged, or not of its config.
    """
    try:
        network, found = kind.from_pretrained(
            place,
            torch_dtype=torch.float32,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            ignore_mismatched_sizes=True,  # they are refused below, with others
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, SafetensorError) as error:
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(
            f"unet: the weights in {place} cannot be read: {said}. Take the folder from where it is whole, or set "
            "unet.path to another."
        ) from None
    wrong = [*found["missing_keys"], *found["unexpected_keys"], *(key for key, *_ in found["mismatched_keys"])]
    if wrong:
        raise ValueError(
            f"unet: the weights in {place} are not of its config.json: {len(wrong)} differ, as {wrong[0]}. "
            "Save the model again with diffusers, or set unet.path to another."
        )
    return network


def process(path: str) -> Process:
    """The forward process that the folder's scheduler config says; clipping and the like in it are a sampler's.

    Raises:
        FileNotFoundError: no such folder, or no scheduler in it.
        ValueError: a scheduler whose noise is not of betas, or that `Process` refuses.
    """
    place = scheduler_file(path)
    if place is None:
        raise FileNotFoundError(
            f"diffusion: {path} holds no scheduler/scheduler_config.json, expected that of a pipeline. Set "
            "diffusion=linear and the keys of diffusion.scheduler that the base was trained with."
        )
    config = read_config(place, "diffusion")
    name = str(config.get("_class_name"))
    if (
        not (name in KarrasDiffusionSchedulers.__members__ and hasattr(diffusers, name))
        or "beta_schedule" not in config
    ):
        raise ValueError(
            f"diffusion: {place} is of a {name}, expected a scheduler with betas, as DDPMScheduler or DDIMScheduler. "
            "Set unet.path to another, or diffusion=linear and diffusion.scheduler as the base was trained."
        )
    taken = {key: value for key, value in config.items() if key in READ}
    if taken.get("timestep_spacing") == "leading":  # what diffusers writes where nobody had chosen
        del taken["timestep_spacing"]
    if taken.pop("set_alpha_to_one", True):
        return Process(DDPMScheduler(**taken))
    return Process(DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **taken))


def check_process(path: str, given: Process) -> None:
    """Refuses a process that is another than the folder's scheduler config says, where there is one.

    Raises:
        ValueError: names what differs.
    """
    if scheduler_file(path) is None:
        return
    own, other = process(path).scheduler.config, given.scheduler.config
    sampled = {"timestep_spacing", "steps_offset", "set_alpha_to_one"}  # what a network was not trained with
    keys = [key for key in sorted(READ - sampled) if own.get(key) != other.get(key)]
    if keys:
        raise ValueError(
            f"diffusion: {keys[0]}={other.get(keys[0])}, but the base in {path} was trained with {own.get(keys[0])}. "
            "Set diffusion=pretrained."
        )


@cache
def digest(path: str) -> str:
    """16 hexadecimal digits of the SHA-256 of the model's config and weights and of its scheduler's config.

    They are the same wherever the folder lies.
    """
    place, scheduler = unet_folder(path), scheduler_file(path)
    files = [place / "config.json", *sorted(place.glob(f"{_WEIGHTS}*.safetensors*"))]
    whole = hashlib.sha256()
    for file in [*files, *([] if scheduler is None else [scheduler])]:
        with file.open("rb") as handle:
            whole.update(f"{file.name} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()[:16]


def unet_folder(path: str) -> Path:
    """Where the model lies: config.json and weights in safetensors.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no UNet2DModel, or pickled weights.
    """
    root = fetched(path)
    place = root / "unet" if (root / "unet").is_dir() else root
    found = _kind(place)
    if found != "UNet2DModel":
        text = " For a pipeline of text to image, set unet=text." if found == "UNet2DConditionModel" else ""
        raise ValueError(
            f"unet: {place} holds {f'a config.json of {found}' if found else 'no config.json'}, expected that of a "
            "UNet2DModel, as save_pretrained of diffusers writes it. Set unet.path to the folder of such a model, or "
            f"of a pipeline with unet/.{text}"
        )
    _check_weights(place, "diffusers", "UNet2DModel", _WEIGHTS)
    return place


def read_config(path: Path, group: str) -> dict[str, Any]:
    """A config as diffusers keeps it.

    Args:
        group: what refuses one that is not.
    Raises:
        ValueError: it is damaged.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{group}: {path} is damaged, expected the JSON that diffusers writes. Save it again.")
    return content


def model_folder(path: str, part: str, kind: str, weights: str = _WEIGHTS) -> Path:
    """Where a part of a pipeline lies: config.json and weights in safetensors.

    Args:
        kind: the class that its config names, of diffusers, or, where `weights` is `model`, of transformers.
    Raises:
        FileNotFoundError: no such folder, or the pipeline has no such part.
        ValueError: it is of another kind, or its weights are pickled.
    """
    place = fetched(path) / part
    if not (place / "config.json").is_file():
        raise FileNotFoundError(
            f"unet: {path} holds no {part}/config.json, expected a pipeline with unet/, vae/, text_encoder/, "
            "tokenizer/ and scheduler/. Set unet.path."
        )
    if (found := _kind(place)) != kind:
        raise ValueError(f"unet: {place} is of a {found}, expected a {kind}. Set unet.path to another pipeline.")
    _check_weights(place, "transformers" if weights == "model" else "diffusers", kind, weights)
    return place


def _kind(place: Path) -> str | None:
    """The class that a model's config names; None without one."""
    if not (file := place / "config.json").is_file():
        return None
    config = read_config(file, "unet")
    return config.get("_class_name") or (config.get("architectures") or ["nothing known"])[0]


def _check_weights(place: Path, library: str, kind: str, weights: str) -> None:
    if any((place / f"{weights}.safetensors{end}").is_file() for end in ("", ".index.json")):
        return
    if pickled := next((file for end in ("bin", "pt", "pth", "ckpt") for file in place.glob(f"*.{end}")), None):
        convert = f"{kind}.from_pretrained('{place}').save_pretrained('{place}')"
        raise ValueError(
            f"unet: {pickled} is pickled, and could run anything when it is read; expected {weights}.safetensors. "
            f'If you trust it, convert it: python -c "from {library} import {kind}; {convert}"'
        )
    raise ValueError(f"unet: {place} holds no {weights}.safetensors. Set unet.path to a folder that does.")


def scheduler_file(path: str) -> Path | None:
    """A pipeline's scheduler config; of older ones it lies beside the model's."""
    root = fetched(path)
    places = (root / "scheduler" / "scheduler_config.json", root / "scheduler_config.json")
    return next((place for place in places if place.is_file()), None)


def fetched(path: str) -> Path:
    """The folder, or that of an id of the hub, which is fetched."""
    if Path(path).is_dir():
        return Path(path)
    if not _HUB.fullmatch(path) or path.startswith("."):
        raise FileNotFoundError(f"unet: path={path}, no such folder. Set unet.path to one that diffusers saved.")
    return _of_hub(path)


@cache
def _of_hub(path: str) -> Path:
    """Where an id of the hub is kept, once it is fetched: no code, and no pickles."""
    from huggingface_hub import snapshot_download

    try:
        kept = snapshot_download(path, allow_patterns=_NEEDED)
    except Exception as error:  # the hub's own kinds, and those of what it is reached by
        said = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise FileNotFoundError(
            f"unet: path={path} is no folder, and the Hugging Face hub gives no model of that id: {said}. "
            "Set unet.path to a folder that diffusers saved."
        ) from None
    return Path(kept)


def _check_classes(path: str, config: dict[str, Any], wanted: int | None) -> None:
    known = config.get("num_class_embeds")
    if wanted is None:
        if known is not None:
            raise ValueError(
                f"unet: the base in {path} is asked under {known} classes, but members are given none. Set "
                "conditions=classes, or unet.path to another base."
            )
    elif known not in (wanted, wanted - 1):
        has = "no embedding of classes" if known is None else f"embeddings of {known} classes"
        raise ValueError(
            f"conditions: the base in {path} has {has}, expected {wanted - 1}, as many as the data's labels in "
            f"increasing order, or {wanted}, the last for none. Leave out conditions, or set unet.path to another base."
        )


def _check_shape(path: str, config: dict[str, Any], size: Sequence[int], in_channels: int, out_channels: int) -> None:
    known = config.get("sample_size")
    sides = list(size) if known is None else [known, known] if isinstance(known, int) else list(known)
    of = config.get("in_channels", 3), config.get("out_channels", 3)
    if sides != list(size) or of != (in_channels, out_channels):
        base = " x ".join(map(str, (of[0], *sides))) + ("" if of[0] == of[1] else f" with {of[1]} channels out")
        raise ValueError(
            f"unet: the base in {path} is of pictures of {base}, but the data's are "
            f"{' x '.join(map(str, (in_channels, *size)))}. Set the size and channels of the data (of data=folder, "
            "data.source.size and channels), or unet.path to another base."
        )
