"""How much of a ground truth is noise of the training seeds, and how far any score could agree with it."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.attribution.agreement import spearman


def reliability(
    replicates: Float[Tensor, "seeds units q"], correlation: Callable[[Tensor, Tensor], Tensor] = spearman
) -> float:
    """How far the mean over training seeds would agree with another such mean: 1 is perfectly, 0 is noise.

    The correlation r of two seeds over units, its mean over queries and pairs of seeds, is stepped up to the mean of R
    seeds: R r / (1 + (R - 1) r). NaN with one seed, or where no seed varies.

    Source: Spearman 1910; Brown 1910.
    """
    count = len(replicates)
    if count < 2:
        return float("nan")
    pairs = [correlation(replicates[a], replicates[b]) for a in range(count) for b in range(a)]
    r = torch.stack(pairs).nanmean().item()
    return max(count * r / max(1 + (count - 1) * r, 1e-12), -1.0)  # in this order a NaN stays one


def ceiling(
    replicates: Float[Tensor, "seeds units q"], correlation: Callable[[Tensor, Tensor], Tensor] = spearman
) -> float:
    """Correlation with this truth that its noise-free mean would have: the root of the reliability."""
    found = reliability(replicates, correlation)
    return found if found != found else max(0.0, found) ** 0.5
