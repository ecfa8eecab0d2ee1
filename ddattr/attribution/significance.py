"""How sure: p-values of influence by randomisation inference.

Codewords were assigned at random. If unit i never mattered, the members would be the same had it held any codeword
that no other unit holds. Its score under those codewords, the phantoms, on its own direction is therefore its null.

What "exact" means: this null follows from how codewords were drawn, and from nothing else: neither the members nor the
pictures are assumed to be of any distribution. Its tail is counted whole where there are at most 200,000 codewords,
and p is then the rank of the unit's score, exactly. Of more, p is the saddlepoint's approximation of the tail over all
codewords, held by others or not (counted where 10,000 at most reach the score, up to 28 members), times
C / (C - N + 1), which covers whichever the others hold; `verified.csv` has how far it is from draws, of a seeded sample
and of all units that pass. The p of a set is the saddlepoint's always. Of orthogonal words p is a t-test's
(`regression`), and not exact in this sense.
Source: Fisher 1935, The design of experiments; the use of phantom codewords is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.attribution.tails import counted, saddlepoint
from ddattr.codebook import Codebook, contrast, contrast_variance

COUNTED = 200_000  # codewords up to which a null is counted whole: all of 20 members
_FEW = 10_000  # codewords, of more: where no more reach a score, they are counted: a tail of some is no smooth one
_HALVED = 28  # members, of which that takes a millisecond
_TIE = 1e-9  # scores closer than this, in units of the null's deviation, are equal: rounding must not break a tie


@dataclass(frozen=True)
class TestSettings:
    """How influence is tested: the config group `significance`.

    Args:
        seed: of phantoms, of the units that are verified, and of the random baseline beside them.
        level: of significance, of q for single units, of p for neighbourhoods.
        phantoms: most codewords of no unit that lengths, which have no closed form, are held against; all of them when
            there are fewer.
        verified: units drawn by seed, beside all that pass, whose p is held against draws where it was not counted.
        gls_share: share of the members' variance that is put down to other units when one is tested; 0 tests plain
            contrasts.
        neighbourhoods: numbers of nearest units that are tested as sets.
    Raises:
        ValueError: a setting is out of range.
    """

    seed: int
    level: float = 0.05
    phantoms: int = 100_000
    verified: int = 64
    gls_share: float = 0.5
    neighbourhoods: Sequence[int] = (1, 2, 5, 10, 20, 50, 100, 200)

    def __post_init__(self) -> None:
        for name, least in (("phantoms", 1), ("verified", 0)):
            if getattr(self, name) < least:
                _refuse(name, getattr(self, name), f"at least {least}")
        if not 0 < self.level < 1:
            _refuse("level", self.level, "between 0 and 1")
        if not 0 <= self.gls_share < 1:
            _refuse("gls_share", self.gls_share, "at least 0 and less than 1")
        if not self.neighbourhoods or min(self.neighbourhoods) < 1:
            _refuse("neighbourhoods", list(self.neighbourhoods), "numbers of units from 1 up")

    def check_units(self, units: int) -> None:
        """Raises ValueError when no neighbourhood is as small as the number of units."""
        if min(self.neighbourhoods) > units:
            _refuse("neighbourhoods", list(self.neighbourhoods), f"some numbers from 1 to {units}")


def _refuse(name: str, value: object, expected: str) -> None:
    raise ValueError(f"significance: {name}={value}, expected {expected}. Set significance.{name}.")


def null_deviation(
    answers: Float[Tensor, "n units q"], codewords: Bool[Tensor, "units n"] | Bool[Tensor, "units q n"]
) -> Float[Tensor, "units q"]:
    """Standard deviation of `pull` over all codewords of as many ones: S^2 h / (n (n - h)) under the root; mean 0.

    S^2 is the sample variance of the answers over members: the finite-population variance of a mean of h of n.

    Args:
        codewords: of the same units for all queries, or of each query's own.
    """
    variance = contrast_variance(codewords.sum(-1).double(), codewords.shape[-1])
    return (answers.var(0) * (variance[:, None] if codewords.dim() == 2 else variance)).sqrt()


def pull_significance(
    answers: Float[Tensor, "n units q"],
    codewords: Bool[Tensor, "units n"] | Bool[Tensor, "units q n"],
    held: Bool[Tensor, "all n"],
) -> tuple[Float[Tensor, "units q"], Float[Tensor, "units q"]]:
    """(z, p) of `pull`, one-sided: z in closed form; p is the share, of the codewords that no other unit holds, whose
    score on the unit's own direction is as large or larger. Of answers that do not vary p is 1.

    Args:
        answers: what members say along each unit's direction, adjusted or not.
        codewords: of the units, as `null_deviation` takes them.
        held: codewords of all units, of constant weight.
    """
    (units, n), weight = held.shape, int(held[0].sum())
    numbers = answers.flatten(1).double()
    sums = torch.einsum(f"{'un' if codewords.dim() == 2 else 'uqn'},nuq->uq", codewords.double(), answers.double())
    sums = sums.flatten()
    deviation = (numbers.var(0) * (weight * (n - weight) / n)).sqrt()
    z = _standardise(sums - weight * numbers.mean(0), deviation)
    capacity = comb(n, weight)
    free = capacity - units + 1  # its own, and those of no unit
    least = sums - _TIE * deviation
    if capacity <= COUNTED:
        p = (counted(numbers, least, weight) - _reached(numbers, least, held) + 1) / free
    else:
        p = saddlepoint(numbers[:, None], z, weight)
        if n <= _HALVED and (few := p < _FEW / capacity).any():
            p[few] = counted(numbers[:, few], least[few], weight).double() / capacity
        p = (p.clamp_min(1 / capacity) * (capacity / free)).clamp_max(1)
    return z.to(answers).reshape(answers.shape[1:]), p.to(answers).reshape(answers.shape[1:])


def _reached(
    numbers: Float[Tensor, "n tests"], least: Float[Tensor, "tests"], held: Bool[Tensor, "units n"]
) -> Int[Tensor, "tests"]:
    """Units whose codewords have a sum of at least that much."""
    total = torch.zeros(numbers.shape[1], dtype=torch.long)
    for block in held.to(numbers).split(max(1, (1 << 22) // max(1, numbers.shape[1]))):
        total += (block @ numbers >= least).sum(0)
    return total


def norm_significance(
    score: Float[Tensor, "units q"], null: Float[Tensor, "phantoms q"]
) -> tuple[Float[Tensor, "units q"], Float[Tensor, "units q"]]:
    """(z, p) of a score whose null does not depend on the unit: `null` holds the phantoms' scores.

    `norm` is one, and the change of the loss another.
    """
    p = ranks(score, ordered(null)) / (1 + len(null))
    return _standardise(score - null.mean(0), null.std(0).expand_as(score)), p.to(score)


def ordered(null: Float[Tensor, "phantoms q"]) -> Float[Tensor, "q phantoms"]:
    """A null as `ranks` takes it: once for all blocks of units."""
    return null.sort(0).values.T.contiguous()


def ranks(score: Float[Tensor, "units q"], null: Float[Tensor, "q phantoms"]) -> Int[Tensor, "units q"]:
    """1 + phantoms of an `ordered` null that reach each score: over 1 + phantoms, its p."""
    below = torch.searchsorted(null, (score - _TIE * score.abs()).T.contiguous()).T
    return 1 + null.shape[1] - below


def benjamini_hochberg(p: Float[Tensor, "tests *rest"]) -> Float[Tensor, "tests *rest"]:
    """q-values over the first dimension: the smallest false discovery rate at which a test is rejected. NaN stays NaN.

    A NaN is a test that was not made: it does not count among the tests.

    Source: Benjamini & Hochberg 1995.
    """
    order = p.argsort(0)  # NaN last
    tests = p.isfinite().sum(0)
    ranks = torch.arange(1, len(p) + 1).to(p).reshape(-1, *[1] * (p.dim() - 1))
    raw = (p.gather(0, order) * tests / ranks).nan_to_num(torch.inf)
    q = raw.flip(0).cummin(0).values.flip(0).clamp_max(1)
    return torch.empty_like(p).scatter_(0, order, q).where(p.isfinite(), torch.nan)


def set_significance(
    sets: Int[Tensor, "sets q size"], answers: Float[Tensor, "n sets q size"], codebook: Codebook
) -> tuple[Float[Tensor, "sets q"], Float[Tensor, "sets q"], Float[Tensor, "sets q"]]:
    """(score, z, p) of sets of units, scored after the fact: the sum of their units' `pull`.

    Under the null a set's units hold any codewords, distinct. z has the exact variance of a sum over distinct
    codewords; p is the tail of that z by the saddlepoint of units that draw independently. Both are over all codewords:
    those that units outside the set hold are not left out, as they are for single units. A set larger than the
    number of phantoms has p NaN, and one of a single unit the unit's.

    Args:
        sets: units of every set for every query, padded with -1 behind.
        answers: what members say of each of these units, adjusted and weighted perhaps.
    """
    present, units = sets >= 0, sets.clamp_min(0)
    size = present.sum(-1)
    answers = answers.double() * present
    codewords = codebook.codewords(units)
    total = -torch.einsum("sqpn,nsqp->sq", contrast(codewords).to(answers), answers)
    c = codebook.capacity  # an integer that may be past 64 bits, which tensors refuse: only its ratios meet them
    variance = answers.var(0).sum(-1) - answers.sum(-1).var(0) * (1 / c)
    deviation = (codebook.contrast_variance * variance * (c / (c - 1))).clamp_min(0).sqrt()
    z = _standardise(total, deviation)
    p = saddlepoint(answers.flatten(1, 2).transpose(1, 2), z.flatten(), codebook.weight).reshape(size.shape)
    p = torch.maximum(p, (float(c) ** -size.double()).clamp_min(torch.finfo(p.dtype).tiny))  # a set's own assignment
    if (single := size == 1).any():
        held = codebook.codewords(torch.arange(codebook.units))
        _, alone = pull_significance(answers[:, single][..., :1], codewords[single][:, :1], held)
        p[single] = alone[:, 0]
    return total, z, torch.where((size > 0) & (size <= min(codebook.phantoms, sets.shape[-1])), p, torch.nan)


def resolution(p: Float[Tensor, "sizes q"], level: float) -> Int[Tensor, "q"]:
    """Index of the smallest significant neighbourhood of every query; -1 when the largest is not significant.

    Neighbourhoods are nested and ordered from small to large. They are tested from the largest down until one fails:
    a fixed sequence, so that each is tested at the full level (Maurer, Hothorn & Lehmacher 1995). Those too large to
    be tested, whose p is NaN, are left out of it.
    """
    index = len(p) - ((p <= level) | p.isnan()).flip(0).cumprod(0).sum(0)
    found = p.gather(0, index.clamp_max(len(p) - 1)[None])[0] <= level  # neither past the end, nor one left out
    return torch.where(found, index, -1)


def radius_significance(
    radius: Float[Tensor, "q"], null: Float[Tensor, "phantoms q"], codebook: Codebook
) -> tuple[Float[Tensor, "q"], Float[Tensor, "q"]]:
    """(phantom radius, p) of the largest displacement over N units, against the norms of P phantoms.

    Under the null the N units' codewords are any N of the N + P: p is the probability that they hold one of the
    1 + #{phantom >= radius} largest. It is exact, whether the phantoms are all there are or a sample. The phantom
    radius is the median of the largest of N phantoms; NaN when there are none.
    """
    exceed = (null >= radius * (1 - _TIE)).sum(0).tolist()
    p = [_any_drawn(1 + above, codebook.units, codebook.units + len(null)) for above in exceed]
    median = torch.full_like(radius, torch.nan)
    if len(null):
        median = torch.quantile(null.double(), 0.5 ** (1 / codebook.units), dim=0).to(radius)
    return median, radius.new_tensor(p)


def _any_drawn(marked: int, drawn: int, total: int) -> float:
    """Probability that `drawn` of `total`, without replacement, include one of `marked`: hypergeometric."""
    if marked + drawn > total:
        return 1.0
    fewer, more = sorted((marked, drawn))
    log_none = torch.log1p(-more / (total - torch.arange(fewer, dtype=torch.float64))).sum()
    return -torch.expm1(log_none).item()


def _standardise(score: Tensor, deviation: Tensor) -> Tensor:
    return torch.where(deviation > 0, score / deviation, 0)
