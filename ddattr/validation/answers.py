"""What the ensemble's members say of the queries: everything that tables take from the members alone."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ddattr.attribution.counterfactual import counterfactual
from ddattr.attribution.estimator import Estimator, draw_members
from ddattr.attribution.influence import directions
from ddattr.attribution.significance import TestSettings
from ddattr.codebook import contrast
from ddattr.data.datamodule import UnitDataModule
from ddattr.diffusion.noise import Stream, Subset, generator
from ddattr.ensemble.ensemble import Ensemble
from ddattr.validation.plan import Plan
from ddattr.validation.queries import Queries


class SubEnsemble(NamedTuple):
    """Some of the members, and their own Jacobian on the generated queries."""

    members: Tensor
    order: int
    jacobian: Tensor


class Reweighted(NamedTuple):
    """The ensemble as if random sets of three units were gone, by weights alone: the targets of the self LDS.

    Shapes: removed (subsets, units), weights (subsets, n); along every query's direction to its nearest unit, minus the
    exact displacement (subsets, q) and minus the first-order one of each unit (units, q).
    """

    removed: Tensor
    weights: Tensor
    exact: Tensor
    first_order: Tensor


@dataclass
class Answers:
    """Members' answers on generated and real queries.

    Args:
        plan: sizes of what is drawn.
        queries: what they are asked.
        data: the units.
        ensemble: the members.
        influence: influence.parquet of the attribution.
        jacobian: its Jacobian, (n, q, *image).
        denoised: what its members denoise the generated pictures to, (n, q, *image); p-values are made of it.
        extractor: of features, of pictures.
        settings: of tests.
    """

    plan: Plan
    queries: Queries
    data: UnitDataModule
    ensemble: Ensemble
    influence: pd.DataFrame
    jacobian: Tensor
    denoised: Tensor
    extractor: nn.Module
    settings: TestSettings

    @property
    def seed(self) -> int:
        return self.plan.seed

    def shown(self, made: Float[Tensor, "*rows d y x"]) -> Float[Tensor, "*rows c h w"]:
        """What members make as pictures: itself, or decoded; not clipped."""
        return self.data.shown(made.flatten(0, -4)).unflatten(0, made.shape[:-3])

    def features(self, made: Float[Tensor, "q d y x"]) -> Float[Tensor, "q features"]:
        """Features of what members make, as it is shown."""
        return self.extractor(self.shown(made).clamp(-1, 1))

    @property
    def seen_extractor(self) -> nn.Module | None:
        """The extractor where it takes what members see; None of latents, which it has no derivative in."""
        return self.extractor if self.data.code is None else None

    @cached_property
    def codewords(self) -> Bool[Tensor, "units n"]:
        return self.plan.codebook.codewords(torch.arange(self.plan.codebook.units))

    @cached_property
    def phantoms(self) -> Bool[Tensor, "phantoms n"]:
        return self.plan.codebook.sample_phantoms(self.settings.phantoms, self.seed)

    @cached_property
    def gram(self) -> Float[Tensor, "pictures n n"]:
        """Gram of the members' residuals on all queries: their loss under any weights."""
        return self.queries.gram(self.ensemble)

    @cached_property
    def denoised_real(self) -> Float[Tensor, "n real *image"]:
        """What the members denoise the real pictures to."""
        return self.queries.denoised(self.queries.under(self.ensemble, "real"), self.queries.real)

    @cached_property
    def member_distances(self) -> Float[Tensor, "n q"]:
        """L2 distance of every member's own picture to the ensemble's, on the same tape."""
        return self.queries.distances(list(self.ensemble.members))

    def estimator(self, pictures: Float[Tensor, "q *image"]) -> Estimator:
        """The estimator of the whole ensemble on some pictures."""
        distance, basis = self.data.distance(pictures), self.plan.codebook.basis
        return Estimator.of_distance(self.codewords, distance, self.settings.gls_share, basis)

    def ablations(
        self, codewords: Bool[Tensor, "units n"] | Bool[Tensor, "units q n"]
    ) -> Float[Tensor, "units q *image"]:
        """Exact displacements when units are ablated."""
        queries = self.queries
        made = counterfactual(
            queries.under(self.ensemble, "generated"), codewords, queries.seeds, queries.reverse, queries.shape
        )
        return made - queries.factual

    def networks(self, members: Tensor) -> list[nn.Module]:
        return [self.ensemble.members[k] for k in members.tolist()]

    @property
    def parts(self) -> list[tuple[Tensor, int]]:
        """Members of smaller ensembles, each with the number of its order; the whole one first."""
        n, plan = len(self.ensemble), self.plan
        sizes = sorted({size for size in plan.ensemble_sizes if size < n}, reverse=True)
        parts = [(n, 0), *((size, order) for size in sizes for order in range(plan.ensemble_orders))]
        return [(draw_members(size, n, self.seed, order), order) for size, order in parts]

    @cached_property
    def sub_ensembles(self) -> list[SubEnsemble]:
        """All parts, and what each is on its own."""
        found = []
        for members, order in self.parts:
            jacobian = self.jacobian
            if len(members) < len(self.ensemble):
                jacobian = self.queries.jacobian(self.networks(members), self.plan.members_per_step)
            found.append(SubEnsemble(members, order, jacobian))
        return found

    @cached_property
    def reweighted(self) -> Reweighted:
        """Sets of three: more would leave the range in which weights are those of an ensemble, as a contrast is nearly
        as long as u_0."""
        queries, images, subsets = self.queries, self.data.unit_images, max(16, self.plan.lds_subsets)
        count = len(self.codewords)
        removed = torch.zeros(subsets, count, dtype=torch.bool)
        for j, mask in enumerate(removed):
            order = generator(self.seed, Stream.SUBSETS, step=Subset.TRIPLES, attempt=j).permutation(count)
            mask[torch.from_numpy(order[: min(3, count)])] = True
        w = contrast(self.codewords)
        weights = self.ensemble.uniform + removed.float() @ w
        made = queries.under(self.ensemble, "generated").pictures(
            weights, queries.seeds, queries.reverse, queries.shape
        )
        nearest = torch.cdist(queries.factual.flatten(1), images.flatten(1)).argmin(1)
        toward = torch.stack(
            [directions(queries.factual[q : q + 1], images[i : i + 1])[0, 0] for q, i in enumerate(nearest.tolist())]
        )
        along = torch.einsum("nqp,qp->nq", self.jacobian.flatten(2), toward)
        exact = -torch.einsum("sqp,qp->sq", (made - queries.factual).flatten(2), toward)
        return Reweighted(removed, weights, exact, -w @ along)

    def prepare(self) -> None:
        """Computes, and keeps, what later tables take of it; models of the truth may still be in training."""
        if self.plan.lds_subsets:
            _ = self.reweighted, self.gram
        if self.plan.retrained_units and self.plan.lds_subsets:
            _ = self.sub_ensembles
