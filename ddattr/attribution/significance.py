"""How sure: exact p-values of influence by randomisation inference.

Codewords were assigned at random. If unit i never mattered, the members would be the same had it held any codeword
that no other unit holds. Its score under those phantom codewords, on its own direction, is therefore its exact null.
Source: Fisher 1935, The design of experiments; the use of phantom codewords is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.codebook import Codebook, contrast
from ddattr.diffusion.noise import Stream, generator

_TIE = 1e-9  # scores closer than this, in units of the null's deviation, are equal: rounding must not break a tie


@dataclass(frozen=True)
class TestSettings:
    """How influence is tested: the config group `significance`.

    Args:
        seed: of phantoms, of the draws of sets' nulls, and of the random baseline beside them.
        level: of significance, of q for single units, of p for neighbourhoods.
        phantoms: most codewords of no unit in a unit's null; all of them when there are fewer.
        draws: assignments in a set's null.
        gls_share: share of the members' variance that is put down to other units when one is tested; 0 tests plain
            contrasts.
        neighbourhoods: numbers of nearest units that are tested as sets.
    Raises:
        ValueError: a setting is out of range.
    """

    seed: int
    level: float = 0.05
    phantoms: int = 100_000
    draws: int = 10_000
    gls_share: float = 0.5
    neighbourhoods: Sequence[int] = (1, 2, 5, 10, 20, 50, 100, 200)

    def __post_init__(self) -> None:
        for name in ("phantoms", "draws"):
            if getattr(self, name) < 1:
                _refuse(name, getattr(self, name), "at least 1")
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
    n, seen = codewords.shape[-1], codewords.sum(-1).double()
    variance = seen / (n * (n - seen))
    return (answers.var(0) * (variance[:, None] if codewords.dim() == 2 else variance)).sqrt()


def pull_significance(
    score: Float[Tensor, "units q"],
    answers: Float[Tensor, "n units q"],
    phantoms: Bool[Tensor, "phantoms n"],
    codewords: Bool[Tensor, "units n"] | Bool[Tensor, "units q n"],
    block: int = 1 << 20,
) -> tuple[Float[Tensor, "units q"], Float[Tensor, "units q"]]:
    """(z, p) of `pull` against phantoms on the unit's own direction, one-sided.

    p = (1 + #{phantom >= score}) / (1 + phantoms); z in closed form.

    Args:
        answers: what members say along each unit's direction, adjusted or not.
        codewords: of the units, as `null_deviation` takes them.
        block: most phantom scores held at once: as many as a cache holds.
    """
    deviation = null_deviation(answers, codewords)
    weights = -contrast(phantoms).to(answers).T
    threshold = (score - _TIE * deviation).flatten()
    columns = answers.flatten(1).T.contiguous()
    exceed = torch.empty_like(threshold)
    width = max(1, block // max(1, len(phantoms)))
    for start in range(0, len(threshold), width):
        part = slice(start, start + width)
        above = columns[part] @ weights >= threshold[part, None]
        exceed[part] = torch.from_numpy(np.count_nonzero(above.cpu().numpy(), axis=1)).to(exceed)  # torch sums slowly
    return _standardise(score, deviation), ((1 + exceed) / (1 + len(phantoms))).reshape(score.shape)


def norm_significance(
    score: Float[Tensor, "units q"], null: Float[Tensor, "phantoms q"]
) -> tuple[Float[Tensor, "units q"], Float[Tensor, "units q"]]:
    """(z, p) of a score whose null does not depend on the unit: `null` holds the phantoms' scores.

    `norm` is one, and the change of the loss another.
    """
    order = null.sort(0).values
    below = torch.searchsorted(order.T.contiguous(), (score - _TIE * score.abs()).T.contiguous()).T
    p = (1 + len(null) - below) / (1 + len(null))
    return _standardise(score - null.mean(0), null.std(0).expand_as(score)), p.to(score)


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
    sets: Int[Tensor, "sets q size"],
    answers: Float[Tensor, "n sets q size"],
    codebook: Codebook,
    draws: int,
    seed: int = 0,
    block: int = 1 << 24,
) -> tuple[Float[Tensor, "sets q"], Float[Tensor, "sets q"], Float[Tensor, "sets q"]]:
    """(score, z, p) of sets of units, scored after the fact: the sum of their units' `pull`.

    Under the null a set's units hold any of their own codewords and the phantoms, distinct; p counts `draws` such
    assignments; z has the exact variance of a sum over distinct codewords. A set larger than the number of phantoms
    has p NaN.

    Args:
        sets: units of every set for every query, padded with -1 behind.
        answers: what members say of each of these units, adjusted and weighted perhaps.
        block: most assignments' scores held at once.
    """
    present, units = sets >= 0, sets.clamp_min(0)
    size, longest = present.sum(-1), sets.shape[-1]
    answers = (answers * present).movedim(-1, 0)
    held = contrast(codebook.codewords(units)).to(answers)
    total = -torch.einsum("sqpn,pnsq->sq", held, answers)
    c = codebook.capacity  # an integer that may be past 64 bits, which tensors refuse: only its ratios meet them
    variance = answers.var(1).sum(0) - answers.sum(0).var(0) * (1 / c)
    deviation = (codebook.contrast_variance * variance * (c / (c - 1))).clamp_min(0).sqrt()
    exceed = torch.zeros_like(total)
    keys = torch.from_numpy(generator(seed, Stream.SET_NULL).integers(0, 2**63, draws))
    for part in keys.split(max(1, block // max(1, size.numel()))):
        null = answers.new_zeros(len(part), size.numel())
        for position in range(min(codebook.phantoms, longest)):
            a = answers[position].flatten(1)
            phantoms, own = codebook.redraw(position, part)
            weights = contrast(phantoms).to(a)
            null.addmm_(weights, a, alpha=-1)
            among = (own < longest).nonzero()[:, 0]  # draws in which it is not a phantom that the unit holds
            under_own = torch.einsum("sqpn,nsq->psq", held, answers[position]).flatten(1)
            less = weights[among] @ a - under_own[own[among]]
            null[among] += torch.where(own[among, None] < size.flatten(), less, 0)
        exceed += (null >= (total - _TIE * deviation).flatten()).sum(0).reshape(size.shape)
    testable = (size > 0) & (size <= min(codebook.phantoms, longest))
    return total, _standardise(total, deviation), torch.where(testable, (1 + exceed) / (1 + draws), torch.nan)


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
