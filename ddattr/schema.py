"""The schema of a config is its constructors' signatures: whatever nothing reads is refused."""

import inspect
import math
from collections.abc import Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from ddattr.spelling import meant, nearest

PLAIN = (int, float, bool, str)
KEYS = {"stage", "name", "root", "seed", "member", "unit", "power", "against", "data", "codebook", "diffusion", "unet",
        "training", "sampler", "quality", "attribution", "validation", "tracking", "trainer"}  # fmt: skip
TRAINING = {"steps": (1, math.inf), "batch": (1, math.inf), "epoch_steps": (1, math.inf), "warmup": (0, math.inf),
            "learning_rate": (0, math.inf), "weight_decay": (0, math.inf), "ema": (0, 1)}  # fmt: skip


def check_keys(config: DictConfig) -> None:
    """Raises ValueError when a key, added with `+` perhaps, is read by nothing: constructors are the schema."""
    unknown = sorted(set(config) - KEYS)
    if unknown:
        raise ValueError(
            f"key {unknown[0]} is unknown, expected one of {', '.join(sorted(KEYS))}."
            f"{meant(nearest(unknown[0], KEYS))} Remove {unknown[0]}=."
        )
    for key, node in config.items():
        _check_node(str(key), node)


def check_training(training: DictConfig) -> None:
    """Raises ValueError for a size that no training has, before anything divides by it."""
    for key, (low, high) in TRAINING.items():
        if (value := training.get(key)) is not None and not low <= value <= high:
            possible = f"{low} or more" if math.isinf(high) else f"{low} to {high}"
            raise ValueError(f"training: {key}={value}, expected {possible}. Set training.{key}.")


def _check_node(path: str, node: Any) -> None:
    if OmegaConf.is_list(node):
        for i, item in enumerate(node):
            _check_node(f"{path}.{i}", item)
    if not OmegaConf.is_dict(node):
        return
    if "_target_" in node:
        known = inspect.signature(get_object(node._target_)).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
        for key in node:
            if key not in ("_target_", "_partial_") and key not in known and not open_ended:
                raise ValueError(
                    f"key {path}.{key} is unknown, expected one of {', '.join(known)}."
                    f"{meant(nearest(str(key), known))} Remove {path}.{key}=."
                )
            if key in known:
                _check_value(f"{path}.{key}", node[key], known[key])
    for key, child in node.items():
        _check_node(f"{path}.{key}", child)


def _check_value(path: str, value: Any, parameter: inspect.Parameter) -> None:
    """Raises ValueError when a number, a text, a switch or a list of them is of another type than the constructor's."""
    annotation = parameter.annotation
    listed = get_origin(annotation) is Sequence and (kind := get_args(annotation)[0]) in PLAIN
    if listed and not (OmegaConf.is_list(value) and all(_fits(item, kind) for item in value)):
        raise ValueError(f"{path}={value}, expected a list of {kind.__name__}. Set '{path}=[...]'.")
    types = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if not set(types) <= {*PLAIN, type(None)} or (value is None and parameter.default is None):
        return
    if not any(_fits(value, kind) for kind in types):
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
        raise ValueError(f"{path}={value} is a {type(value).__name__}, expected {names}. Set {path}.")


def _fits(value: Any, kind: type) -> bool:
    return type(value) is kind or (kind is float and type(value) is int)
