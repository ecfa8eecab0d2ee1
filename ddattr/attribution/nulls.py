"""Nulls to look at: what phantoms' z of a unit are, as a histogram, for the units that a reader will ask about."""

from collections.abc import Callable

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.codebook import contrast

BINS, WIDTH = 48, 0.25  # from -6 to 6; what lies outside counts in the outermost bins
LARGEST = 12  # units of largest support of every query, beside those that pass
_BLOCK = 1 << 22  # phantoms' z at once


def nulls(
    adjusted: Callable[[Tensor, Tensor], Tensor],
    deviation: Float[Tensor, "units q"],
    support: Float[Tensor, "units q"],
    q_value: Float[Tensor, "units q"],
    phantoms: Bool[Tensor, "phantoms n"],
    seeds: Int[Tensor, "q"],
    level: float,
) -> pd.DataFrame:
    """nulls.parquet: a row a query and unit that passes, or is among the 12 of largest support, with its phantoms'
    `counts`: all, or as many as were drawn.

    Args:
        adjusted: answers that were tested, of pairs of a unit and a query (`Streamed.pairs`).
        deviation: of the scores under their null.
    """
    asked = q_value <= level
    asked.scatter_(0, support.topk(min(LARGEST, len(asked)), 0).indices, True)
    queries, units = asked.T.nonzero(as_tuple=True)
    counts = histograms(adjusted(units, queries), deviation[units, queries], phantoms)
    return pd.DataFrame({"query": seeds[queries].numpy(), "unit": units.numpy(), "counts": counts.tolist()})


def histograms(
    answers: Float[Tensor, "n tests"], deviation: Float[Tensor, "tests"], phantoms: Bool[Tensor, "phantoms n"]
) -> Int[Tensor, "tests bins"]:
    """How many phantoms have their z (score over the null's deviation) in each of `BINS` bins; 0 where it is 0."""
    weights = -contrast(phantoms).to(answers).T
    counts = torch.zeros(len(deviation), BINS, dtype=torch.long)
    for part in torch.arange(len(deviation)).split(max(1, _BLOCK // max(1, len(phantoms)))):
        z = torch.where(deviation[part, None] > 0, answers[:, part].T @ weights / deviation[part, None], 0)
        place = (z / WIDTH).floor().long().add_(BINS // 2).clamp_(0, BINS - 1)
        counts[part] = counts[part].scatter_add_(1, place, torch.ones_like(place))
    return counts
