"""The linear datamodelling score: do summed scores of a subset's units predict the model that is trained on it?"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ddattr.attribution.agreement import spearman
from ddattr.diffusion.noise import Stream, generator


def lds(
    scores: Float[Tensor, "units q"], targets: Float[Tensor, "subsets q"], subsets: Bool[Tensor, "subsets units"]
) -> Float[Tensor, "q"]:
    """Spearman correlation over subsets between the sum of their units' scores and the target, per query.

    Both sides larger for more support. NaN where a side does not vary.
    Source: Park et al. 2023, TRAK, arXiv 2303.14186; Ilyas et al. 2022, Datamodels.
    """
    return spearman(subsets.to(scores) @ scores, targets)


def interval(
    scores: Float[Tensor, "units q"],
    targets: Float[Tensor, "subsets q"],
    subsets: Bool[Tensor, "subsets units"],
    seed: int = 0,
    resamples: int = 500,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """(mean over queries, low, high): percentile bootstrap over queries and over subsets at once.

    Raises:
        ValueError: too few subsets for an interval.
    """
    count, queries = targets.shape
    if count < 4:
        raise ValueError(f"lds: {count} subsets, expected at least 4 for an interval. Set validation.halves higher.")
    predicted = subsets.to(scores) @ scores
    draw = generator(seed, Stream.BOOTSTRAP, step=1)
    means = []
    for _ in range(resamples):
        rows = torch.from_numpy(draw.integers(0, count, count))
        columns = torch.from_numpy(draw.integers(0, queries, queries))
        means.append(spearman(predicted[rows][:, columns], targets[rows][:, columns]).nanmean())
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.stack(means).double().nanquantile(tail).tolist()
    return spearman(predicted, targets).nanmean().item(), low, high


def law(units: int | float, members: int | float, noise: int | float = 0.0) -> float:
    """LDS that means over subsets reach when effects are additive: 1 / sqrt(1 + (N / n) (1 + kappa)).

    With n models and N independent effects of equal size, a unit's difference of means has the effect as its signal
    and, over n models, the N - 1 other effects and the seed as its noise.

    Args:
        noise: kappa, variance of a model's seed noise over variance of the signal.
    """
    return (1 + units / members * (1 + noise)) ** -0.5


def noise_ratio(targets: Float[Tensor, "seeds subsets q"]) -> Float[Tensor, "q"]:
    """kappa of every query: variance over seeds within a subset, over variance between subsets less its share of it.

    NaN with one seed. The one-way analysis of variance; infinite where no signal stands out.
    Source: Fisher 1925, Statistical methods for research workers.
    """
    seeds = len(targets)
    if seeds < 2:
        return targets.new_full(targets.shape[2:], torch.nan)
    within = targets.var(0).mean(0)
    between = targets.mean(0).var(0) - within / seeds
    return torch.where(between > 0, within / between.clamp_min(1e-30), torch.inf)
