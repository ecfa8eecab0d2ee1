"""A network that somebody else has trained: a folder of diffusers or a safetensors file, and whether it fits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import DDPMScheduler
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ddattr.diffusion.adapters import Adapted
from ddattr.diffusion.pretrained import read_config
from ddattr.diffusion.process import Process

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_PICKLED = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}
_NO_MATTER = {"sample_size", "dropout"}  # a network of other ones says the same


class Checkpoint(NamedTuple):
    """Weights by name; the files that they come from; what a folder says, if it does, of its network and schedule."""

    weights: dict[str, Tensor]
    files: list[Path]
    config: Mapping[str, Any] | None = None
    scheduler: Mapping[str, Any] | None = None


def checkpoint(path: Path) -> Checkpoint:
    """What lies at a path: a safetensors file; a folder of a network, or of a pipeline with one in `unet/`.

    Raises:
        FileNotFoundError, ValueError: nothing lies there; it is pickled, damaged, or something else.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"adopt: path={path} is missing, expected a safetensors file or a folder of diffusers. Set path."
        )
    if path.is_file():
        return Checkpoint(_tensors(path), [path])
    pipeline = (path / "unet").is_dir()
    folder = path / "unet" if pipeline else path
    config = _json(folder / "config.json")
    scheduler = _json(path / "scheduler" / "scheduler_config.json") if pipeline else None
    index = _json(folder / f"{_WEIGHTS}.index.json")
    names = sorted(set((index or {}).get("weight_map", {}).values())) or [_WEIGHTS]
    files = [folder / Path(name).name for name in names]
    if not files[0].is_file():
        if pickled := next((file for file in sorted(folder.iterdir()) if file.suffix in _PICKLED), None):
            files = [pickled]
        else:
            raise FileNotFoundError(
                f"adopt: path={path} has no {_WEIGHTS}, expected what diffusers' save_pretrained writes. Set path."
            )
    weights = {name: tensor for file in files for name, tensor in _tensors(file).items()}
    known = [folder / "config.json", path / "scheduler" / "scheduler_config.json"]
    return Checkpoint(weights, files + [file for file in known if file.is_file()], config, scheduler)


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix in _PICKLED:
        raise ValueError(
            f"adopt: {path} is pickled, and could run anything, expected safetensors. Where you trust it, convert it: "
            f"safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), {path.stem + '.safetensors'!r})"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"adopt: {path} is no safetensors file ({error}). Set path to one.") from None


def _json(path: Path) -> dict[str, Any] | None:
    return read_config(path, "adopt") if path.is_file() else None


def fit(network: nn.Module, found: Checkpoint, process: Process) -> None:
    """Puts a checkpoint's weights into a network that is the run's, if they are of such a one.

    Raises:
        ValueError: names or shapes differ, a weight is not finite; its folder says that it is another network, or was
            trained on another schedule.
    """
    own, where = network.state_dict(), found.files[0]
    given = _bare(found.weights) if isinstance(network, Adapted) else found.weights
    for name in sorted(set(own) | set(given)):
        got, expected = (_shape(weights.get(name)) for weights in (given, own))
        if got != expected:
            raise ValueError(
                f"adopt: {where} has {name} {got}, expected {expected}, as this run's unet has it. Set path to a "
                "network that was built with the keys of unet."
            )
        if not given[name].isfinite().all():
            raise ValueError(f"adopt: {where} has {name} with values that are not finite. Set path to another.")
    _same_network(getattr(network, "config", {}), found)
    _same_schedule(process, found)
    network.load_state_dict(given)


def _bare(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An adapter's weights less what diffusers and peft put before their names."""
    return {name.removeprefix("base_model.model.").removeprefix("unet."): weight for name, weight in weights.items()}


def _shape(weight: Tensor | None) -> str:
    return "absent" if weight is None else f"of {' x '.join(map(str, weight.shape)) or 'one number'}"


def _same_network(own: Mapping[str, Any], found: Checkpoint) -> None:
    """Shapes do not tell activations or groups of norms: a config does."""
    for key, got in (found.config or {}).items():
        if key.startswith("_") or key in _NO_MATTER or key not in own:
            continue
        expected = own[key]
        if _list(got) != _list(expected):
            raise ValueError(
                f"adopt: {found.files[0].parent} has {key}={got}, expected {_list(expected)}, as this run's unet. Set "
                "path to a network that was built with the keys of unet."
            )


def _list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def _same_schedule(process: Process, found: Checkpoint) -> None:
    if found.scheduler is None:
        return
    theirs, ours = DDPMScheduler.from_config(found.scheduler), process.scheduler
    bars = theirs.alphas_cumprod.double()
    same = bars.shape == process.alphas_cumprod.shape and torch.allclose(bars, process.alphas_cumprod, rtol=1e-4)
    if not same or theirs.config.prediction_type != ours.config.prediction_type:
        keys = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type")
        got, expected = (", ".join(str(one.config[key]) for key in keys) for one in (theirs, ours))
        raise ValueError(
            f"adopt: a network of the schedule {got}, expected {expected}, this run's. Set path to another, or begin a "
            "run with its keys of diffusion.scheduler."
        )
