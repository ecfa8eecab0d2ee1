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
from ddattr.attribution.posterior import posterior
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
        blocks = self._blocks()
        return torch.cat([part.pull(said) / part.deviation(said).clamp_min(1e-12) for part, _, said in blocks])

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
        """(score, z, p) of sets, as `Estimator.test_sets` has them: of as many at a time as a block holds."""
        together = sets.split(max(1, self.block // sets.shape[-1]))
        parts = [self.estimator.test_adjusted_sets(self.sets(some), some, codebook) for some in together]
        score, z, p = map(torch.cat, zip(*parts, strict=True))
        return score, z, p

    def _blocks(self) -> Iterator[tuple[Estimator, Tensor, Tensor]]:
        """The estimator of a block of units, what members answer along these, and the same adjusted."""
        for units in torch.arange(len(self.estimator.codewords)).split(self.block):
            part, said = self.estimator.at(units), self.answers(units)
            yield part, said, part.gls.adjust(said)
