"""Part of an ensemble: what some of its members would have said of every unit, had there been no others."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.attribution.background import Background
from ddattr.attribution.influence import nearness, pull
from ddattr.attribution.loss import loss_change
from ddattr.attribution.posterior import posterior
from ddattr.codebook import contrast
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

    More of them saw one unit than another, by the accident of codewords, and removing it takes as many members away:
    scores are scaled to the m h / n that see a unit on average. A unit that all of them saw, or none, cannot be told by
    them: its scores are 0.

    Args:
        members: their numbers, (m,).
        codewords: of the whole ensemble, (units, n).
    """

    def __init__(self, members: Int[Tensor, "m"], codewords: Bool[Tensor, "units n"]) -> None:
        self.bits, self.members, self.size = codewords[:, members], members, len(members)
        self.seen = self.bits.sum(1).double()[:, None]  # of no constant weight
        self.told = (self.seen > 0) & (self.seen < self.size)
        self.words = torch.where(self.told, self.bits, torch.arange(self.size) == 0)  # contrasts need ones and zeros
        usual = self.size * codewords.double().mean()
        self.scale = torch.where(self.told, usual / self.seen, 0)

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
        deviation = torch.where(self.told, self.scale * (answers.var(0) * self._variance).sqrt(), 0)
        plain, discounted = (pull(given, self.words) * self.scale for given in (along, answers))
        return Measured(plain, discounted, posterior(discounted, deviation, distance), deviation)

    def z_of_sets(
        self,
        along: Float[Tensor, "m units q"],
        distance: Float[Tensor, "units q"],
        share: float,
        sets: Int[Tensor, "sets q size"],
        capacity: int,
    ) -> Float[Tensor, "sets q"]:
        """z of whole sets: the sum of their units' pull, each by its nearness, before a background without them all.

        As `set_significance` has it, of all members; of fewer it takes their words for as distinct as the whole
        codewords are. 0 where these members can tell none of the units.

        Args:
            along, distance, share: as `measured` takes them.
            sets: units of every set for every query, padded with -1.
            capacity: number of codewords that there are.
        """
        near = nearness(distance) * self.told
        answers = Background(self.words, near, share).discount_sets(near * along, sets)
        held = sets.clamp_min(0)
        scale, told = self.scale[held, 0], self.told[held, 0] & (sets >= 0)
        pulls = -torch.einsum("sqpm,msqp->sqp", contrast(self.words[held]).to(answers), answers)
        total = torch.where(told, scale * pulls, 0).sum(-1)
        answers = torch.where(told, scale * self._variance[held, 0].sqrt() * answers, 0)
        variance = answers.var(0).sum(-1) - answers.sum(-1).var(0) * (1 / capacity)
        deviation = (variance * (capacity / (capacity - 1))).clamp_min(0).sqrt()
        return torch.where(deviation > 0, total / deviation, 0)

    def loss_change(self, gram: Float[Tensor, "q m m"]) -> Float[Tensor, "units q"]:
        """Change of these members' loss when each unit is removed, less what removing as many others would change.

        An ensemble of fewer members has a larger loss, whatever they saw: by this much, in the mean over all words of
        as many ones. At constant weight it is the same for all units.
        """
        own = gram.diagonal(dim1=1, dim2=2).mean(1)
        shared = (gram.sum((1, 2)) - self.size * own) / (self.size * (self.size - 1))
        fewer = torch.where(self.told, self._variance, 0) * (own - shared)
        return (loss_change(gram, self.words) - fewer) * self.scale

    @property
    def _variance(self) -> Float[Tensor, "units 1"]:
        """Squared length of each unit's contrast: of a mean of m - seen of m, over their answers' variance."""
        return self.seen / (self.size * (self.size - self.seen))
