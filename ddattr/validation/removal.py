"""Remove and retrain: the units that a method holds most responsible are taken away, and the picture is made again."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ddattr.validation.retraining import Training, named


class Removal(NamedTuple):
    """A set of best units of one query by one method, and the model trained on all others."""

    method: str
    size: int
    query: int
    model: Training


def removals(scores: dict[str, Float[Tensor, "units q"]], seeds: list[int], sizes: list[int]) -> list[Removal]:
    """For every method, size and query the model without the query's best units, with the draws of `full/seed-0`.

    A model bears the name of the units it lacks: methods that name the same ones share it, and one that lacks a single
    unit is that of the groups `unit`.
    """
    return [
        Removal(method, size, seed, _without(best(column, size)))
        for method, score in scores.items()
        for size in sizes
        for seed, column in zip(seeds, score.T, strict=True)
    ]


def _without(removed: Bool[Tensor, "units"]) -> Training:
    units = removed.nonzero()[:, 0].tolist()
    if len(units) == 1:
        return Training(f"without-unit-{units[0]}/seed-0", ~removed)
    return Training(f"removed/{named(removed)}", ~removed)


def best(score: Float[Tensor, "units"], size: int) -> Bool[Tensor, "units"]:
    """Mask of the units of largest score.

    Raises:
        ValueError: more than there are, or so many that none is left to train on.
    """
    if not 1 <= size < len(score):
        raise ValueError(
            f"removal: {size} of {len(score)} units, expected 1 to {len(score) - 1}. Set validation.removed."
        )
    mask = torch.zeros(len(score), dtype=torch.bool)
    mask[score.topk(size).indices] = True
    return mask
