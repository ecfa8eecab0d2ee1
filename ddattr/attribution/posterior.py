"""The best guess of a unit's influence: what the members measured, and what units as near as it have on average.

A pull of n members is right on average and noisy; similarity is without noise and says nothing of *this* unit. A
query's z follow about N(m(d), 1 + v(d)): mean m and variance v of what is to be expected fall with the distance d of
unit and picture, and are read off the query's own scores. Every score is then a measurement, shrunk to what was
expected: empirical Bayes with a covariate, after Robbins 1956 and Ignatiadis & Wager 2019, arXiv 1906.01611, with a
variance of its own at every distance and without their cross-fitting. No ground truth is used. It is no test: p stays
with the null.

A unit is in its own prior, and the largest guesses would be too large: a query's are scaled by the slope of the truth
on them, as Stein 1981 estimates it without the truth. Within a query ranks stay. Of 1,797 units five largest then say
0.15 where there are no effects (0.53 unscaled), 0.33 where the truth is 0.43 (0.86), 2.2 for 2.6 (2.6): in deviations
of a score, 60 simulations each. One slope for a query: the largest are still too large by little where there is
nothing, and too small where few units have effects. Leaving the unit out of its prior, and cross-fitting over units,
have neither the ranks (0.40 for 0.46) nor this.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_STEP = 1e-9  # of a fit, in deviations of a score: below, two are one
_PLACES = 1 << 14  # distances that fits tell apart: of 10^6 units scores move by 0.002 deviations in the mean square
_ROUNDS = 20  # the variance weighs the mean until the two agree: 400 rounds move no score by 1e-5 of its deviation


def posterior(
    score: Float[Tensor, "units q"],
    deviation: Float[Tensor, "units q"],
    distance: Float[Tensor, "units q"],
    places: int = _PLACES,
) -> Float[Tensor, "units q"]:
    """Expected pull of every unit on every query, in the units of `score`; a query's depends on no other query.

    Of more than 16,384 distances the nearest 8,192 are told apart, and those behind are as many bins of equal counts.
    The farthest scores move most, by up to 0.2 deviations: there the fit without bins is a unit's own score.

    Args:
        score: pulls, unbiased, as those of adjusted answers are.
        deviation: their null's, as `null_deviation` has them; a pair of none says nothing and gets 0.
        distance: of unit and picture, on any scale: only its order counts.
        places: most distances that are told apart.
    Raises:
        ValueError: a number is not finite.
    """
    for name, values in (("score", score), ("deviation", deviation), ("distance", distance)):
        if not values.isfinite().all():
            raise ValueError(f"posterior: {name} has NaN or infinity, expected finite numbers. Leave those pairs out.")
    expected = torch.zeros_like(score)
    for q, known in enumerate((deviation > 0).T):
        if known.any():
            scale = deviation[known, q]
            expected[known, q] = _shrunk(score[known, q] / scale, _placed(distance[known, q], places)) * scale
    return expected


def _placed(distance: Float[Tensor, "units"], most: int) -> Int[Tensor, "units"]:
    """Places by increasing distance, equal where distances are; of more than `most` distances, half as many that are
    the nearest units' own, where a mean falls fast and most is asked, and bins of equal counts behind."""
    levels, place, counts = torch.unique(distance, return_inverse=True, return_counts=True)
    if len(levels) <= most:
        return place
    own, before = most // 2, counts.cumsum(0) - counts
    behind = own + (before - own) * (most - own) // (len(distance) - own)
    return torch.unique(torch.where(before < own, before, behind), return_inverse=True)[1][place]


def _shrunk(z: Float[Tensor, "units"], place: Int[Tensor, "units"]) -> Float[Tensor, "units"]:
    variance = torch.zeros_like(z)
    for _ in range(_ROUNDS):
        weight = 1 / (1 + variance)
        mean = _falling(place, z, weight)
        variance = _falling(place, (z - mean).square() - 1, torch.ones_like(z)).clamp_min(0)
    guess = mean + variance / (1 + variance) * (z - mean)
    return _slope(z, guess, _divergence(z, mean, weight, variance)) * guess


def _slope(z: Tensor, guess: Tensor, divergence: Tensor) -> Tensor:
    """Of the truth on its guess: guess . z less the divergence is guess . truth in expectation, with a variance of
    |guess|^2 and more, up to twice that where there are no effects: there slopes are shrunk too much. The mean of what
    that leaves above 0, as no slope is below; at most 1.

    Source: Stein 1981, Estimation of the mean of a multivariate normal distribution, lemma 1.
    """
    square = guess.square().sum()
    if square == 0:
        return square
    found, error = (guess @ z - divergence) / square, square.rsqrt()
    hazard = torch.exp(-0.5 * (found / error).square() - torch.special.log_ndtr(found / error)) / (2 * torch.pi) ** 0.5
    return (found + error * hazard).clamp_max(1)


def _divergence(z: Tensor, mean: Tensor, weight: Tensor, variance: Tensor) -> Tensor:
    """Sum over units of the guess's derivative in the unit's own z; those of the weights, and of the mean within the
    variance, are left out.

    An isotonic fit is the mean of a block, of which a unit has its share: after Meyer & Woodroofe 2000, Ann. Stat. 28.
    """
    kept = variance / (1 + variance)
    in_mean = weight / _over_block(mean, weight)
    in_variance = 2 * (z - mean) / _over_block(variance, torch.ones_like(z)) * (variance > 0)
    return (kept + (1 - kept) * in_mean + (z - mean) * in_variance / (1 + variance).square()).sum()


def _over_block(fit: Tensor, values: Tensor) -> Tensor:
    """Sum of the values over all units that have the same fit. Two units that share a mean are equally far from it, and
    their squares tie but for rounding: steps that rounding alone parts are one."""
    levels, step = fit.unique(return_inverse=True)
    block = (levels.diff(prepend=levels[:1]) > _STEP).cumsum(0)[step]
    return torch.zeros_like(values).index_add_(0, block, values)[block]


def _falling(place: Int[Tensor, "units"], values: Tensor, weight: Tensor) -> Tensor:
    """The weighted least squares fit of `values` among all that never rise with the place, 0 being the first.

    Units at one place have one value: their mean counts as much as all of them.
    """
    from scipy.optimize import isotonic_regression  # slow to import, and little needs it

    at, total = place.bincount(weight.double()), place.bincount((weight * values).double())
    fit = isotonic_regression((total / at).numpy(), weights=at.numpy(), increasing=False)
    return torch.from_numpy(fit.x.copy()).to(values)[place]  # which scipy has from behind
