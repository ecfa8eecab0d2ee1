"""Least squares of all effects at once, and its t-test: what orthogonal words are estimated and tested by.

Where N words of n/2 ones are orthogonal, those of a weighing design (`Codebook.design`), every unit's plain contrast is
its least squares estimate: nothing of the others is in it. What n members say beyond their mean and N effects is noise,
of n - 1 - N degrees of freedom, and it is all in the contrasts of the words that no unit holds: their mean square is
the estimate's variance. The estimate over its standard error is then Student's t.

p is this t-test's, and **no randomisation's**: it takes members' noise along a direction for independent, of one
variance and near to normal, as a mean over n/2 members is: at N = 30, n = 64 units without effects have p <= 0.05 and
0.01 at 1.01 and 1.04 times these rates where noise is normal (100,000 draws), at 1.02 and 1.07 where it is uniform, at
0.93 and 0.69 where it is lognormal. `calibration.csv` says how it fares on strangers. An exact p
with this power there is not. Given the others' words a unit's could have been one of 2 (n - N), whose p is at least
1 / (2 (n - N)): at N = 30 q is at most 0.05 for 0.2 % of the units with effects of 0.3, and with effects of 1.0, where
many stand together, for 16 % (the t-test's 28 %). A unit's word alone is any of C(n, n/2), as members are drawn; but
that null has the other units' effects in it, which the estimate has not. Kerdock's words (1,984 of weight 28 at n =
64, of coherence 1/8, constructed and tried) have an exact null, and are no better than random: 1/8 is random words'
coherence in root mean square. Additive model, n = 64, 200 simulations, effects in deviations of a member's noise;
correlation of estimates with the truth, and the share of units with an effect above 0 that have p <= 0.05:

    N   effects      random, gls    orthogonal, t   all words' null   2 (n - N) words   Kerdock, gls
    60  0.3          0.67  0.21     0.77  0.21      0.77  0.10        0.77  0.00        0.67  0.20
    60  1.0          0.82  0.34     0.97  0.60      0.97  0.11        0.97  0.00        0.83  0.33
    30  0.3          0.71  0.24     0.76  0.29      0.76  0.18        0.76  0.26        0.72  0.24
    30  1.0          0.92  0.50     0.97  0.66      0.97  0.24        0.97  0.65        0.92  0.52

Few degrees of freedom leave a t-test no far tail: where a tenth of the units has effects (1.0), the share of all units
that reach q <= 0.05 is 0.8 % with three of them (1.7 % with random words), with five 1.3 % (1.6), with seven 2.4 %
(2.0), with nine 1.9 % (1.6). `codebook.FREEDOM` is what `ddattr plan` asks for.
Source: Hotelling 1944; Student 1908; the sum's, Satterthwaite 1946.
"""

from copy import copy

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class LeastSquares:
    """Removes what all other units did from members' answers; `gls.LeaveOneOutGLS` for orthogonal words.

    Args:
        codewords: of the units that are asked about.
        basis: of all units, orthogonal, these among them.
    """

    def __init__(self, codewords: Bool[Tensor, "units n"], basis: Bool[Tensor, "all n"]) -> None:
        self.signs = _signs(codewords)
        signs, n = _signs(basis), basis.shape[1]
        self.residual = torch.eye(n, dtype=torch.float64) - 1 / n - signs.T @ signs / n

    def at(self, units: Int[Tensor, "some"]) -> "LeastSquares":
        """The same for the answers of some units: what is removed is all others' effects, as before."""
        view = copy(self)
        view.signs = self.signs[units]
        return view

    def adjust(self, answers: Float[Tensor, "n units q"]) -> Float[Tensor, "n units q"]:
        """Every unit's answers, less their mean and all other units' effects: its own and noise are left."""
        answers = (answers - answers[:1]).double()  # what is the same in all members is now exactly 0
        own = torch.einsum("un,nuq->uq", self.signs, answers) / len(answers)
        return torch.einsum("nm,muq->nuq", self.residual, answers) + self.signs.T[:, :, None] * own

    def adjust_sets(
        self, answers: Float[Tensor, "n units q"], sets: Int[Tensor, "sets q size"]
    ) -> Float[Tensor, "n sets q size"]:
        """The same for the units of every set, padded with -1, where nothing of meaning stands.

        A unit's own effect alone is left in its answers, and not that of others in its set, which orthogonal words
        have apart.
        """
        return self.adjust(answers)[:, sets.clamp_min(0), torch.arange(sets.shape[1])[:, None]]


def degrees(basis: Bool[Tensor, "all n"]) -> int:
    """Degrees of freedom that a mean and all effects leave: n - 1 - N."""
    return basis.shape[1] - 1 - len(basis)


def standard_error(
    adjusted: Float[Tensor, "n *tests"], codewords: Bool[Tensor, "n *tests"], freedom: int
) -> Float[Tensor, "*tests"]:
    """Of the `pull` of adjusted answers: the root of the residuals' mean square over n.

    Args:
        codewords: of the unit of each test.
        freedom: of the residuals, n - 1 - N.
    """
    signs = _signs(codewords)
    residual = adjusted - adjusted.mean(0) - signs * (signs * adjusted).mean(0)
    return (residual.square().sum(0) / (freedom * len(adjusted))).sqrt()


def t_test(
    adjusted: Float[Tensor, "n *tests"], codewords: Bool[Tensor, "n *tests"], freedom: int
) -> tuple[Float[Tensor, "*tests"], Float[Tensor, "*tests"]]:
    """(z, p) of `pull`, one-sided; z is Student's t. Of answers that do not vary z is 0 and p is 1.

    Args:
        adjusted, codewords, freedom: as `standard_error` takes them.
    """
    score = (_signs(codewords) * adjusted).mean(0)
    return _student(score, standard_error(adjusted, codewords, freedom), freedom)


def set_t_test(
    sets: Int[Tensor, "sets q size"],
    adjusted: Float[Tensor, "n sets q size"],
    codewords: Bool[Tensor, "units n"],
    freedom: int,
) -> tuple[Float[Tensor, "sets q"], Float[Tensor, "sets q"], Float[Tensor, "sets q"]]:
    """(score, z, p) of sets: the sum of their units' `pull`. The p of an empty set is NaN.

    Orthogonal words have no covariance, along whatever directions: variances add. Their sum has as many degrees of
    freedom as one, if all directions are one, and else more: p is then larger than it need be.

    Args:
        sets: units of every set for every query, padded with -1.
        adjusted: what `adjust_sets` has left, weighted perhaps.
    """
    present = sets >= 0
    held = codewords[sets.clamp_min(0)].movedim(-1, 0)
    adjusted = torch.where(present, adjusted, 0)
    total = (_signs(held) * adjusted).sum(0).sum(-1) / len(adjusted)
    error = standard_error(adjusted, held, freedom).square().sum(-1).sqrt()
    z, p = _student(total, error, freedom)
    return total, z, torch.where(present.any(-1), p, torch.nan)


def _student(score: Tensor, error: Tensor, freedom: int) -> tuple[Tensor, Tensor]:
    from scipy.special import stdtr

    t = torch.where(error > 0, score / error, 0).double()
    p = torch.from_numpy(np.asarray(stdtr(freedom, -t.numpy())))
    return t, torch.where(error > 0, p, 1)


def _signs(codewords: Tensor) -> Tensor:
    return codewords.double() * 2 - 1
