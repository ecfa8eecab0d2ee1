"""Ground truth by retraining: which models to train.

Common random numbers: a model that is retrained without a unit has the initialisation, noise, timesteps and candidate
pictures of the model that saw it; only the removed unit's draws fall to the next candidate. The difference of their
pictures on one tape is the unit's, not the seed's. Other training seeds (replicates) say how much of it is. None is the
members' own, nor that of the models that peers ask: what shares a seed agrees for no reason that a unit has. At that
seed, replicate 0, models without each group are a method: `leave_one_out`, unless it is too dear.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ddattr.attribution.agreement import ENOUGH
from ddattr.attribution.methods import EQUAL_COST, Family, keys, method_of, nameable
from ddattr.codebook import MAX_MEMBERS, Codebook
from ddattr.diffusion.noise import Stream, Subset, generator
from ddattr.validation.training import Training, digest


@dataclass(frozen=True)
class Plan:
    """The config group `validation`: which models there are to train, and how large its tables are.

    Args:
        codebook: of the ensemble.
        sets: for every kind of set the set of each unit, (N,), as `UnitDataModule.partitions` gives them.
        seed: of the units, members and subsets that are drawn, and of the models' draws.
        retrained_units: units whose retraining is the truth, the same for all queries; 0 leaves out the tables of it.
        retrained_members: members that are retrained without them: the truth's own small ensemble.
        replicates: training seeds of the truth; replicate r, from 1 on, trains with seed + r. The members have seed.
        lds_subsets: half-data models of the LDS, never used for a score; 0 leaves it out.
        tuning_subsets: further ones, at one seed, on which whatever has a damping or a projection is tuned.
        groups: kind of sets that are left out one at a time, `unit` for every unit itself; None for none. At every seed
            of the truth, and at the members' as the method `leave_one_out`.
        left_out: how many of them, drawn by seed; None for all. Where a training is dear, some stand for all.
        leave_one_out: whether they are left out at the members' seed as well, to have that method.
        held_out_queries: pictures that no member saw and that are queries, too: of the LDS, the groups and the power.
        removal_sizes: numbers of best units that are removed for remove-and-retrain.
        removal_queries: queries that get models of their own for it; 0 leaves it out.
        removal_methods: whose best units are removed; a random set is always among them. METHOD@equal_cost is METHOD of
            as many members as a tuned peer's trainings would buy, left out where these are no part of the ensemble.
        peers: methods of one model of all units: gradient_dot, unlearning, trak, dtrak.
        ensemble_sizes: sizes of sub-ensembles for the curves against n, those beyond it left out; the whole one is
            always among them.
        ensemble_orders: sub-ensembles of each size.
        members_per_step: of their Jacobians.
        draws: timesteps, each with its noise, at which a picture's loss is measured.
        fork: a member's steps as a share of a whole training, when members are forks of a base; the truth's never are.
    Raises:
        ValueError: a size is out of range; says what would be possible.
    """

    codebook: Codebook
    sets: Mapping[str, Tensor] = field(repr=False)
    seed: int
    retrained_units: int = 12
    retrained_members: int = 6
    replicates: int = 3
    lds_subsets: int = 20
    tuning_subsets: int = 8
    groups: str | None = "label"
    left_out: int | None = None
    leave_one_out: bool = True
    held_out_queries: int = 32
    removal_sizes: Sequence[int] = (5, 20)
    removal_queries: int = 6
    removal_methods: Sequence[str] = ("jvp", "pixel")
    peers: Sequence[str] = tuple(keys(Family.PEER))
    ensemble_sizes: Sequence[int] = ()
    ensemble_orders: int = 2
    members_per_step: int | None = 2
    draws: int = 32
    fork: Fraction | None = None

    def __post_init__(self) -> None:
        n, units = self.codebook.members, self.codebook.units
        for name, low, high in (
            ("retrained_members", 1, n),
            ("retrained_units", 0, units),
            ("replicates", 1, 100),
            ("lds_subsets", 0, 10_000),
            ("tuning_subsets", 4, 10_000),
            ("held_out_queries", 0, 10**6),
            ("removal_queries", 0, 10**6),
            ("ensemble_orders", 1, 1000),
            ("draws", 1, 10**6),
        ):
            _between(name, getattr(self, name), low, high)
        for size in self.removal_sizes if self.removal_queries else ():
            _between("removal_sizes", size, 1, units - 1)
        for size in self.ensemble_sizes:
            _between("ensemble_sizes", size, 3, MAX_MEMBERS)
        self._check_methods()
        if self.groups not in (None, "unit", *self.sets):
            _refuse("groups", self.groups, ", ".join(["unit", *self.sets, "null"]))
        if self.groups is not None:
            count = self.group_count
            if count < 2:
                raise ValueError(
                    f"validation: there is one {self.groups}, expected 2 or more. Set validation.groups=null."
                )
            if self.left_out is not None:
                _between("left_out", self.left_out, 2, count)

    def _check_methods(self) -> None:
        peers = keys(Family.PEER)
        for peer in self.peers:
            if peer not in peers:
                _refuse("peers", peer, ", ".join(peers))
        for method in self.removal_methods if self.removal_queries else ():
            if method not in (known := nameable()):
                _refuse("removal_methods", method, f"some of {', '.join(known)}")
            if method in peers and method not in self.peers:
                raise ValueError(
                    f"validation: removal_methods={method}, expected it among peers={list(self.peers)} too. "
                    "Add it to validation.peers."
                )

    def check_intervals(self, queries: int, held_out: int) -> None:
        """Refuses what has too few values for its tables' intervals: before models are trained for it.

        Args:
            queries: generated pictures.
            held_out: pictures that `held_out_queries` has to choose from.
        Raises:
            ValueError: fewer than 5 units, subsets or queries, or one member, which is no ensemble.
        """
        counts = {
            "validation.retrained_units": self.retrained_units,
            "validation.lds_subsets": self.lds_subsets,
            "validation.removal_queries": self.removal_queries,
        }
        if self.retrained_units or self.lds_subsets or self.removal_queries or self.groups is not None:
            chosen = "validation.held_out_queries" if self.held_out_queries <= held_out else "data.holdout"
            counts |= {"attribution.queries": queries, chosen: min(self.held_out_queries, held_out)}
        for key, count in counts.items():
            group, _, name = key.partition(".")
            if 0 < count < ENOUGH:
                raise ValueError(
                    f"{group}: {name}={count} is too few for an interval, expected {ENOUGH} or more"
                    f"{'' if name == 'queries' else ', or 0'}. Set {key}."
                )
        if self.retrained_units and self.retrained_members < 2:
            raise ValueError(
                f"validation: retrained_members={self.retrained_members} is too few for an interval: it would be of "
                "one network, and not of an ensemble. Set validation.retrained_members to 2 or more."
            )

    # -- what is drawn

    @property
    def retraining_members(self) -> list[int]:
        """Members of the truth's ensemble, drawn by seed."""
        order = generator(self.seed, Stream.SUBSETS, step=Subset.MEMBERS).permutation(self.codebook.members)
        return sorted(order[: self.retrained_members].tolist())

    @property
    def retraining_units(self) -> Int[Tensor, "units"]:
        """Units of the truth, drawn by seed among those that a member of the truth's ensemble saw.

        Raises:
            ValueError: there are fewer than asked for.
        """
        seen = self.codebook.codewords(torch.arange(self.codebook.units))[:, self.retraining_members].any(1)
        order = torch.from_numpy(
            generator(self.seed, Stream.SUBSETS, step=Subset.UNITS).permutation(self.codebook.units)
        )
        chosen = order[seen[order]][: self.retrained_units]
        if len(chosen) < self.retrained_units:
            raise ValueError(
                f"validation: retrained_units={self.retrained_units}, but {self.retrained_members} members saw "
                f"{len(chosen)}. Set validation.retrained_members higher or validation.retrained_units lower."
            )
        return chosen.sort().values

    def half_masks(self) -> Bool[Tensor, "subsets units"]:
        """Random halves of the units: those of the LDS, then those for tuning."""
        masks = torch.zeros(self.lds_subsets + self.tuning_subsets, self.codebook.units, dtype=torch.bool)
        for j, mask in enumerate(masks):
            order = generator(self.seed, Stream.SUBSETS, step=Subset.HALVES, attempt=j).permutation(len(mask))
            mask[torch.from_numpy(order[: len(mask) // 2])] = True
        return masks

    @property
    def group_of(self) -> Int[Tensor, "units"]:
        """The set of every unit, of the kind `groups`."""
        return torch.arange(self.codebook.units) if self.groups == "unit" else self.sets[str(self.groups)]

    def group_names(self) -> list[int]:
        """Sets of the kind `groups` that are left out."""
        if self.groups is None:
            return []
        names = self.group_of.unique()
        order = generator(self.seed, Stream.SUBSETS, step=Subset.GROUPS).permutation(len(names))
        return names[torch.from_numpy(order[: self.left_out])].sort().values.tolist()

    # -- models

    @property
    def seeds(self) -> range:
        """Replicates of the truth."""
        return range(1, self.replicates + 1)

    def bases(self) -> list[Training]:
        """The truth's ensemble at every seed of the truth: members trained again."""
        return [
            Training(f"members/{k:03d}-seed-{r}", self.codebook.subset(k), k, r)
            for r in self.seeds
            if self.retrained_units
            for k in self.retraining_members
        ]

    def without(self, name: str, removed: Bool[Tensor, "units"]) -> list[Training]:
        """The truth's members that saw any of the removed units, retrained without them, at every seed.

        Raises:
            ValueError: a member would be left without data.
        """
        models = []
        for k in self.retraining_members:
            column = self.codebook.subset(k)
            if not (column & removed).any():
                continue
            if not (column & ~removed).any():
                raise ValueError(
                    f"retrain: without {name} member {k} has no data left. Remove less, or use more units or a "
                    "larger codebook.weight."
                )
            models += [Training(f"{name}/{k:03d}-seed-{r}", column & ~removed, k, r) for r in self.seeds]
        return models

    def unit(self, unit: int) -> list[Training]:
        """Models without one unit."""
        self.codebook.check_units([unit])
        return self.without(f"unit-{unit:05d}", torch.arange(self.codebook.units) == unit)

    def several(self, units: Sequence[Any]) -> list[Training]:
        """Models without several units at once, the k nearest of a picture perhaps.

        Raises:
            ValueError: they are no whole numbers, or one does not exist.
        """
        if not units or any(type(unit) is not int for unit in units):
            raise ValueError(f"retrain: unit={list(units)}, expected numbers of units. Set 'unit=[3,17]'.")
        self.codebook.check_units(units)
        removed = torch.isin(torch.arange(self.codebook.units), torch.tensor(units))
        return self.without(f"units/{digest(removed)}", removed)

    def set(self, name: str) -> list[Training]:
        """Models without a whole set, named as in sets.parquet: `label:3`.

        Raises:
            ValueError: there is no such set.
        """
        kind, _, which = name.partition(":")
        numbered = which.isascii() and which.isdigit()
        if kind not in self.sets or not numbered or int(which) not in self.sets[kind].unique().tolist():
            known = ", ".join(f"{kind}:{int(of.min())}" for kind, of in self.sets.items())
            raise ValueError(f"retrain: no set {name!r}, expected a unit's number, several, or one like {known}.")
        return self.without(name.replace(":", "-"), self.sets[kind] == int(which))

    def full(self, replicate: int) -> Training:
        """The model of all units: what groups and best units are removed from."""
        return Training(f"full/seed-{replicate}", torch.ones(self.codebook.units, dtype=torch.bool), None, replicate)

    def half_models(self, replicate: int) -> list[Training]:
        """A model of each half of the LDS."""
        masks = self.half_masks()[: self.lds_subsets]
        return [Training(f"halves/{j:03d}-seed-{replicate}", mask, None, replicate) for j, mask in enumerate(masks)]

    def tuning_models(self) -> list[Training]:
        """A model of each half for tuning."""
        masks = self.half_masks()[self.lds_subsets :]
        return [Training(f"tuning/{j:03d}-seed-0", mask, None, 0) for j, mask in enumerate(masks)]

    def group_models(self, replicate: int) -> list[Training]:
        """A model without each group."""
        return [
            Training(f"without-{self.groups}-{g}/seed-{replicate}", self.group_of != g, None, replicate)
            for g in self.group_names()
        ]

    def scored_by(self) -> list[Training]:
        """The models that scores are made with; they are trained first."""
        return [*(self.tuning_models() if self._tuned else []), self.full(0)]

    @property
    def _tuned(self) -> bool:
        return any(method_of(peer).tuned for peer in self.peers)

    def models(self) -> list[Training]:
        """All models that depend on no score, seed by seed; none when nothing is asked of them."""
        if not self.retrains:
            return []
        found = self.scored_by()
        units = [training for unit in self.retraining_units.tolist() for training in self.unit(unit)]
        found += self.group_models(0) if self.leave_one_out else []
        for r in self.seeds:
            removed = r == 1 and self.removal_queries  # best units, from the model of all at this seed
            found += [self.full(r)] if removed or self.groups is not None else []
            found += self.half_models(r) + self.group_models(r)
            found += [model for model in self.bases() + units if model.replicate == r]
        return found

    def count(self) -> int:
        """How many `models` has, none of which is made: each is a mask of all units.

        Raises:
            ValueError: as `models`.
        """
        if not self.retrains:
            return 0
        seen = self.codebook.codewords(self.retraining_units)[:, self.retraining_members]
        if (seen & (self.codebook.balance[self.retraining_members] == 1)).any():
            return len(self.models())  # which says whose only unit it is
        of_groups = 0 if self.groups is None else self.group_count if self.left_out is None else self.left_out
        bases = self.retrained_members if self.retrained_units else 0
        full = self.replicates if self.groups is not None else min(1, self.removal_queries)
        each = self.lds_subsets + of_groups + bases + int(seen.sum())
        alone = of_groups if self.leave_one_out else 0
        tuning = self.tuning_subsets if self._tuned else 0
        return 1 + tuning + alone + full + self.replicates * each

    @property
    def group_count(self) -> int:
        """Sets of the kind `groups` that there are."""
        return self.codebook.units if self.groups == "unit" else len(self.group_of.unique())

    @property
    def retrains(self) -> bool:
        """Whether anything is asked that takes other models than the members."""
        counts = self.retrained_units or self.lds_subsets or self.removal_queries or self.peers
        return bool(counts) or self.groups is not None

    # -- methods at equal cost

    def equal_cost(self, method: str) -> int:
        """Members that METHOD@equal_cost has: as many as the trainings of a tuned peer would buy, less the one that
        METHOD itself needs, if it does; 0 when these are no ensemble, or no part of it."""
        trainings = len(self.scored_by()) - ("full" in method_of(method).needs)
        members = trainings if self.fork is None else int((trainings - 1) / self.fork)  # one is the base
        return members if 3 <= members < self.codebook.members else 0

    def removed_by(self) -> list[str]:
        """Methods whose best units are removed, as scores are named: METHOD@m is of m members."""
        named = []
        for method in dict.fromkeys(self.removal_methods):
            name = method.removesuffix(EQUAL_COST)
            named.append(method if name == method else f"{name}@{self.equal_cost(name)}")
        return [name for name in named if not name.endswith("@0")]


def _between(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        _refuse(name, value, f"{low} to {high}")


def _refuse(name: str, value: object, expected: str) -> None:
    raise ValueError(f"validation: {name}={value}, expected {expected}. Set validation.{name}.")
