"""A picture without what it owes itself to: drawn anew, or estimated, and how much that changes it."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.tracking.page.answers import Answers

_LOTS = 200  # draws of models by lot, whose median is shown
_FEWEST = 20  # of them that make a median


class Without(NamedTuple):
    """A displacement, and its size as shares of the way from black to white.

    Args:
        how: `exact` where it was replayed, else `first`.
        change: mean over pixels and channels of what is seen to change.
        by_lot: the median of the same where as many codewords of no unit are taken out; None where there are too few.
    """

    moved: Float[Tensor, "c h w"]
    how: str
    change: float
    by_lot: float | None


def without(answers: Answers, place: int, units: list[int]) -> Without | None:
    """The query at a place without units; of several, the sum of their first orders, as their score is the sum.

    None where the query has neither a Jacobian nor a replay without the unit, no units are known, or no member went
    without all of them: so far from the ensemble the first order says nothing.
    """
    codebook, which = answers.codebook, torch.tensor(units, dtype=torch.long)
    if not units or not codebook.survivors(which).any():
        return None
    first = answers.first_order(place, codebook.codewords(which))
    exact = answers.exact(place).get(units[0]) if len(units) == 1 else None
    if exact is not None:
        moved, how = exact, "exact"
    elif first is not None:
        moved, how = first.sum(0), "first"
    else:
        return None
    size = change(answers.factual[place], moved).item()
    return Without(moved, how, size, _by_lot(answers, place, len(units)))


def change(picture: Float[Tensor, "c h w"], moved: Float[Tensor, "*lead c h w"]) -> Float[Tensor, "*lead"]:
    """Mean absolute change of what is seen, which is clipped, as a share of the way from black (-1) to white (1)."""
    return ((picture + moved).clamp(-1, 1) - picture.clamp(-1, 1)).abs().flatten(-3).mean(-1) / 2


def _by_lot(answers: Answers, place: int, units: int) -> float | None:
    """Of phantoms: `units` of them at a time, to first order."""
    drawn = answers.codebook.sample_phantoms(_LOTS * units)
    times = len(drawn) // units
    if times < _FEWEST:
        return None
    moved = answers.first_order(place, drawn[: times * units])
    if moved is None:
        return None
    return change(answers.factual[place], moved.unflatten(0, (times, units)).sum(1)).median().item()
