"""Ground truth by retraining: which models to train, and what their difference says of a unit.

Common random numbers: a model that is retrained without a unit has the initialisation, noise, timesteps and candidate
pictures of the model that saw it; only the removed unit's draws fall to the next candidate. The difference of their
pictures on one tape is the unit's, not the seed's. Other training seeds (replicates) say how much of it is.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ddattr.diffusion.noise import Stream, generator
from ddattr.validation.methods import IN_PART_BESIDE_ONE, TUNED
from ddattr.validation.sizes import Sizes


class Training(NamedTuple):
    """A model of the ground truth. `units` (N,) are those it may see; `member` names whose draws, None the common."""

    name: str
    units: Tensor
    member: int | None = None
    replicate: int = 0


@dataclass(frozen=True)
class Validation(Sizes):
    """The models that a validation of these sizes needs; arguments and errors are those of `Sizes`."""

    @property
    def truth_members(self) -> list[int]:
        """Members of the truth's ensemble, drawn by seed."""
        order = generator(self.seed, Stream.SUBSETS).permutation(self.codebook.members)
        return sorted(order[: self.members].tolist())

    @property
    def truth_units(self) -> Int[Tensor, "units"]:
        """Units of the truth, drawn by seed among those that a member of the truth's ensemble saw.

        Raises:
            ValueError: there are fewer than asked for.
        """
        seen = self.codebook.codewords(torch.arange(self.codebook.units))[:, self.truth_members].any(1)
        order = torch.from_numpy(generator(self.seed, Stream.SUBSETS, step=1).permutation(self.codebook.units))
        chosen = order[seen[order]][: self.units]
        if len(chosen) < self.units:
            raise ValueError(
                f"validation: units={self.units}, but {self.members} members saw {len(chosen)}. "
                "Set validation.members higher or validation.units lower."
            )
        return chosen.sort().values

    def bases(self) -> list[Training]:
        """The truth's ensemble at every training seed; at the first it is the ensemble's own members, unless forked."""
        first, seeds = 1 if self.fork is None else 0, self.replicates if self.units else 0
        return [
            Training(f"members/{k:03d}-seed-{r}", self.codebook.subset(k), k, r)
            for r in range(first, seeds)
            for k in self.truth_members
        ]

    def without(self, name: str, removed: Bool[Tensor, "units"]) -> list[Training]:
        """The truth's members that saw any of the removed units, retrained without them, at every seed.

        Raises:
            ValueError: a member would be left without data.
        """
        models = []
        for k in self.truth_members:
            column = self.codebook.subset(k)
            if not (column & removed).any():
                continue
            if not (column & ~removed).any():
                raise ValueError(
                    f"retrain: without {name} member {k} has no data left. Remove less, or use more units or a "
                    "larger codebook.weight."
                )
            models += [Training(f"{name}/{k:03d}-seed-{r}", column & ~removed, k, r) for r in range(self.replicates)]
        return models

    def unit(self, unit: int) -> list[Training]:
        """Models without one unit."""
        self.codebook.codewords(torch.tensor([unit]))  # refuses a unit that does not exist
        return self.without(f"unit-{unit:05d}", torch.arange(self.codebook.units) == unit)

    def several(self, units: Sequence[Any]) -> list[Training]:
        """Models without several units at once, the k nearest of a picture perhaps.

        Raises:
            ValueError: they are no whole numbers, or one does not exist.
        """
        if not units or any(type(unit) is not int for unit in units):
            raise ValueError(f"retrain: unit={list(units)}, expected numbers of units. Set 'unit=[3,17]'.")
        self.codebook.codewords(torch.tensor(units))  # refuses a unit that does not exist
        removed = torch.isin(torch.arange(self.codebook.units), torch.tensor(units))
        return self.without(f"units/{named(removed)}", removed)

    def set(self, name: str) -> list[Training]:
        """Models without a whole set, named as in sets.parquet: `label:3`.

        Raises:
            ValueError: there is no such set.
        """
        kind, _, which = name.partition(":")
        if (
            kind not in self.sets
            or not (which.isascii() and which.isdigit())
            or not (self.sets[kind] == int(which)).any()
        ):
            known = ", ".join(f"{kind}:{int(of.min())}" for kind, of in self.sets.items())
            raise ValueError(f"retrain: no set {name!r}, expected a unit's number, several, or one like {known}.")
        return self.without(name.replace(":", "-"), self.sets[kind] == int(which))

    def full(self, replicate: int) -> Training:
        """The model of all units: what groups and best units are removed from."""
        return Training(f"full/seed-{replicate}", torch.ones(self.codebook.units, dtype=torch.bool), None, replicate)

    def half_masks(self) -> Bool[Tensor, "subsets units"]:
        """Random halves of the units: those of the LDS, then those for tuning."""
        masks = torch.zeros(self.halves + self.tuning, self.codebook.units, dtype=torch.bool)
        for j, mask in enumerate(masks):
            order = generator(self.seed, Stream.SUBSETS, step=2, attempt=j).permutation(len(mask))
            mask[torch.from_numpy(order[: len(mask) // 2])] = True
        return masks

    def half_models(self, replicate: int) -> list[Training]:
        """A model of each half of the LDS."""
        masks = self.half_masks()[: self.halves]
        return [Training(f"halves/{j:03d}-seed-{replicate}", mask, None, replicate) for j, mask in enumerate(masks)]

    def tuning_models(self) -> list[Training]:
        """A model of each half for tuning."""
        masks = self.half_masks()[self.halves :]
        return [Training(f"tuning/{j:03d}-seed-0", mask, None, 0) for j, mask in enumerate(masks)]

    def group_models(self, replicate: int) -> list[Training]:
        """A model without each group."""
        return [
            Training(f"without-{self.groups}-{g}/seed-{replicate}", self.group_of != g, None, replicate)
            for g in self.group_names()
        ]

    def scored_by(self) -> list[Training]:
        """The models that scores are made with; they are trained first."""
        return [*(self.tuning_models() if set(TUNED) & set(self.peers) else []), self.full(0)]

    def affordable(self, method: str) -> int:
        """Members that METHOD@affordable has: as many as the trainings of a tuned peer would buy, less the one that
        METHOD itself asks, if it does; 0 when these are no ensemble, or no part of it."""
        trainings = len(self.scored_by()) - (method in IN_PART_BESIDE_ONE)
        members = trainings if self.fork is None else int((trainings - 1) / self.fork)  # one is the base
        return members if 3 <= members < self.codebook.members else 0

    def removed_by(self) -> list[str]:
        """Methods whose best units are removed, as scores are named: METHOD@m is of m members."""
        named = []
        for method in dict.fromkeys(self.removal_methods):
            name, at, _ = method.partition("@")
            named.append(f"{name}@{self.affordable(name)}" if at else method)
        return [name for name in named if not name.endswith("@0")]

    def models(self) -> list[Training]:
        """All models that depend on no score, seed by seed; none when nothing is asked of them."""
        if not self.retrains:
            return []
        found = self.scored_by()
        units = [training for unit in self.truth_units.tolist() for training in self.unit(unit)]
        for r in range(self.replicates):
            found += [self.full(r)] if r > 0 and self.groups is not None else []
            found += self.half_models(r) + self.group_models(r)
            found += [model for model in self.bases() + units if model.replicate == r]
        return found


def named(removed: Bool[Tensor, "units"]) -> str:
    """A name for a set of units: how many, and a digest of which."""
    return f"{int(removed.sum()):04d}-{hashlib.sha256(removed.numpy().tobytes()).hexdigest()[:12]}"
