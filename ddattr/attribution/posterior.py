"""The best guess of a unit's influence: what the members measured, and what units as near as it have on average.

A pull of n members is right on average and noisy; similarity is without noise and says nothing of *this* unit. A
query's z follow N(m(d), 1 + v(d)): mean m and variance v of what is to be expected fall with the distance d of unit and
picture, and are read off the query's own scores. Every score is then a measurement, shrunk to what was expected:
empirical Bayes with a covariate. No ground truth is used. It is an estimate and no test: p stays with the phantoms.
Source: Robbins 1956; with a covariate, Ignatiadis & Wager 2019, arXiv 1906.01611.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_ROUNDS = 20  # mean and variance weigh each other; more rounds move no score by a hundredth of its deviation


def posterior(
    score: Float[Tensor, "units q"], deviation: Float[Tensor, "units q"], distance: Float[Tensor, "units q"]
) -> Float[Tensor, "units q"]:
    """Expected pull of every unit on every query, in the units of `score`; a query's depends on no other query.

    Args:
        score: pulls, unbiased.
        deviation: their null's, as `null_deviation` has them; a pair of none says nothing and gets 0.
        distance: of unit and picture, in any units: only its order counts.
    """
    expected = torch.zeros_like(score)
    for q, known in enumerate((deviation > 0).T):
        if known.any():
            scale = deviation[known, q]
            expected[known, q] = _shrunk(score[known, q] / scale, distance[known, q]) * scale
    return expected


def _shrunk(z: Float[Tensor, "units"], distance: Float[Tensor, "units"]) -> Float[Tensor, "units"]:
    mean, variance = torch.zeros_like(z), torch.zeros_like(z)
    for _ in range(_ROUNDS):
        mean = _falling(distance, z, 1 / (1 + variance))
        variance = _falling(distance, (z - mean).square() - 1, 1 / (1 + variance).square()).clamp_min(0)
    return mean + variance / (1 + variance) * (z - mean)


def _falling(distance: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """The weighted least squares fit of `values` among all that never rise with the distance."""
    from sklearn.isotonic import IsotonicRegression  # slow to import, and little needs it

    fit = IsotonicRegression(increasing=False)
    found = fit.fit_transform(distance.cpu().numpy(), values.cpu().numpy(), sample_weight=weight.cpu().numpy())
    return torch.from_numpy(found).to(values)
