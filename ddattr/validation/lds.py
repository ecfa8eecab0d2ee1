"""The linear datamodelling score: do summed scores of a subset's units predict the model that is trained on it?"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ddattr.attribution.agreement import ENOUGH, spearman
from ddattr.diffusion.noise import Stream, generator

_TOGETHER = 2**20  # values of resamples that are correlated at once


def lds(
    scores: Float[Tensor, "units q"], targets: Float[Tensor, "subsets q"], subsets: Bool[Tensor, "subsets units"]
) -> Float[Tensor, "q"]:
    """Spearman correlation over subsets between the sum of their units' scores and the target, per query.

    Both sides larger for more support. NaN where a side does not vary.
    Source: Park et al. 2023, TRAK, arXiv 2303.14186; Ilyas et al. 2022, Datamodels.
    """
    return spearman(subsets.to(scores) @ scores, targets)


def lds_resamples(
    scores: Float[Tensor, "units q"],
    targets: Float[Tensor, "subsets q"],
    subsets: Bool[Tensor, "subsets units"],
    seed: int = 0,
    resamples: int = 500,
) -> Float[Tensor, "resamples"]:
    """Means over queries of the LDS, resampled: bootstrap over queries and over subsets at once, as `joint_resamples`.

    Raises:
        ValueError: too few subsets for an interval.
    """
    if len(targets) < ENOUGH:
        raise ValueError(
            f"lds: {len(targets)} subsets, expected at least {ENOUGH} for an interval. Set validation.halves higher."
        )
    return joint_resamples(subsets.to(scores) @ scores, targets, seed, resamples)


def joint_interval(
    predicted: Float[Tensor, "rows q"],
    targets: Float[Tensor, "rows q"],
    seed: int = 0,
    resamples: int = 500,
    level: float = 0.95,
    correlation: Callable[[Tensor, Tensor], Tensor] = spearman,
) -> tuple[float, float, float]:
    """(mean over queries, low, high) of a correlation over rows: percentile bootstrap over queries and rows at once.

    Rows, be they units or subsets, are shared by all queries: an interval over queries alone would be far too narrow.
    It is one of the correlation to be expected at this number of rows, and lies 0.01 to 0.03 low when correlations are
    high: rows drawn twice are ties.
    """
    means = joint_resamples(predicted, targets, seed, resamples, correlation)
    return correlation(predicted, targets).nanmean().item(), *percentiles(means, level)


def joint_resamples(
    predicted: Float[Tensor, "rows q"],
    targets: Float[Tensor, "rows q"],
    seed: int = 0,
    resamples: int = 500,
    correlation: Callable[[Tensor, Tensor], Tensor] = spearman,
) -> Float[Tensor, "resamples"]:
    """The means over queries that `joint_interval` is made of. Those of one seed and shape are paired: their
    differences are those of a difference."""
    count, queries = targets.shape
    draw, means = generator(seed, Stream.BOOTSTRAP, step=1), []
    drawn = [(draw.integers(0, count, (count, 1)), draw.integers(0, queries, queries)) for _ in range(resamples)]
    together = max(1, _TOGETHER // targets.numel())
    for first in range(0, resamples, together):
        some = drawn[first : first + together]
        rows, columns = (torch.from_numpy(np.stack(part)) for part in zip(*some, strict=True))
        places = rows, columns[:, None]  # (resamples, rows, q); to a correlation every column is a query
        sides = (side[places].transpose(0, 1).flatten(1) for side in (predicted, targets))
        means.append(correlation(*sides).reshape(-1, queries).nanmean(1))
    return torch.cat(means).double()


def percentiles(resampled: Float[Tensor, "resamples"], level: float = 0.95) -> tuple[float, float]:
    """The interval of a percentile bootstrap."""
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = resampled.nanquantile(tail).tolist()
    return low, high


def law(units: int | float, members: int | float, noise: int | float = 0.0, seeds: int | float = math.inf) -> float:
    """LDS that means over subsets reach when effects are additive: 1 / sqrt(1 + (N / n) (1 + kappa)).

    With n models and N independent effects of equal size, a unit's difference of means has the effect as its signal
    and, over n models, the N - 1 other effects and the seed as its noise.

    Args:
        noise: kappa, variance of a model's seed noise over variance of the signal.
        seeds: of which the target is a mean; its own noise attenuates what can be reached.
    """
    return ((1 + units / members * (1 + noise)) * (1 + noise / seeds)) ** -0.5


def noise_ratio(targets: Float[Tensor, "seeds subsets q"]) -> Float[Tensor, "q"]:
    """kappa of every query: variance over seeds within a subset, over variance between subsets less its share of it.

    NaN with one seed. The two-way analysis of variance, since a seed moves all subsets alike, which no correlation
    sees; infinite where no signal stands out.
    Source: Fisher 1925, Statistical methods for research workers.
    """
    seeds, subsets = targets.shape[:2]
    if seeds < 2:
        return targets.new_full(targets.shape[2:], torch.nan)
    mean = targets.mean(0)
    residual = targets - targets.mean(1, keepdim=True) - (mean - mean.mean(0))
    within = residual.square().sum((0, 1)) / ((seeds - 1) * (subsets - 1))
    between = mean.var(0) - within / seeds
    return torch.where(between > 0, within / between.clamp_min(1e-30), torch.inf)
