"""Which of a source's pictures members see, and which none does."""

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ddattr.data.source import Source


def held_out(source: Source, holdout: int | None) -> Bool[Tensor, "images"]:
    """Mask of the pictures that no member sees: the source's queries, and the middles of `holdout` equal stretches.

    Pictures of a group are held out only when they are queries, so that `holdout` changes no group.

    Args:
        holdout: how many, evenly spaced; None: a twentieth, at most 64.
    Raises:
        ValueError: none would be left.
    """
    out = torch.zeros(len(source.images), dtype=torch.bool) if source.queries is None else source.queries.clone()
    free = (~out if source.groups is None else ~out & (source.groups < 0)).nonzero()[:, 0]
    count = len(free)
    holdout = min(64, count // 20) if holdout is None else holdout
    if not 0 <= holdout <= max(0, count - 1):
        raise ValueError(
            f"data: holdout={holdout}, expected 0 to {max(0, count - 1)} of {count} pictures. Set data.holdout."
        )
    out[free[(2 * torch.arange(holdout) + 1) * count // max(1, 2 * holdout)]] = True
    return out


def sampled(source: Source, rows: Int[Tensor, "kept"], sample: int | None, seed: int) -> Int[Tensor, "sampled"]:
    """Of `rows` those of a group and the first `sample` others of a seeded order, as the source has them.

    Raises:
        ValueError: there are not as many.
    """
    if sample is None:
        return rows
    kept = torch.zeros_like(rows, dtype=torch.bool) if source.groups is None else source.groups[rows] >= 0
    loose = (~kept).nonzero()[:, 0]
    if not 1 <= sample <= len(loose):
        raise ValueError(
            f"data: sample={sample}, expected 1 to {len(loose)} of the pictures that are not held out. Set data.sample."
        )
    order = np.random.default_rng(seed).permutation(len(loose))
    kept[loose[torch.from_numpy(order[:sample])]] = True
    return rows[kept]
