"""The truth: what models that were retrained without units say of the queries."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddattr.validation.plan import Plan
from ddattr.validation.queries import Queries
from ddattr.validation.training import Training


@dataclass
class Truth:
    """Retrained models on the queries, each loaded when it is asked.

    Args:
        plan: which models there are.
        queries: what they are asked.
        network: loads a model.
    """

    plan: Plan
    queries: Queries
    network: Callable[[Training], nn.Module]
    _pictures: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def pictures(self, model: Training) -> Float[Tensor, "q *image"]:
        """Pictures of a model alone; kept, as removals of one unit are groups of one, too."""
        if model.name not in self._pictures:
            self._pictures[model.name] = self.queries.drawn_by([self.network(model)])
        return self._pictures[model.name]

    @cached_property
    def displacements(self) -> Float[Tensor, "seeds units q *image"]:
        """Displacements of the truth's ensemble by retraining without each of the truth's units, at every seed.

        Of its m members more saw one unit than another, by the accident of codewords: displacements are scaled to the
        m h / n that see a unit on average.
        """
        plan, seeds = self.plan, []
        usual = len(plan.retraining_members) * plan.codebook.weight / plan.codebook.members
        for r in plan.seeds:
            base = {m.member: self.network(m) for m in plan.bases() if m.replicate == r}
            factual = self.queries.drawn_by(list(base.values()))
            moved = []
            for unit in plan.retraining_units.tolist():
                changed = {m.member: self.network(m) for m in plan.unit(unit) if m.replicate == r}
                displacement = self.queries.drawn_by(list((base | changed).values())) - factual
                moved.append(displacement * usual / len(changed))
            seeds.append(torch.stack(moved))
        return torch.stack(seeds)

    @cached_property
    def group_displacements(self) -> Float[Tensor, "seeds groups q *image"]:
        """Displacements of the model of all units by retraining without each group, at every seed."""
        return torch.stack([self.without_groups(r) for r in self.plan.seeds])

    @cached_property
    def group_losses(self) -> Float[Tensor, "seeds groups pictures"]:
        """Rise of the loss of the model of all units by retraining without each group, at every seed."""
        return torch.stack([self.losses_without_groups(r) for r in self.plan.seeds])

    def without_groups(self, replicate: int) -> Float[Tensor, "groups q *image"]:
        """Displacements at one seed: of the truth, or the members' own, replicate 0."""
        factual = self.pictures(self.plan.full(replicate))
        return torch.stack([self.pictures(model) - factual for model in self.plan.group_models(replicate)])

    def losses_without_groups(self, replicate: int) -> Float[Tensor, "groups pictures"]:
        """Rise of the loss at one seed."""
        models = [self.plan.full(replicate), *self.plan.group_models(replicate)]
        losses = self.queries.losses([self.network(model) for model in models])
        return losses[1:] - losses[:1]

    @cached_property
    def half_targets(self) -> dict[str, Float[Tensor, "seeds subsets pictures"]]:
        """Minus the loss, and minus the distance of the picture to the factual, of every half-data model."""
        losses, distances = [], []
        for r in self.plan.seeds:
            networks = [self.network(model) for model in self.plan.half_models(r)]
            losses.append(-self.queries.losses(networks))
            distances.append(-self.queries.distances(networks))
        return {"loss": torch.stack(losses), "distance": torch.stack(distances)}
