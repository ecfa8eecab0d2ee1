"""Agreement of a method with a truth, per query, and its mean with a bootstrap interval."""

import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.diffusion.noise import Stream, generator

ENOUGH = 5  # values for a bootstrap interval


def pearson(x: Float[Tensor, "units q"], y: Float[Tensor, "units q"]) -> Float[Tensor, "q"]:
    """Correlation over units, per query; NaN where one side does not vary."""
    x, y = x.double() - x[:1].double(), y.double() - y[:1].double()  # a constant is now exactly 0
    x, y = x - x.mean(0), y - y.mean(0)
    return (x * y).sum(0) / (x.norm(dim=0) * y.norm(dim=0))


def spearman(x: Float[Tensor, "units q"], y: Float[Tensor, "units q"]) -> Float[Tensor, "q"]:
    """Rank correlation over units, per query; ties share their mean rank."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(x: Tensor) -> Tensor:
    """Mean ranks: (values below) + (values equal + 1) / 2."""
    values = x.T.contiguous()
    order = values.sort(-1).values
    below = torch.searchsorted(order, values)
    up_to = torch.searchsorted(order, values, right=True)
    return ((below + up_to + 1) / 2).T


def cosine(x: Float[Tensor, "units q *image"], y: Float[Tensor, "units q *image"]) -> Float[Tensor, "q"]:
    """Mean over units of the cosine between two displacements, per query."""
    return torch.nn.functional.cosine_similarity(x.flatten(2), y.flatten(2), dim=-1).mean(0)


def relative_error(x: Float[Tensor, "units q *image"], truth: Float[Tensor, "units q *image"]) -> Float[Tensor, "q"]:
    """Length of the difference over length of the truth, over all units and pixels, per query."""
    difference, length = (x - truth).transpose(0, 1).flatten(1), truth.transpose(0, 1).flatten(1)
    return difference.norm(dim=1) / length.norm(dim=1)


def bootstrap_mean(
    values: Float[Tensor, "q"], seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float, float]:
    """(mean, low, high) over queries: percentile bootstrap of the mean, resampling queries. NaN values are left out.

    Source: Efron 1979.
    """
    values = values[~values.isnan()].double()
    if not len(values):
        return (float("nan"),) * 3
    draw = generator(seed, Stream.BOOTSTRAP).integers(0, len(values), (resamples, len(values)))
    means = values[torch.from_numpy(draw)].mean(1)
    low, high = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=means.dtype)).tolist()
    return values.mean().item(), low, high
