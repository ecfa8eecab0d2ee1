"""The trained models on the queries: every method's scores, and what the ground truth says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddattr.attribution.datamodel import subset_means
from ddattr.attribution.loss import residual_gram
from ddattr.data.datamodule import UnitDataModule
from ddattr.ensemble.ensemble import Ensemble
from ddattr.meter import Meter
from ddattr.validation.measurement import Measurement
from ddattr.validation.methods import IN_PART, IN_PART_BESIDE_ONE, OF_LOSS, OF_PICTURES
from ddattr.validation.part import Part
from ddattr.validation.retraining import Training, Validation
from ddattr.validation.scores import Peers, datamodels, from_table, of_denoising, of_loss, of_part, of_real

Scores = dict[str, dict[str, Tensor]]  # kind of query -> method -> (units, q)


@dataclass
class Bench:
    """Everything that a validation looks at.

    Args:
        plan: which models there are.
        queries: what they are asked.
        data: the units.
        ensemble: the members.
        network: loads a model of the ground truth.
        influence: influence.parquet of the attribution.
        response: its Jacobian, (n, q, *image).
        denoised: what its members denoise the generated pictures to, (n, q, *image); p-values are made of it.
        extractor: of features.
        level: of significance.
        phantoms: most phantoms in a unit's null.
        background: share of the members' variance put down to other units when one is tested.
        neighbourhoods: numbers of nearest units that are tested as sets.
    """

    plan: Validation
    queries: Measurement
    data: UnitDataModule
    ensemble: Ensemble
    network: Callable[[Training], nn.Module]
    influence: pd.DataFrame
    response: Tensor
    denoised: Tensor
    extractor: nn.Module
    level: float = 0.05
    phantoms: int = 100_000
    background: float = 0.5
    neighbourhoods: Sequence[int] = (1,)

    def __post_init__(self) -> None:
        self.words = self.plan.codebook.codewords(torch.arange(self.plan.codebook.units))
        self.seed = self.plan.seed
        self._pictures: dict[str, Tensor] = {}

    def pictures(self, model: Training) -> Float[Tensor, "q *image"]:
        """Pictures of a model of the ground truth alone; kept, as removals of one unit are groups of one, too."""
        if model.name not in self._pictures:
            self._pictures[model.name] = self.queries.pictures([self.network(model)])
        return self._pictures[model.name]

    @cached_property
    def gram(self) -> Float[Tensor, "asked n n"]:
        """Gram of the members' residuals on all queries: their loss under any weights."""
        return self.queries.gram(self.ensemble)

    @cached_property
    def denoised_real(self) -> Float[Tensor, "n real *image"]:
        """What the members denoise the real pictures to."""
        return self.queries.denoised(self.ensemble, self.queries.real)

    @cached_property
    def reweighted(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the self LDS, as `Measurement.reweighted` gives it."""
        count = max(16, self.plan.halves)
        return self.queries.reweighted(self.ensemble, self.response, self.words, self.data.unit_images, count)

    @cached_property
    def parts(self) -> list[tuple[Part, int, Tensor]]:
        """Sub-ensembles in several orders, the whole one first: (part, order, its Jacobian)."""
        n, found = len(self.ensemble), []
        for size in sorted({n, *(size for size in self.plan.members_sizes if size < n)}, reverse=True):
            for order in range(self.plan.orders if size < n else 1):
                part = Part.draw(size, self.words, self.seed, order)
                networks = self.networks(part)
                response = self.response if size == n else self.queries.jacobian(networks, self.plan.members_per_step)
                found.append((part, order, response))
        return found

    def networks(self, part: Part) -> list[nn.Module]:
        """Members of a part."""
        return [self.ensemble.members[k] for k in part.members.tolist()]

    def prepare(self) -> None:
        """Computes, and keeps, what the members alone can tell; the other models may still be in training."""
        if self.plan.halves:
            _ = self.reweighted, self.gram
        if self.plan.units and self.plan.halves:
            _ = self.parts

    def score(self) -> tuple[Scores, dict[str, Any]]:
        """Scores of all methods by kind of query, a peer's at all it tried; what was tuned, and how long it took."""
        asked, notes, images = self.queries, {}, self.data.unit_images
        made: Scores = {"generated": from_table(self.influence, asked.seeds)}
        if "real" in asked.kinds():
            made["real"] = of_real(asked.real, images, self.seed)
            made["real"] |= of_denoising(self.denoised_real, asked.real, images, self.plan.codebook, self.background)
        *tuning, full = self.plan.scored_by()
        tuning = tuning or [full]  # nothing is tuned then
        peers = Peers(
            self.network(full),
            self.data.images,
            self.data.unit_of,
            asked.asked,
            asked.process,
            asked.times,
            asked.noise,
            self.seed,
        )
        everywhere = {"feature": peers.features(self.extractor)}
        targets = -asked.losses([self.network(model) for model in tuning])
        for method in self.plan.peers:
            everywhere[method], notes[method] = peers.score(method, targets, torch.stack([m.units for m in tuning]))
            print(f"validate: {method} scored in {peers.meter.seconds[method]:.0f} s {notes[method]}", flush=True)
        surrogate = everywhere["dtrak" if "dtrak" in everywhere else "feature"]
        with peers.meter.measure(*OF_LOSS):
            everywhere |= of_loss(self.gram, self.words, peers.found, surrogate)
        with peers.meter.measure(*OF_PICTURES):
            apart = -asked.distances(list(self.ensemble.members))
            units, pictures = peers.found["features"]
            near = {"features": (units, pictures[: len(asked.seeds)])}
            made["generated"]["member_picture"] = subset_means(apart, self.words)
            made["generated"]["datamodel_picture"] = datamodels(apart, self.words, near)["datamodel"]
        for kind, where in asked.kinds().items():
            given = {name: (units, pictures[where]) for name, (units, pictures) in peers.found.items()}
            made[kind] |= self.scores_of_part(asked.asked[where], given, peers.meter)
        return {
            kind: made[kind] | {method: value[:, where] for method, value in everywhere.items()}
            for kind, where in asked.kinds().items()
        } | {"tried": peers.tried}, {"tuned": notes, "seconds": peers.meter.seconds, "memory_mb": peers.meter.memory_mb}

    def scores_of_part(
        self, pictures: Tensor, features: dict[str, tuple[Tensor, Tensor]], meter: Meter
    ) -> dict[str, Tensor]:
        """Scores of pictures by as many members as the tuned peers' trainings would buy: METHOD@m.

        Those that ask no replay, as if these members were all; of one member fewer where gradients of the model of all
        units are given, for datamodels that use these.

        Args:
            features: of the units and of the pictures, by kind.
            meter: on which what they cost is booked.
        """
        found: dict[str, Tensor] = {}
        beside = "trak" in features
        for methods in (IN_PART, *([IN_PART_BESIDE_ONE] if beside else [])):
            if not (size := self.plan.affordable(methods[0])):
                continue
            with meter.measure(*(f"{method}@{size}" for method in methods)):
                part, asked = Part.draw(size, self.words, self.seed), self.queries
                ensemble = Ensemble(self.networks(part))
                gram = residual_gram(ensemble, asked.process, pictures, asked.times, asked.noise)
                scored = datamodels(-gram.diagonal(dim1=1, dim2=2).T, part.bits, features)
                if methods is IN_PART:
                    scored |= of_part(
                        part, asked.denoised(ensemble, pictures), gram, pictures, self.data.unit_images, self.background
                    )
                found |= {f"{method}@{size}": scored[method] for method in methods}
        return found

    @cached_property
    def truth(self) -> Float[Tensor, "seeds units q *image"]:
        """Displacements of the truth's ensemble by retraining without each of the truth's units, at every seed.

        Of its m members more saw one unit than another, by the accident of codewords: displacements are scaled to the
        m h / n that see a unit on average.
        """
        plan, seeds = self.plan, []
        usual = len(plan.truth_members) * plan.codebook.weight / plan.codebook.members
        for r in range(plan.replicates):
            base = {m.member: self.network(m) for m in plan.bases() if m.replicate == r}
            base = base or {
                k: self.ensemble.members[k] for k in plan.truth_members
            }  # the same models, at the first seed
            factual = self.queries.pictures(list(base.values()))
            moved = []
            for unit in plan.truth_units.tolist():
                changed = {m.member: self.network(m) for m in plan.unit(unit) if m.replicate == r}
                displacement = self.queries.pictures(list((base | changed).values())) - factual
                moved.append(displacement * usual / len(changed))
            seeds.append(torch.stack(moved))
        return torch.stack(seeds)

    @cached_property
    def groups_truth(self) -> Float[Tensor, "seeds groups q *image"]:
        """Displacements of the model of all units by retraining without each group, at every seed."""
        plan, seeds = self.plan, []
        for r in range(plan.replicates):
            factual = self.pictures(plan.full(r))
            moved = [self.pictures(model) - factual for model in plan.group_models(r)]
            seeds.append(torch.stack(moved))
        return torch.stack(seeds)

    @cached_property
    def half_targets(self) -> dict[str, Float[Tensor, "seeds subsets asked"]]:
        """Minus the loss, and minus the distance of the picture to the factual, of every half-data model."""
        asked, plan = self.queries, self.plan
        found: dict[str, list[Tensor]] = {"loss": [], "distance": []}
        for r in range(plan.replicates):
            networks = [self.network(model) for model in plan.half_models(r)]
            found["loss"].append(-asked.losses(networks))
            found["distance"].append(-asked.distances(networks))
        return {name: torch.stack(values) for name, values in found.items()}
