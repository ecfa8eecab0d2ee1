"""How well scores predict retraining: LDS, top-1 and NDCG of groups; and what noise leaves to be reached."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.attribution.agreement import spearman


def lds(
    scores: Float[Tensor, "units q"], targets: Float[Tensor, "subsets q"], subsets: Bool[Tensor, "subsets units"]
) -> Float[Tensor, "q"]:
    """Spearman correlation over subsets between the sum of their units' scores and the target, per query.

    Both sides larger for more support. NaN where a side does not vary.
    Source: Park et al. 2023, TRAK, arXiv 2303.14186; Ilyas et al. 2022, Datamodels.
    """
    return spearman(subsets.to(scores) @ scores, targets)


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


def group_scores(
    scores: Float[Tensor, "units q"], group_of: Int[Tensor, "units"], names: Sequence[int] | None = None
) -> Float[Tensor, "groups q"]:
    """Sum of the scores of every group's units; groups in increasing order of their number.

    Args:
        names: of the groups that are wanted; None for all.
    """
    known, which = group_of.unique(return_inverse=True)
    sums = scores.new_zeros(len(known), scores.shape[1]).index_add_(0, which, scores)
    return sums if names is None else sums[torch.isin(known, torch.tensor(names))]


def top_one(scores: Float[Tensor, "groups q"], effect: Float[Tensor, "groups q"]) -> Float[Tensor, "q"]:
    """1 where the group of largest score is that of largest effect."""
    return (scores.argmax(0) == effect.argmax(0)).double()


def ndcg(scores: Float[Tensor, "groups q"], effect: Float[Tensor, "groups q"], k: int = 3) -> Float[Tensor, "q"]:
    """Normalised discounted cumulative gain of the k best-scored groups; gain is the effect, no less than 0.

    NaN where no group has a positive effect.
    Source: Jarvelin & Kekalainen 2002, Cumulated gain-based evaluation of IR techniques.
    """
    gain = effect.clamp_min(0)
    k = min(k, len(gain))
    discount = 1 / torch.log2(torch.arange(2, k + 2, dtype=gain.dtype))
    reached = discount @ gain.gather(0, scores.topk(k, 0).indices)
    best = discount @ gain.topk(k, 0).values
    return torch.where(best > 0, reached / best, torch.nan)
