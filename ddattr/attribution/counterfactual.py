"""Counterfactual pictures: the recorded noise replayed under an ensemble that never saw a unit."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.codebook import ablation
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.process import ReverseStep
from ddattr.ensemble.ensemble import Ensemble


def factual(
    ensemble: Ensemble, seeds: Sequence[int], reverse: list[ReverseStep], shape: Sequence[int], device: str = "cpu"
) -> Float[Tensor, "q c h w"]:
    """Pictures of the whole ensemble: y(u_0, eps) of eq. 10 of the slides."""
    return ensemble.pictures(ensemble.uniform[None], seeds, reverse, shape, device)[0]


def counterfactual(
    ensemble: Ensemble,
    codewords: Bool[Tensor, "units n"] | Bool[Tensor, "units q n"],
    seeds: Sequence[int],
    reverse: list[ReverseStep],
    shape: Sequence[int],
    device: str = "cpu",
    units_per_pass: int = 64,
) -> Float[Tensor, "units q c h w"]:
    """Exact counterfactuals of units with these codewords, on the tapes of seeds.

    Args:
        codewords: of the same units for all queries, or of each query's own.
        units_per_pass: units replayed together; bounds memory.
    Raises:
        ValueError: a codeword leaves no member that never saw the unit.
    """
    return ablated(ensemble, codewords, noise_tape(seeds, len(reverse), shape).to(device), reverse, units_per_pass)


def ablated(
    ensemble: Ensemble,
    codewords: Bool[Tensor, "units n"] | Bool[Tensor, "units q n"],
    tape: Float[Tensor, "tape q c h w"],
    reverse: list[ReverseStep],
    units_per_pass: int = 64,
) -> Float[Tensor, "units q c h w"]:
    """Exact counterfactuals y(u_-i, eps) on any tape (eq. 3 and 4 of the slides, under eq. 9).

    Raises:
        ValueError: a codeword leaves no member that never saw the unit.
    """
    if codewords.all(-1).any():
        raise ValueError("counterfactual: a unit was seen by every member, so that none is left to replay it.")
    return torch.cat([ensemble.replay(w, tape, reverse) for w in ablation(codewords).split(units_per_pass)])


def ablated_each(
    ensemble: Ensemble,
    codewords: Bool[Tensor, "all n"],
    units: Int[Tensor, "k q"],
    tape: Float[Tensor, "tape q c h w"],
    reverse: list[ReverseStep],
    known: tuple[Int[Tensor, "units"], Float[Tensor, "units q c h w"]],
    units_per_pass: int = 64,
) -> Float[Tensor, "k q c h w"]:
    """The same of units of every query's own, each replayed once, and not at all where it is known.

    Args:
        codewords: of all units.
        known: units, sorted, and their counterfactuals of all queries.
    """
    queries = torch.arange(units.shape[1]).expand(units.shape)
    pairs, places = torch.stack([units, queries]).flatten(1).unique(dim=1, return_inverse=True)
    slot = torch.searchsorted(known[0], pairs[0].contiguous()).clamp_max(len(known[0]) - 1)
    found = known[1][slot, pairs[1]]
    for new in (known[0][slot] != pairs[0]).nonzero()[:, 0].split(units_per_pass * units.shape[1]):
        unit, query = pairs[:, new]
        weights = ablation(codewords[unit])[None]
        found[new] = ensemble.at(query).replay(weights, tape[:, query], reverse)[0]
    return found[places].unflatten(0, units.shape)
