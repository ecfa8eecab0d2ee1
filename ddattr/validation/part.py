"""Part of an ensemble: what some of its members would have said of every unit, had there been no others."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.attribution.background import Background
from ddattr.attribution.influence import nearness, pull
from ddattr.attribution.posterior import posterior
from ddattr.diffusion.noise import Stream, generator


class Measured(NamedTuple):
    """Scores (units, q) by pull: plain contrasts, the other units discounted, what to expect; and the null's deviation
    of the second."""

    plain: Tensor
    discounted: Tensor
    posterior: Tensor
    deviation: Tensor


class Part:
    """Some members, and the bits that they have of every unit's codeword.

    A unit that all of them saw, or none, cannot be told by them: its scores are 0.

    Args:
        members: their numbers, (m,).
        codewords: of the whole ensemble, (units, n).
    """

    def __init__(self, members: Int[Tensor, "m"], codewords: Bool[Tensor, "units n"]) -> None:
        words, size = codewords[:, members], len(members)
        self.members, self.size = members, size
        self.seen = words.sum(1).double()[:, None]  # of no constant weight
        self.told = (self.seen > 0) & (self.seen < size)
        self.words = words & self.told | ~self.told & (torch.arange(size) == 0)  # a contrast needs ones and zeros

    @classmethod
    def draw(cls, size: int, codewords: Bool[Tensor, "units n"], seed: int, order: int = 0) -> "Part":
        """The first `size` members of a random order; those of one order are nested."""
        drawn = generator(seed, Stream.MEMBER_ORDER, step=order).permutation(codewords.shape[1])[:size]
        return cls(torch.from_numpy(drawn).sort().values, codewords)

    def measured(self, along: Float[Tensor, "m units q"], distance: Float[Tensor, "units q"], share: float) -> Measured:
        """Every unit's pull, by what these members answer along its direction.

        Args:
            distance: of unit and picture, for nearness.
            share: of the members' variance that is put down to other units.
        """
        answers = Background(self.words, nearness(distance) * self.told, share).discount(along)
        deviation = (answers.var(0) * self.seen / (self.size * (self.size - self.seen))).sqrt()
        deviation = torch.where(self.told, deviation, 0)
        plain, discounted = (pull(given, self.words) * self.told for given in (along, answers))
        return Measured(plain, discounted, posterior(discounted, deviation, distance), deviation)
