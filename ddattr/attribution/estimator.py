"""The estimator: what n members say of every unit, the other units discounted, and tested.

Members answer a query along a direction of every unit (`influence.projections`, `denoising.distinctive`): (n, units, q)
numbers. The estimator contrasts the answers of those that saw a unit with all others', with the other units' part
discounted by least squares (`gls`), tests the contrast (`significance`), and says what to expect of it (`posterior`).
Of orthogonal words all effects are estimated at once, and tested by t (`regression`).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.attribution.gls import LeaveOneOutGLS
from ddattr.attribution.influence import pull, similarity
from ddattr.attribution.loss import loss_change
from ddattr.attribution.posterior import posterior
from ddattr.attribution.regression import LeastSquares, degrees, set_t_test, standard_error, t_test
from ddattr.attribution.significance import null_deviation, pull_significance, set_significance
from ddattr.codebook import Codebook, contrast, contrast_variance
from ddattr.diffusion.noise import Stream, generator


class Estimate(NamedTuple):
    """What an estimator makes of members' answers, (units, q) each but `adjusted`, (n, units, q).

    `plain` is the pull of bare contrasts, `pull` that of the `adjusted` answers, `deviation` the latter's under its
    null, and `posterior` what to expect of it.
    """

    adjusted: Tensor
    plain: Tensor
    pull: Tensor
    deviation: Tensor
    posterior: Tensor

    def named(self, method: str) -> dict[str, Float[Tensor, "units q"]]:
        """Its three scores by the names that tables have for them."""
        return named(method, self.plain, self.pull, self.posterior)

    @property
    def z(self) -> Float[Tensor, "units q"]:
        """Of `pull`; 0 where its null does not vary."""
        return torch.where(self.deviation > 0, self.pull / self.deviation, 0)


@dataclass(frozen=True, eq=False)
class Estimator:
    """Scores and tests of every unit on every query, from an ensemble or from some of its members.

    Of few members more saw one unit than another, by the accident of codewords, and removing it takes as many members
    away: pulls are scaled to the `usual` number that see a unit. A unit that all members saw, or none, is not
    identifiable by them: its scores are 0. Of a whole ensemble every scale is 1.

    Args:
        codewords: of all units, over these members.
        similarity: of every unit to every query, falling with distance: how far a unit is thought to move it.
        share: of the variance over members that is put down to other units when one is tested; 0 is plain contrasts.
        usual: members that see a unit on average; None for that of these codewords.
        basis: codewords of all units where they are orthogonal (`Codebook.basis`): `share` is then nothing's, as what
            one unit does is in no other's contrast. Some of their members hold words that are orthogonal no more, and
            are an ensemble like any other.
    """

    codewords: Bool[Tensor, "units n"]
    similarity: Float[Tensor, "units q"]
    share: float = 0.5
    usual: float | None = None
    basis: Bool[Tensor, "all n"] | None = None

    @classmethod
    def of_distance(
        cls,
        codewords: Bool[Tensor, "units n"],
        distance: Float[Tensor, "units q"],
        share: float = 0.5,
        basis: Bool[Tensor, "all n"] | None = None,
    ) -> "Estimator":
        """An estimator by whose lights units matter that are near the query, in pixels or in features."""
        return cls(codewords, similarity(distance), share, basis=basis)

    def of_members(self, members: Int[Tensor, "m"]) -> "Estimator":
        """The same of some members, as if there were no others."""
        usual = self._usual * len(members) / self.codewords.shape[1]
        whole = self.basis is not None and len(members) == self.codewords.shape[1]
        basis = self.basis[:, members] if self.basis is not None and whole else None
        return Estimator(self.codewords[:, members], self.similarity, self.share, usual, basis)

    def at(self, units: Int[Tensor, "some"]) -> "Estimator":
        """The same for the answers of some units: all others are discounted as before.

        Its scores are those of the whole one; the posterior and tests take all units, and are the whole one's.
        """
        part = replace(self, codewords=self.codewords[units], similarity=self.similarity[units], usual=self._usual)
        vars(part)["gls"] = self.gls.at(units)
        return part

    # -- scores

    def estimate(self, answers: Float[Tensor, "n units q"]) -> Estimate:
        """All scores at once."""
        adjusted = self.gls.adjust(answers)
        score, deviation = self.pull(adjusted), self.deviation(adjusted)
        return Estimate(adjusted, self.pull(answers), score, deviation, posterior(score, deviation, -self.similarity))

    def pull(self, answers: Float[Tensor, "n units q"]) -> Float[Tensor, "units q"]:
        """Answers' mean over all members less that over those that never saw the unit, on the usual scale."""
        return pull(answers, self.contrastable) * self._scale

    def deviation(self, answers: Float[Tensor, "n units q"]) -> Float[Tensor, "units q"]:
        """Of `pull` over all codewords that as many members saw; its standard error where words are orthogonal."""
        if self.basis is not None:
            return standard_error(answers, _by_test(self.codewords, answers), degrees(self.basis))
        return torch.where(self.identifiable, self._scale * null_deviation(answers, self.contrastable), 0)

    def loss_change(self, gram: Float[Tensor, "q n n"]) -> Float[Tensor, "units q"]:
        """Change of these members' loss when each unit is removed, less what removing as many others would change.

        An ensemble of fewer members has a larger loss, whatever they saw: by this much, in the mean over all codewords
        of as many ones. At constant weight it is the same for all units.
        """
        n = self.codewords.shape[1]
        alone = gram.diagonal(dim1=1, dim2=2).mean(1)
        shared = (gram.sum((1, 2)) - n * alone) / (n * (n - 1))
        fewer = torch.where(self.identifiable, self._contrast_variance, 0) * (alone - shared)
        return (loss_change(gram, self.contrastable) - fewer) * self._scale

    # -- tests

    def test(
        self,
        adjusted: Float[Tensor, "n units q"],
        codewords: Bool[Tensor, "units n"] | Bool[Tensor, "units q n"] | None = None,
    ) -> tuple[Float[Tensor, "units q"], Float[Tensor, "units q"]]:
        """(z, p) of every unit of a whole ensemble, from its adjusted answers.

        Args:
            codewords: of the units, where it is not all of them; each query may have its own.
        """
        codewords = self.codewords if codewords is None else codewords
        if self.basis is None:
            return pull_significance(adjusted, codewords, self.codewords)
        return t_test(adjusted, _by_test(codewords, adjusted), degrees(self.basis))

    def test_sets(
        self, answers: Float[Tensor, "n units q"], sets: Int[Tensor, "sets q size"], codebook: Codebook
    ) -> tuple[Float[Tensor, "sets q"], Float[Tensor, "sets q"], Float[Tensor, "sets q"]]:
        """(score, z, p) of whole sets: the sum of their units' pull, each weighed by its similarity, all others
        discounted.

        Args:
            answers: not adjusted: what is discounted of a set is all units outside it.
            sets: units of every set for every query, padded with -1.
        """
        return self.test_adjusted_sets(self.gls.adjust_sets(self.similarity * answers, sets), sets, codebook)

    def test_adjusted_sets(
        self, adjusted: Float[Tensor, "n sets q size"], sets: Int[Tensor, "sets q size"], codebook: Codebook
    ) -> tuple[Float[Tensor, "sets q"], Float[Tensor, "sets q"], Float[Tensor, "sets q"]]:
        """The same of answers that are adjusted, and weighed in any way."""
        if self.basis is None:
            return set_significance(sets, adjusted, codebook)
        return set_t_test(sets, adjusted, self.codewords, degrees(self.basis))

    def z_of_sets(
        self, answers: Float[Tensor, "n units q"], sets: Int[Tensor, "sets q size"], capacity: int
    ) -> Float[Tensor, "sets q"]:
        """z of sets as `test_sets` has it, from few members as well; these take their codewords for as distinct as the
        whole ones are. 0 where none of the units is identifiable.

        Args:
            answers, sets: as `test_sets` takes them.
            capacity: number of codewords that there are.
        """
        near = self.similarity * self.identifiable
        adjusted = self.gls.adjust_sets(near * answers, sets)
        if self.basis is not None:
            return set_t_test(sets, adjusted, self.codewords, degrees(self.basis))[1]
        held = sets.clamp_min(0)
        scale = self._scale[held, 0]
        counted = self.identifiable[held, 0] & (sets >= 0)
        pulls = -torch.einsum("sqpm,msqp->sqp", contrast(self.contrastable[held]).to(adjusted), adjusted)
        total = torch.where(counted, scale * pulls, 0).sum(-1)
        scaled = torch.where(counted, scale * self._contrast_variance[held, 0].sqrt() * adjusted, 0)
        variance = scaled.var(0).sum(-1) - scaled.sum(-1).var(0) * (1 / capacity)
        deviation = (variance * (capacity / (capacity - 1))).clamp_min(0).sqrt()
        return torch.where(deviation > 0, total / deviation, 0)

    # -- what follows from codewords

    @cached_property
    def gls(self) -> LeaveOneOutGLS | LeastSquares:
        if self.basis is not None:
            return LeastSquares(self.codewords, self.basis)
        return LeaveOneOutGLS(self.contrastable, self.similarity * self.identifiable, self.share)

    @cached_property
    def seen(self) -> Float[Tensor, "units 1"]:
        """Members that saw each unit."""
        return self.codewords.sum(1).double()[:, None]

    @cached_property
    def identifiable(self) -> Bool[Tensor, "units 1"]:
        """Whether some of these members saw the unit, and some did not."""
        return (self.seen > 0) & (self.seen < self.codewords.shape[1])

    @cached_property
    def contrastable(self) -> Bool[Tensor, "units n"]:
        """Codewords, of which a contrast needs ones and zeros."""
        return torch.where(self.identifiable, self.codewords, torch.arange(self.codewords.shape[1]) == 0)

    @property
    def _usual(self) -> float:
        return int(self.codewords.sum()) / len(self.codewords) if self.usual is None else self.usual

    @cached_property
    def _scale(self) -> Float[Tensor, "units 1"]:
        return torch.where(self.identifiable, self._usual / self.seen, 0)

    @property
    def _contrast_variance(self) -> Float[Tensor, "units 1"]:
        return contrast_variance(self.seen, self.codewords.shape[1])


def named(method: str, plain: Tensor, pull: Tensor, posterior: Tensor) -> dict[str, Float[Tensor, "units q"]]:
    """An estimate's three scores by the names that tables have for them."""
    return {method: plain, f"{method}_gls": pull, f"{method}_posterior": posterior}


def _by_test(
    codewords: Bool[Tensor, "units n"] | Bool[Tensor, "units q n"], answers: Float[Tensor, "n units q"]
) -> Bool[Tensor, "n units q"]:
    return (codewords[:, None] if codewords.dim() == 2 else codewords).movedim(-1, 0).expand_as(answers)


def draw_members(size: int, members: int, seed: int, order: int = 0) -> Int[Tensor, "m"]:
    """The first `size` of a random order of members, sorted; those of one order are nested."""
    drawn = generator(seed, Stream.MEMBER_ORDER, step=order).permutation(members)[:size]
    return torch.from_numpy(drawn).sort().values
