"""What a validation was asked for: the sizes of its ground truths, checked before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from jaxtyping import Int
from torch import Tensor

from ddattr.attribution.agreement import ENOUGH
from ddattr.codebook import MAX_MEMBERS, Codebook
from ddattr.validation.methods import KNOWN, PEERS


@dataclass(frozen=True)
class Sizes:
    """The keys of the config group `validation`, and what they are sizes of.

    Args:
        codebook: of the ensemble.
        sets: for every kind of set the set of each unit, (N,), as `UnitDataModule.partitions` gives them.
        seed: of the units, members and subsets that are drawn, and of the models' draws.
        units: units whose retraining is the truth, the same for all queries; 0 leaves out the tables of it.
        members: members that are retrained without them: the truth's own small ensemble.
        replicates: training seeds; replicate r trains with seed + r.
        halves: half-data models of the LDS, never used for a score; 0 leaves it out.
        tuning: further ones, at one seed, on which whatever has a damping or a projection is tuned.
        groups: kind of sets that are left out one at a time, `unit` for every unit itself; None for none.
        real: held-out pictures that are queries, too: of the LDS, the groups and the measures' power.
        removed: numbers of best units that are removed for remove-and-retrain.
        removal_queries: queries that get models of their own for it; 0 leaves it out.
        removal_methods: whose best units are removed; a random set is always among them. METHOD@affordable is METHOD of
            as many members as a tuned peer's trainings would buy, left out where these are no part of the ensemble.
        peers: methods of one model of all units: gradient_dot, unlearning, trak, dtrak.
        members_sizes: sizes of sub-ensembles for the curves against n, those beyond it left out; the whole one is
            always among them.
        orders: sub-ensembles of each size.
        members_per_step: of their Jacobians.
        draws: timesteps, each with its noise, at which a picture's loss is measured.
        fork: a member's steps as a share of a whole training, when members are forks of a base; the truth's never are.
    Raises:
        ValueError: a size is out of range; says what would be possible.
    """

    codebook: Codebook
    sets: dict[str, Tensor] = field(repr=False)
    seed: int
    units: int = 12
    members: int = 6
    replicates: int = 3
    halves: int = 20
    tuning: int = 8
    groups: str | None = "label"
    real: int = 32
    removed: Sequence[int] = (5, 20)
    removal_queries: int = 6
    removal_methods: Sequence[str] = ("jvp", "pixel")
    peers: Sequence[str] = PEERS
    members_sizes: Sequence[int] = ()
    orders: int = 2
    members_per_step: int | None = 2
    draws: int = 32
    fork: Fraction | None = None

    def __post_init__(self) -> None:
        n, units = self.codebook.members, self.codebook.units
        _between("members", self.members, 1, n)
        _between("units", self.units, 0, units)
        _between("replicates", self.replicates, 1, 100)
        _between("halves", self.halves, 0, 10_000)
        _between("tuning", self.tuning, 4, 10_000)
        _between("real", self.real, 0, 10**6)
        _between("removal_queries", self.removal_queries, 0, 10**6)
        _between("orders", self.orders, 1, 1000)
        _between("draws", self.draws, 1, 10**6)
        for size in self.removed if self.removal_queries else ():
            _between("removed", size, 1, units - 1)
        for size in self.members_sizes:
            _between("members_sizes", size, 3, MAX_MEMBERS)
        for peer in self.peers:
            if peer not in PEERS:
                raise ValueError(f"validation: peers={peer}, expected {', '.join(PEERS)}. Set validation.peers.")
        for method in self.removal_methods if self.removal_queries else ():
            if method not in KNOWN:
                raise ValueError(
                    f"validation: removal_methods={method}, expected some of {', '.join(KNOWN)}. "
                    "Set validation.removal_methods."
                )
            if method in PEERS and method not in self.peers:
                raise ValueError(
                    f"validation: removal_methods={method}, expected it among peers={list(self.peers)} "
                    "too. Add it to validation.peers."
                )
        if self.groups not in (None, "unit", *self.sets):
            known = ", ".join(["unit", *self.sets, "null"])
            raise ValueError(f"validation: groups={self.groups}, expected {known}. Set validation.groups.")
        if self.groups is not None and len(self.group_names()) < 2:
            raise ValueError(f"validation: there is one {self.groups}, expected 2 or more. Set validation.groups=null.")

    def check_intervals(self, queries: int, held_out: int) -> None:
        """Refuses what has too few values for its tables' intervals: before models are trained for it.

        Args:
            queries: generated pictures that are asked about.
            held_out: pictures that `real` has to choose from.
        Raises:
            ValueError: fewer than 5 units, subsets or queries, or one member, which is no ensemble.
        """
        asked = self.units or self.halves or self.removal_queries or self.groups is not None
        counts = {
            "validation.units": self.units,
            "validation.halves": self.halves,
            "validation.removal_queries": self.removal_queries,
            "attribution.queries": queries if asked else 0,
            "validation.real" if self.real <= held_out else "data.holdout": min(self.real, held_out) if asked else 0,
        }
        for key, count in counts.items():
            group, _, name = key.partition(".")
            if 0 < count < ENOUGH:
                raise ValueError(
                    f"{group}: {name}={count} is too few for an interval, expected {ENOUGH} or more"
                    f"{'' if name == 'queries' else ', or 0'}. Set {key}."
                )
        if self.units and self.members < 2:
            raise ValueError(
                f"validation: members={self.members} is too few for an interval: it would be of "
                "one network, and not of an ensemble. Set validation.members to 2 or more."
            )

    @property
    def group_of(self) -> Int[Tensor, "units"]:
        """The set of every unit, of the kind `groups`."""
        return torch.arange(self.codebook.units) if self.groups == "unit" else self.sets[str(self.groups)]

    def group_names(self) -> list[int]:
        """Sets of the kind `groups`."""
        return [] if self.groups is None else self.group_of.unique().tolist()

    @property
    def retrains(self) -> bool:
        """Whether anything is asked that takes other models than the members."""
        return bool(self.units or self.halves or self.removal_queries or self.peers or self.groups is not None)


def _between(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"validation: {name}={value}, expected {low} to {high}. Set validation.{name}.")
