"""The judge of p-values: the same tails by draws, which approximate nothing and are dear.

Codewords are drawn of the tilted law under which the score is to be expected, each with the weight that takes the tilt
back, so that a p of 1e-12 needs no more of them than one of 0.1.
"""

import math
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.attribution.significance import COUNTED, TestSettings, benjamini_hochberg
from ddattr.attribution.tails import tilted
from ddattr.codebook import ORTHOGONAL, Codebook
from ddattr.diffusion.noise import Check, Stream, generator

_DRAWS = 4000  # of a test: a standard error of 2 to 5 % of p
_SETS, _LARGEST, _FEWER = 8, 256, 1000  # sets of a kind, their units at most, and draws: a set's cost its size
_BLOCK = 1 << 22  # draws at once, over tests


def verification(
    adjusted: Callable[[Tensor, Tensor], Tensor],
    z: Float[Tensor, "units q"],
    p: Float[Tensor, "units q"],
    codebook: Codebook,
    seeds: Int[Tensor, "q"],
    settings: TestSettings,
) -> pd.DataFrame | None:
    """verified.csv: a row a query and unit that passes, or was drawn by seed, with its p by draws, the standard `error`
    of that, and the `ratio` of p to it. None where p was counted, and needs no judge, or is a t-test's, and has none.

    Args:
        adjusted: answers that were tested, of pairs of a unit and a query (`Streamed.pairs`).
    """
    if codebook.capacity <= COUNTED or codebook.design == ORTHOGONAL:
        return None
    asked = benjamini_hochberg(p) <= settings.level
    order = generator(settings.seed, Stream.VERIFICATION, step=Check.UNITS).permutation(p.numel())[: settings.verified]
    asked.view(-1)[torch.from_numpy(order)] = True
    queries, units = asked.T.nonzero(as_tuple=True)
    found, error = drawn(adjusted(units, queries)[:, None], z[units, queries], codebook.weight, settings.seed)
    table = {"query": seeds[queries], "unit": units, "p_value": p[units, queries], "drawn": found, "error": error}
    frame = pd.DataFrame({name: of.numpy() for name, of in table.items()})
    return frame.assign(ratio=lambda t: t.p_value / t.drawn, set="")


def verification_of_sets(
    names: Sequence[str],
    sets: Int[Tensor, "sets q size"],
    adjusted: Callable[[Tensor], Tensor],
    z: Float[Tensor, "sets q"],
    p: Float[Tensor, "sets q"],
    codebook: Codebook,
    seeds: Int[Tensor, "q"],
    settings: TestSettings,
) -> pd.DataFrame:
    """Rows of verified.csv for at most 8 sets, by seed, of those with p <= level and 2 to 256 units; of sets, the
    saddlepoint's p is never counted. None of orthogonal words, whose p no draw of words has.

    Args:
        names: of the sets.
        adjusted: answers of units of some sets, as they were tested (`Streamed.sets`).
    """
    size = (sets >= 0).sum(-1)
    eligible = (p <= settings.level) & (size > 1) & (size <= _LARGEST) & (codebook.design != ORTHOGONAL)
    order = torch.from_numpy(generator(settings.seed, Stream.VERIFICATION, step=Check.SETS).permutation(p.numel()))
    chosen = order[eligible.flatten()[order]][:_SETS].sort().values
    s, q = chosen // p.shape[1], chosen % p.shape[1]
    held = sets[s][..., : int(size.flatten()[chosen].max()) if len(chosen) else 1]
    found, error = (z[s, q],) * 2
    if len(s):
        numbers = (adjusted(held) * (held >= 0))[:, torch.arange(len(s)), q].transpose(1, 2)
        found, error = drawn(numbers, z[s, q], codebook.weight, settings.seed, _FEWER)
    table = {"query": seeds[q], "unit": -torch.ones_like(s), "p_value": p[s, q], "drawn": found, "error": error}
    frame = pd.DataFrame({name: of.numpy() for name, of in table.items()})
    return frame.assign(ratio=lambda t: t.p_value / t.drawn, set=[names[int(i)] for i in s])


def drawn(
    numbers: Float[Tensor, "n size tests"], z: Float[Tensor, "tests"], weight: int, seed: int = 0, draws: int = _DRAWS
) -> tuple[Float[Tensor, "tests"], Float[Tensor, "tests"]]:
    """(p, its standard error) of what `tails.saddlepoint` takes; unbiased. A test's does not depend on the others.

    Source: Chen, Dempster & Liu 1994, Biometrika 81 (conditional Bernoulli draws); Siegmund 1976 (the tilt).
    """
    size = numbers.shape[1]
    uniform = generator(seed, Stream.VERIFICATION, step=Check.CODEWORDS).random((size, len(numbers), draws))
    parts = torch.arange(len(z)).split(max(1, _BLOCK // draws))
    found = [_drawn(numbers[..., part], z[part], weight, torch.from_numpy(uniform)) for part in parts]
    p, error = (torch.cat(of) for of in zip(*found, strict=True))
    return p, error


def _drawn(numbers: Tensor, z: Tensor, weight: int, uniform: Float[Tensor, "size n draws"]) -> tuple[Tensor, Tensor]:
    a, tilt, _ = tilted(numbers, z, weight)
    tilt = tilt.clamp_min(0)  # below the mean, bare draws tell most
    total, log_mass = z.new_zeros(uniform.shape[2], len(z)), torch.zeros_like(z)
    for unit, draws in zip(a.unbind(1), uniform, strict=True):
        ways = _ways(tilt * unit, weight)
        left = torch.full_like(total, weight, dtype=torch.long)
        for k, u in enumerate(draws):
            taken = tilt * unit[k] + _of(ways[k + 1], left - 1) - _of(ways[k], left)
            takes = u[:, None] < taken.exp()
            total += takes * unit[k]
            left -= takes.long()
        log_mass += ways[0, weight] - math.log(math.comb(len(a), weight))
    likelihood = (log_mass - tilt * total).exp() * (total >= z - 1e-9)
    return likelihood.mean(0), likelihood.std(0) / math.sqrt(len(likelihood))


def _ways(logits: Float[Tensor, "n tests"], weight: int) -> Float[Tensor, "start most tests"]:
    """Log of the summed odds of all ways to take j of the members from k on."""
    n, tests = logits.shape
    ways = logits.new_full((n + 1, weight + 1, tests), -torch.inf)
    ways[:, 0] = 0
    for k in reversed(range(n)):
        ways[k, 1:] = torch.logaddexp(ways[k + 1, 1:], logits[k] + ways[k + 1, :-1])
    return ways


def _of(ways: Float[Tensor, "most tests"], left: Tensor) -> Tensor:
    """At every draw's own number; none are left of a negative one."""
    return torch.where(left < 0, -torch.inf, ways.gather(0, left.clamp_min(0)))
