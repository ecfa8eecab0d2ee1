"""An estimator on the answers of all units, some units at a time: what is held of all is numbers a unit and query.

Members answer along the units (`denoising.Distinctive`, `influence.projections`): (n, units, q) numbers, which with the
units' pictures are by far the most that scoring makes. Here they are made where they are needed, in blocks of units,
and dropped. Scores and p-values are the same whatever the blocks, up to rounding.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.attribution.estimator import Estimator
from ddattr.attribution.gls import LeaveOneOutGLS
from ddattr.attribution.posterior import posterior
from ddattr.attribution.sums import LARGE, summed_significance
from ddattr.codebook import Codebook

Answers = Callable[[Tensor], Tensor]  # of some units: (units,) -> (n, units, q)


class Found(NamedTuple):
    """Scores and tests of all units, (units, q) each.

    `plain`, `pull`, `deviation` and `posterior` as an `Estimate` has them; `z` and `p` of `pull`.
    """

    plain: Tensor
    pull: Tensor
    deviation: Tensor
    posterior: Tensor
    z: Tensor
    p: Tensor


@dataclass(frozen=True, eq=False)
class Streamed:
    """Members' answers, asked of the estimator in blocks.

    Args:
        estimator: of all units.
        answers: what members say of some units.
        block: units together.
    """

    estimator: Estimator
    answers: Answers
    block: int

    def found(self) -> Found:
        """Of all units; the posterior alone takes all scores of a query at once."""
        parts = []
        for part, said, adjusted in self._blocks():
            test = self.estimator.test(adjusted, part.codewords)
            parts.append((part.pull(said), part.pull(adjusted), part.deviation(adjusted), *test))
        plain, pull, deviation, z, p = map(torch.cat, zip(*parts, strict=True))
        return Found(plain, pull, deviation, posterior(pull, deviation, -self.estimator.similarity), z, p)

    def z(self) -> Float[Tensor, "units q"]:
        """Of all units, without p, which is dear; 0 where the null does not vary."""
        pairs = [(part.pull(adjusted), part.deviation(adjusted)) for part, _, adjusted in self._blocks()]
        pull, deviation = map(torch.cat, zip(*pairs, strict=True))
        return torch.where(deviation > 0, pull / deviation, 0)

    def pairs(self, units: Int[Tensor, "pairs"], queries: Int[Tensor, "pairs"]) -> Float[Tensor, "n pairs"]:
        """Adjusted answers of a unit to a query each."""
        found = torch.empty(self.estimator.codewords.shape[1], len(units), dtype=torch.float64)
        for block in units.unique().split(self.block):
            adjusted = self.estimator.at(block).gls.adjust(self.answers(block))
            mine = torch.isin(units, block)
            found[:, mine] = adjusted[:, torch.searchsorted(block, units[mine]), queries[mine]].double()
        return found

    def sets(self, sets: Int[Tensor, "sets q size"]) -> Float[Tensor, "n sets q size"]:
        """Answers of the units of sets, weighed and adjusted as `Estimator.test_adjusted_sets` takes them."""
        units = sets[sets >= 0].unique()
        said, part = torch.cat([self.answers(block) for block in units.split(self.block)], 1), self.estimator.at(units)
        places = torch.where(sets >= 0, torch.searchsorted(units, sets.contiguous()), -1)
        return part.gls.adjust_sets(part.similarity * said, places)

    def test_sets(
        self, sets: Int[Tensor, "sets q size"], codebook: Codebook
    ) -> tuple[Float[Tensor, "sets q"], Float[Tensor, "sets q"], Float[Tensor, "sets q"]]:
        """(score, z, p) of sets, as `Estimator.test_sets` has them: of as many at a time as a block holds; of more than
        `LARGE` units, by sums over blocks of these."""
        size = (sets >= 0).sum(-1)
        large = (size > LARGE).any(1)
        if not large.any():
            return self._test_sets(sets, codebook)
        score, z, p = (torch.full(size.shape, torch.nan, dtype=torch.float64) for _ in range(3))
        if not large.all():
            small = sets[~large][..., : int(size[~large].max())]
            score[~large], z[~large], p[~large] = self._test_sets(small, codebook)
        for s in large.nonzero()[:, 0].tolist():
            score[s], z[s], p[s] = self._test_large(sets[s], codebook)
        return score, z, p.where(size <= min(codebook.phantoms, sets.shape[-1]), torch.nan)

    def _test_sets(self, sets: Int[Tensor, "sets q size"], codebook: Codebook) -> tuple[Tensor, Tensor, Tensor]:
        together = sets.split(max(1, self.block // sets.shape[-1]))
        parts = [self.estimator.test_adjusted_sets(self.sets(some), some, codebook) for some in together]
        score, z, p = map(torch.cat, zip(*parts, strict=True))
        return score, z, p

    def _test_large(self, held: Int[Tensor, "q size"], codebook: Codebook) -> tuple[Tensor, Tensor, Tensor]:
        """Of one set, which may be the same for all queries or not."""
        found, gls = torch.empty(3, len(held), dtype=torch.float64), self.estimator.gls
        assert isinstance(gls, LeaveOneOutGLS)  # of orthogonal words there are no large sets
        rows, which = held.unique(dim=0, return_inverse=True)
        for row, units in enumerate(rows):
            mine, units = which == row, units[units >= 0]
            adjust = gls.outside(units)
            parts = [(units[at], self.estimator.at(units[at])) for at in torch.arange(len(units)).split(self.block)]
            blocks = ((part.codewords, adjust(part.similarity * self.answers(some))[..., mine]) for some, part in parts)
            found[:, mine] = torch.stack(summed_significance(blocks, codebook))
        return found[0], found[1], found[2]

    def _blocks(self) -> Iterator[tuple[Estimator, Tensor, Tensor]]:
        """The estimator of a block of units, what members answer along these, and the same adjusted."""
        for units in torch.arange(len(self.estimator.codewords)).split(self.block):
            part, said = self.estimator.at(units), self.answers(units)
            yield part, said, part.gls.adjust(said)
