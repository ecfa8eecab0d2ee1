"""Models without a query's best units, by each method: whether what a method names is what matters."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ddattr.validation.training import Training, digest


class Removal(NamedTuple):
    """A set of best units of one query by one method, and the model trained on all others."""

    method: str
    size: int
    query: int
    model: Training


def removals(
    scores: Mapping[str, Float[Tensor, "units q"]], seeds: Sequence[int], sizes: Sequence[int]
) -> list[Removal]:
    """For every method, size and query the model without the query's best units, with the draws of `full/seed-1`.

    A model bears the name of the units it lacks: methods that name the same ones share it, and one that lacks a single
    unit is that of the groups `unit`.
    """
    return [
        Removal(method, size, seed, _lacking(best(column, size)))
        for method, score in scores.items()
        for size in sizes
        for seed, column in zip(seeds, score.T, strict=True)
    ]


def best(score: Float[Tensor, "units"], size: int) -> Bool[Tensor, "units"]:
    """Mask of the units of largest score.

    Raises:
        ValueError: more than there are, or so many that none is left to train on.
    """
    if not 1 <= size < len(score):
        raise ValueError(
            f"removal: {size} of {len(score)} units, expected 1 to {len(score) - 1}. Set validation.removal_sizes."
        )
    mask = torch.zeros(len(score), dtype=torch.bool)
    mask[score.topk(size).indices] = True
    return mask


def _lacking(removed: Bool[Tensor, "units"]) -> Training:
    units = removed.nonzero()[:, 0].tolist()
    if len(units) == 1:
        return Training(f"without-unit-{units[0]}/seed-1", ~removed, None, 1)
    return Training(f"removed/{digest(removed)}-seed-1", ~removed, None, 1)
