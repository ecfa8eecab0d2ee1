"""What a run is when nobody says: a name, a network, steps and members by the size and number of its pictures."""

import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

_NETWORKS = {12: (16, 32), 20: (32, 64), 32: (64, 128), 1 << 30: (64, 128, 256)}  # by the largest side that they suit
_STEPS = {12: 800, 20: 2000, 32: 4000, 1 << 30: 8000}  # of 2,000 pictures; others by the root of their number
_BATCH = {32: 64, 1 << 30: 32}  # pictures of a step, for 4 GB
_PICTURES = 2000
_MEMBERS = 20
_LEVEL = 0.01  # that the smallest q of a single unit has to reach


def named(config: DictConfig) -> None:
    """Gives a run without a name that of its data: of their folder, their file or their id."""
    source = config.data.get("source")
    if config.name is not None or not OmegaConf.is_dict(source):
        return
    places = (source.get(key) for key in ("path", "images") if not OmegaConf.is_missing(source, key))
    if place := next((str(place) for place in places if place), ""):
        stem = Path(place).resolve().name.partition(".")[0]
        config.name = re.sub(r"[^\w.=+-]+", "-", stem).strip(".=+-")[:100] or None


def open_keys(config: DictConfig) -> bool:
    """Whether anything is left to the rule."""
    return (
        config.codebook.get("members", 0) is None
        or config.training.get("steps", 0) is None
        or config.training.get("batch", 0) is None
        or config.unet.get("block_out_channels", 0) is None
    )


def ruled(config: DictConfig, data: Any) -> str:
    """Fills in the network's channels, steps, batch and members that are null; returns them as they would be typed.

    A wider network and more steps for larger pictures; steps by the root of their number, from three quarters to four
    times those of 2,000; 20 members, or as many as let a single unit reach q = 0.01, and none without a unit.
    """
    side, count = max(data.shape[1:]), len(data.images)
    found: dict[str, Any] = {}
    with open_dict(config):
        if config.unet.get("block_out_channels", 0) is None:
            channels = list(_by_side(_NETWORKS, side))
            config.unet.block_out_channels = found["unet.block_out_channels"] = channels
            for key, block in (("down_block_types", "DownBlock2D"), ("up_block_types", "UpBlock2D")):
                config.unet[key] = [block] * len(channels)
        if config.training.get("steps", 0) is None:
            share = min(4.0, max(0.75, math.sqrt(count / _PICTURES)))
            config.training.steps = found["training.steps"] = round(_by_side(_STEPS, side) * share / 100) * 100
        if config.training.get("batch", 0) is None:
            config.training.batch = found["training.batch"] = _by_side(_BATCH, side)
        if config.codebook.get("members", 0) is None:
            config.codebook.members = found["codebook.members"] = _members(data.units, config)
    size = " x ".join(map(str, data.shape))
    what = f"{count:,} pictures of {size}, {data.units:,} units by {data.kind}"
    return f"by rule, for {what}: {' '.join(f'{key}={value}' for key, value in found.items())}"


def _members(units: int, config: DictConfig) -> int:
    """Fewer where some would see no unit; where any number leaves some out, that which the codebook refuses. Of
    orthogonal words, as many as leave a t-test its degrees of freedom."""
    from ddattr.codebook import FREEDOM, ORTHOGONAL, encode, smallest, smallest_orthogonal  # and torch, for this alone

    if config.codebook.get("design") == ORTHOGONAL:
        return smallest_orthogonal(max(units, _MEMBERS - 1 - FREEDOM), FREEDOM) or _MEMBERS
    most = max(_MEMBERS, smallest(units, _LEVEL))
    for members in range(most, 1, -1):
        with suppress(ValueError):
            return encode(units, members, config.codebook.get("weight"), config.seed).members
    return most


def _by_side(table: dict[int, Any], side: int) -> Any:
    return next(value for largest, value in table.items() if side <= largest)
