"""Generalised least squares that leaves the tested unit out: what other units did is discounted first.

The members that saw a unit saw others, too, and by the accident of codewords more of some than of others. A contrast
takes what those did for the unit's. If unit j moves a query by an amount of variance s_j^2, s_j its similarity to the
query, the members' answers have the covariance

    S = share sum_j s_j^2 x_j x_j^T / size + (1 - share) 1,    x_j the centred codeword, size the mean diagonal,

and generalised least squares weighs them by its inverse. Unit i is judged by the inverse of S *without unit i*: it
does not know which codeword i holds, so that phantoms, under the same S, are still i's exact null.
Source: Aitken 1936; that a tested effect stays out of its own covariance, Yang et al. 2014 (mixed-model association).
"""

from collections.abc import Callable, Iterable
from copy import copy
from functools import reduce

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_BLOCK = 1 << 22  # numbers of the largest array between


class LeaveOneOutGLS:
    """Discounts the other units' part in what members say of a query, before it is contrasted.

    Args:
        codewords: of all units.
        similarity: of every unit to every query: how far a unit is thought to move it, up to scale.
        share: of the variance over members that is put down to units; the rest is the members' noise. 0 is the plain
            contrast. Below 1. Any leaves p exact; a good one leaves less noise.
    """

    def __init__(
        self, codewords: Bool[Tensor, "units n"], similarity: Float[Tensor, "units q"], share: float = 0.5
    ) -> None:
        self.codewords = codewords
        self.members = codewords.shape[1]
        self.rest = 1 - share
        variance = similarity.double().square()
        blocks = torch.arange(len(codewords)).split(max(1, _BLOCK // self.members))
        size = _sum(torch.einsum("ju,jq->q", self._x(j).square(), variance[j]) for j in blocks) / self.members
        self.weight = share * variance / size.clamp_min(torch.finfo(variance.dtype).tiny)
        self.covariance = _sum(self._products(j) for j in blocks)
        self.inverses = [self._inverse(covariance) for covariance in self.covariance]

    def at(self, units: Int[Tensor, "some"]) -> "LeaveOneOutGLS":
        """The same for the answers of some units: what is discounted is all others, as before."""
        view = copy(self)
        view.codewords, view.weight = self.codewords[units], self.weight[units]
        return view

    def adjust(self, answers: Float[Tensor, "n units q"]) -> Float[Tensor, "n units q"]:
        """What `pull` and its null take for `answers`: every unit's, with all other units discounted.

        By the formula for an inverse of rank one less (Sherman & Morrison 1950), from one inverse a query.
        """
        answers = answers - answers[:1]  # what is the same in all members is now exactly 0
        found = torch.empty(answers.shape, dtype=torch.float64)
        for units in torch.arange(len(self.codewords)).split(max(1, _BLOCK // self.members)):
            x = self._x(units).T
            for q, inverse in enumerate(self.inverses):
                weight = self.weight[units, q]
                weighed = inverse @ answers[:, units, q].double()
                solved = inverse @ x
                without = weight / (1 - weight * (x * solved).sum(0))
                trace = inverse.trace() + without * solved.square().sum(0)
                restored = weighed + solved * without * (x * weighed).sum(0)
                found[:, units, q] = restored * (self.members - 1) / trace
        return found

    def adjust_sets(
        self, answers: Float[Tensor, "n units q"], sets: Int[Tensor, "sets q size"]
    ) -> Float[Tensor, "n sets q size"]:
        """The same for the units of every set, with all units outside the set discounted.

        Args:
            sets: units of every set for every query, padded with -1; what stands there is of no meaning.
        """
        answers = answers - answers[:1]
        found = torch.empty((self.members, *sets.shape), dtype=torch.float64)
        for q, covariance in enumerate(self.covariance):
            for s, units in enumerate(sets[:, q]):
                held = units[units >= 0]
                x = self._x(held)
                inverse = self._inverse(covariance - (x.T * self.weight[held, q]) @ x)
                found[:, s, q] = inverse @ answers[:, units.clamp_min(0), q].double()
                found[:, s, q] *= (self.members - 1) / inverse.trace()
        return found

    def outside(self, units: Int[Tensor, "some"]) -> Callable[[Tensor], Tensor]:
        """What makes of answers of units of a large set, (n, some, q), those with all units outside it discounted."""
        parts = [self._products(part) for part in units.split(max(1, _BLOCK // self.members))]
        inverse = torch.stack([self._inverse(covariance) for covariance in self.covariance - _sum(parts)])
        inverse *= (self.members - 1) / inverse.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]

        def adjusted(answers: Float[Tensor, "n units q"]) -> Float[Tensor, "n units q"]:
            return torch.einsum("qnm,muq->nuq", inverse, (answers - answers[:1]).double())

        return adjusted

    def _x(self, units: Int[Tensor, "some"]) -> Float[Tensor, "some n"]:
        """Centred codewords."""
        x = self.codewords[units].double()
        return x - x.mean(1, keepdim=True)

    def _products(self, units: Int[Tensor, "some"]) -> Float[Tensor, "q n n"]:
        """Their part of every query's covariance."""
        x = self._x(units)
        return torch.stack([(x.T * weight) @ x for weight in self.weight[units].T])

    def _inverse(self, covariance: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
        """(covariance + rest)^-1 on what sums to 0 over members: their mean is no unit's."""
        identity = torch.eye(self.members, dtype=torch.float64)
        return torch.linalg.inv(covariance + self.rest * identity) - 1 / (self.rest * self.members)


def _sum(parts: Iterable[Tensor]) -> Tensor:
    """In order, none kept; of one part itself, to the bit."""
    return reduce(torch.add, parts)
