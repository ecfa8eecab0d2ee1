"""The trained models on the queries: every method's scores first, then the tables that hold them against the truths."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddattr.attribution.agreement import spearman
from ddattr.attribution.datamodel import subset_means
from ddattr.attribution.influence import Response, displacement_scores, projections, pull
from ddattr.attribution.loss import loss_change
from ddattr.data.datamodule import UnitDataModule
from ddattr.diffusion.noise import Stream, generator
from ddattr.ensemble.ensemble import Ensemble
from ddattr.validation import evaluation
from ddattr.validation.lds import lds
from ddattr.validation.measurement import Measurement
from ddattr.validation.removal import Removal
from ddattr.validation.retraining import Training, Validation
from ddattr.validation.scores import ENSEMBLE, Peers, datamodels, from_table, of_loss, of_real

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
        extractor: of features.
    """

    plan: Validation
    queries: Measurement
    data: UnitDataModule
    ensemble: Ensemble
    network: Callable[[Training], nn.Module]
    influence: pd.DataFrame
    response: Tensor
    extractor: nn.Module

    def __post_init__(self) -> None:
        self.words = self.plan.codebook.codewords(torch.arange(self.plan.codebook.units))
        self.seed = self.plan.seed

    def score(self) -> tuple[Scores, dict[str, Any]]:
        """Scores of all methods, and what was tuned for the peers and how long they took."""
        asked, notes, images = self.queries, {}, self.data.unit_images
        made: Scores = {"generated": from_table(self.influence, asked.seeds)}
        if "real" in asked.kinds():
            made["real"] = of_real(asked.real, images, self.seed)
        peers = Peers(self.network(self.plan.full(0)), self.data.images, self.data.unit_of, asked.asked,
                      asked.process, asked.times, asked.noise, self.seed)  # fmt: skip
        everywhere = {"feature": peers.features(self.extractor)}
        tuning = self.plan.tuning_models()
        targets = -asked.losses([self.network(model) for model in tuning])
        for method in self.plan.peers:
            everywhere[method], notes[method] = peers.score(method, targets, torch.stack([m.units for m in tuning]))
            print(f"validate: {method} scored in {peers.seconds[method]:.0f} s {notes[method]}", flush=True)
        surrogate = everywhere["dtrak" if "dtrak" in everywhere else "feature"]
        everywhere |= of_loss(asked.gram(self.ensemble), self.words, peers.found, surrogate)
        apart = -asked.distances(list(self.ensemble.members))
        units, pictures = peers.found["features"]
        near = {"features": (units, pictures[: len(asked.seeds)])}
        made["generated"]["member_picture"] = subset_means(apart, self.words)
        made["generated"]["datamodel_picture"] = datamodels(apart, self.words, near)["datamodel"]
        return {
            kind: made[kind] | {method: value[:, where] for method, value in everywhere.items()}
            for kind, where in asked.kinds().items()
        }, {"tuned": notes, "seconds": peers.seconds}  # fmt: skip

    def tables(self, scores: Scores, removals: list[Removal]) -> dict[str, pd.DataFrame]:
        """Every table by the name of its file; those of truths that were not asked for are left out."""
        found: dict[str, pd.DataFrame] = {}

        def add(name: str, pair: tuple[pd.DataFrame, pd.DataFrame]) -> None:
            found[name], found[f"{name}_summary"] = pair
            print(f"validate: {name} done", flush=True)

        add("agreement", self._agreement(scores))
        add("lds", self._lds(scores))
        if self.plan.groups is not None:
            add("groups", self._groups(scores))
        if removals:
            add("removal", self._removal(removals))
        found["members"] = self._members(scores)
        return found

    @cached_property
    def truth(self) -> Float[Tensor, "seeds units q *image"]:
        """Displacements of the truth's ensemble by retraining without each of the truth's units, at every seed."""
        plan, seeds = self.plan, []
        for r in range(plan.replicates):
            base = {m.member: self.network(m) for m in plan.bases() if m.replicate == r}
            base = base or {k: self.ensemble.members[k] for k in plan.truth_members}  # at the first seed they are the same models
            factual = self.queries.pictures(list(base.values()))
            moved = []
            for unit in plan.truth_units.tolist():
                changed = {m.member: self.network(m) for m in plan.unit(unit) if m.replicate == r}
                moved.append(self.queries.pictures(list((base | changed).values())) - factual)
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

    def _agreement(self, scores: Scores) -> tuple[pd.DataFrame, pd.DataFrame]:
        units, asked = self.plan.truth_units, self.queries
        words, images = self.words[units], self.data.unit_images[units]
        moved = {"jvp": Response(self.response).displacement(words), "ablation": asked.ablations(self.ensemble, words)}
        ablated = displacement_scores(moved["ablation"], asked.factual, images)
        methods: dict[str, dict[str, Tensor]] = {
            "pull": {"ablation": ablated["pull"], **{m: s[units] for m, s in scores["generated"].items()}},
            "norm": {"ablation": ablated["norm"]},
        }
        norms = self.influence[self.influence.measure == "norm"]
        for method in ENSEMBLE:
            wide = norms[norms.method == method].pivot(index="unit", columns="query", values="score")[asked.seeds]
            methods["norm"][method] = torch.from_numpy(wide.to_numpy(copy=True))[units]
        return evaluation.agreement_tables(self.truth, methods, moved, asked.factual, images, asked.seeds, self.seed)

    def _lds(self, scores: Scores) -> tuple[pd.DataFrame, pd.DataFrame]:
        asked, masks, cases = self.queries, self.plan.half_masks()[: self.plan.halves], []
        for kind, where in asked.kinds().items():
            name = {"kind": "transfer", "target": "loss", "queries": kind}
            cases.append((name, scores[kind], self.half_targets["loss"][..., where], masks))
        name = {"kind": "transfer", "target": "distance", "queries": "generated"}
        cases.append((name, scores["generated"], self.half_targets["distance"], masks))
        return evaluation.lds_tables(cases + self._self_lds(scores), asked.names, self.seed)

    def _members(self, scores: Scores) -> pd.DataFrame:
        """Sub-ensembles of growing size held against the same truths, in several orders."""
        plan, asked, rows = self.plan, self.queries, []
        units, n = plan.truth_units, len(self.ensemble)
        images, where = self.data.unit_images[units], asked.kinds()["generated"]
        truth = displacement_scores(self.truth.mean(0), asked.factual, images)["pull"]
        masks, targets = plan.half_masks()[: plan.halves], {k: v.mean(0) for k, v in self.half_targets.items()}
        gram = asked.gram(self.ensemble)
        nearest = torch.cdist(asked.factual.flatten(1), self.data.unit_images.flatten(1)).argmin(1)
        for size in sorted({*plan.members_sizes, n}):
            for order in range(plan.orders if size < n else 1):
                draw = generator(self.seed, Stream.MEMBER_ORDER, step=order).permutation(n)[:size]
                chosen = torch.from_numpy(draw).sort().values
                response = self.response if size == n else asked.jacobian(
                    [self.ensemble.members[k] for k in chosen.tolist()], plan.members_per_step
                )  # fmt: skip
                words = self.words[:, chosen]
                projected = projections(response, asked.factual, self.data.unit_images)
                score = pull(projected, words)
                seen = words.sum(1).double()[:, None]
                z = score / (projected.var(0) * seen / (size * (size - seen))).sqrt()
                loss = loss_change(gram[:, chosen][:, :, chosen], words)
                found = {
                    "spearman_jvp": spearman(score[units], truth).nanmean(),
                    "spearman_pixel": spearman(scores["generated"]["pixel"][units], truth).nanmean(),
                    "lds_distance_jvp": lds(score, targets["distance"], masks).nanmean(),
                    "lds_loss_loss": lds(loss[:, where], targets["loss"][:, where], masks).nanmean(),
                    "z_nearest": z[nearest, torch.arange(len(nearest))].nanmean(),
                }
                rows += [{"members": size, "order": order, "statistic": k, "value": float(v)}
                         for k, v in found.items()]  # fmt: skip
        return pd.DataFrame(rows)

    def _self_lds(self, scores: Scores) -> list[Any]:
        """Against the exactly re-weighted ensemble: removing random sets, first order against replay."""
        asked = self.queries
        removed, weights, exact, first = asked.reweighted(
            self.ensemble, self.response, self.words, self.data.unit_images, max(16, self.plan.halves)
        )
        name = {"kind": "self", "target": "picture", "queries": "generated"}
        cases: list[Any] = [(name, {"jvp": first}, exact[None], removed)]
        gram = asked.gram(self.ensemble)
        rise = torch.einsum("sn,qnm,sm->sq", weights.double(), gram, weights.double())
        for kind, where in asked.kinds().items():
            name = {"kind": "self", "target": "loss", "queries": kind}
            cases.append((name, {"loss": scores[kind]["loss"]}, rise[None][..., where], removed))
        return cases

    def _groups(self, scores: Scores) -> tuple[pd.DataFrame, pd.DataFrame]:
        plan, asked = self.plan, self.queries
        losses, moved = [], []
        for r in range(plan.replicates):
            full, networks = self.network(plan.full(r)), [self.network(m) for m in plan.group_models(r)]
            losses.append(asked.losses(networks) - asked.losses([full]))
            factual = asked.pictures([full])
            moved.append(torch.stack([(asked.pictures([n]) - factual).flatten(1).norm(dim=1) for n in networks]))
        cases: list[Any] = [
            ({"target": "loss", "queries": kind}, scores[kind], torch.stack(losses)[..., where])
            for kind, where in asked.kinds().items()
        ]
        cases.append(({"target": "distance", "queries": "generated"}, scores["generated"],
                      torch.stack(moved).double()))  # fmt: skip
        return evaluation.group_tables(cases, self.data.partitions()[str(plan.groups)], asked.names, self.seed)

    def _removal(self, removals: list[Removal]) -> tuple[pd.DataFrame, pd.DataFrame]:
        asked, rows, features = self.queries, [], self.extractor
        factual = asked.pictures([self.network(self.plan.full(0))])
        for removal in removals:
            query = asked.seeds.index(removal.query)
            picture = asked.pictures([self.network(removal.model)])[query]
            apart = features(torch.stack([picture, factual[query]]).clamp(-1, 1))
            first, by_retraining = asked.set_pull(
                ~removal.model.units, picture - factual[query], query, self.response, self.words, self.data.unit_images
            )
            rows.append({
                "method": removal.method, "size": removal.size, "query": removal.query,
                "l2": float((picture - factual[query]).norm()), "feature_distance": float((apart[0] - apart[1]).norm()),
                "pull_first_order": first, "pull_retraining": by_retraining,
            })  # fmt: skip
        table = pd.DataFrame(rows)
        return table, evaluation.means(table, ["method", "size"], ["l2", "feature_distance"], self.seed)
