"""The tables that hold every method's scores against models trained anew, each made from the bench."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ddattr.attribution.agreement import ENOUGH
from ddattr.attribution.influence import Response, displacement_scores
from ddattr.validation import evaluation
from ddattr.validation.bench import Bench, Scores
from ddattr.validation.growth import growth
from ddattr.validation.lds import joint_interval, lds
from ddattr.validation.methods import ENSEMBLE, SIMILARITY, TESTED
from ddattr.validation.removal import Removal
from ddattr.validation.summary import Pair, compared, foreseen, means, pair


def of_retrained(bench: Bench, scores: Scores) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every table that holds scores against other models; those that were not asked for are left out."""
    plan = bench.plan
    if plan.units:
        yield from pair("agreement", agreement(bench, scores))
    if plan.halves:
        yield from pair("lds", linear_datamodelling(bench, scores))
    if plan.groups is not None:
        yield from pair("groups", groups(bench, scores))
        yield from pair("sets", sets(bench))
    if plan.groups == "unit":
        yield from pair("discoveries", discoveries(bench))
    if plan.units and plan.halves:
        yield "members", growth(bench, scores)


def of_removals(bench: Bench, removals: list[Removal]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Remove-and-retrain, once the models without the best units are there; nothing when there are none."""
    if removals:
        yield from pair("removal", removal(bench, removals))


def agreement(bench: Bench, scores: Scores) -> Pair:
    """Every method's scores of the truth's units against retraining without them: its pull along d_i, and its norm."""
    units, asked = bench.plan.truth_units, bench.queries
    words, images = bench.words[units], bench.data.unit_images[units]
    moved = {"jvp": Response(bench.response).displacement(words), "ablation": asked.ablations(bench.ensemble, words)}
    ablated = displacement_scores(moved["ablation"], asked.factual, images)
    methods: dict[str, dict[str, Tensor]] = {
        "pull": {"ablation": ablated["pull"], **{m: s[units] for m, s in scores["generated"].items()}},
        "norm": {"ablation": ablated["norm"]},
    }
    norms = bench.influence[bench.influence.measure == "norm"]
    for method in [method for method in ENSEMBLE if method in set(norms.method)]:
        wide = norms[norms.method == method].pivot(index="unit", columns="query", values="score")[asked.seeds]
        methods["norm"][method] = torch.from_numpy(wide.to_numpy(copy=True))[units]
    return evaluation.agreement_tables(bench.truth, methods, moved, asked.factual, images, asked.seeds, bench.seed)


def linear_datamodelling(bench: Bench, scores: Scores) -> Pair:
    """Transfer LDS, against half-data models, and self LDS, against the re-weighted ensemble.

    An oracle has the damping and the projection that are best on these very targets: what tuning could reach at most,
    and no method.
    """
    asked, masks, cases = bench.queries, bench.plan.half_masks()[: bench.plan.halves], []
    for kind, where in asked.kinds().items():
        name, target = {"kind": "transfer", "target": "loss", "queries": kind}, bench.half_targets["loss"][..., where]
        oracles = {
            f"{method}_oracle": max(tried[..., where], key=lambda s: lds(s, target.mean(0), masks).nanmean().item())
            for method, tried in scores.get("tried", {}).items()
        }
        cases.append((name, scores[kind] | oracles, target, masks))
    name = {"kind": "transfer", "target": "distance", "queries": "generated"}
    cases.append((name, scores["generated"], bench.half_targets["distance"], masks))
    return evaluation.lds_tables(cases + _self(bench, scores), asked.names, bench.seed)


def _self(bench: Bench, scores: Scores) -> list[Any]:
    """Removing random sets from the ensemble by weights alone: first order against replay."""
    asked = bench.queries
    removed, weights, exact, first = bench.reweighted
    name = {"kind": "self", "target": "picture", "queries": "generated"}
    cases: list[Any] = [(name, {"jvp": first}, exact[None], removed)]
    rise = torch.einsum("sn,qnm,sm->sq", weights.double(), bench.gram, weights.double())
    for kind, where in asked.kinds().items():
        name = {"kind": "self", "target": "loss", "queries": kind}
        cases.append((name, {"loss": scores[kind]["loss"]}, rise[None][..., where], removed))
    return cases


def groups(bench: Bench, scores: Scores) -> Pair:
    """Leave one group out: does a method name the group whose removal hurts most, in loss or by how far the picture
    moves, and does it foresee how far it moves away from the group's mean image (its pull)?

    Similarities have no zero: they are centred over units, or the largest group would always win.
    """
    plan, asked = bench.plan, bench.queries
    losses = []
    for r in range(plan.replicates):
        networks = [bench.network(model) for model in [plan.full(r), *plan.group_models(r)]]
        found = asked.losses(networks)
        losses.append(found[1:] - found[:1])
    centred = {
        kind: {
            method: score - score.mean(0) if method in SIMILARITY else score for method, score in scores[kind].items()
        }
        for kind in asked.kinds()
    }
    cases: list[Any] = [
        ({"target": "loss", "queries": kind}, centred[kind], torch.stack(losses)[..., where])
        for kind, where in asked.kinds().items()
    ]
    images = torch.stack([bench.data.unit_images[plan.group_of == g].mean(0) for g in plan.group_names()])
    moved = [displacement_scores(one, asked.factual, images) for one in bench.groups_truth]
    cases += [
        ({"target": target, "queries": "generated"}, centred["generated"], torch.stack([one[measure] for one in moved]))
        for target, measure in (("distance", "norm"), ("pull", "pull"))
    ]
    return evaluation.group_tables(cases, plan.group_of, asked.names, bench.seed)


def sets(bench: Bench) -> Pair:
    """The first-order sum of a whole group's contrasts against retraining without the group, by query.

    Of one sign and order, not of one size: an ablation takes a unit from the h of n members that saw it, retraining
    from a model that saw them all, which for additive effects is n / h of that.
    """
    asked, of, kind = bench.queries, bench.plan.group_of, bench.plan.groups
    pulls, rows = [], []
    for group, moved in zip(bench.plan.group_names(), bench.groups_truth.mean(0), strict=True):
        own = of == group
        found = [
            asked.set_pull(own, moved[q], q, bench.response, bench.words, bench.data.unit_images)
            for q in range(len(asked.seeds))
        ]
        pulls.append(found)
        rows += [
            {
                "set": f"{kind}:{group}",
                "size": int(own.sum()),
                "query": query,
                "pull_first_order": first,
                "pull_retraining": by_retraining,
            }
            for query, (first, by_retraining) in zip(asked.seeds, found, strict=True)
        ]
    first, truth = torch.tensor(pulls, dtype=torch.float64).unbind(2)
    mean, low, high = joint_interval(first, truth, bench.seed)
    if len(pulls) < ENOUGH:
        low = high = float("nan")
    summary = {"statistic": "spearman", "mean": mean, "low": low, "high": high, "sets": len(pulls)}
    return pd.DataFrame(rows), pd.DataFrame([summary])


def discoveries(bench: Bench) -> Pair:
    """What a finding is worth: pull by retraining without a unit that passes at q <= level, and without one that does
    not; per query, with the share of them whose pull is above 0. Of a query without either, that side is NaN."""
    asked, tested = bench.queries, bench.influence
    tested = tested[(tested.method == TESTED) & (tested.measure == "pull")]
    q = tested.pivot(index="unit", columns="query", values="q_value")[asked.seeds].to_numpy(copy=True)
    passed = torch.from_numpy(q) <= bench.level
    pull = displacement_scores(bench.groups_truth.mean(0), asked.factual, bench.data.unit_images)["pull"].double()
    sides = {"found": passed, "others": ~passed}
    found = {"units_found": passed.sum(0)}
    for name, of in (("pull", pull), ("above_0", (pull > 0).double())):
        found |= {f"{name}_{side}": (of * mask).sum(0) / mask.sum(0) for side, mask in sides.items()}
    table = pd.DataFrame({"query": asked.seeds, **{name: value.numpy() for name, value in found.items()}})
    return table, means(table.assign(method=TESTED), ["method"], list(found), bench.seed)


def removal(bench: Bench, removals: list[Removal]) -> Pair:
    """Remove and retrain, and the first order of the whole set's pull beside it."""
    asked, rows, features = bench.queries, [], bench.extractor
    factual = bench.pictures(bench.plan.full(0))
    for one in removals:
        query = asked.seeds.index(one.query)
        picture = bench.pictures(one.model)[query]
        apart = features(torch.stack([picture, factual[query]]).clamp(-1, 1))
        first, by_retraining = asked.set_pull(
            ~one.model.units, picture - factual[query], query, bench.response, bench.words, bench.data.unit_images
        )
        rows.append(
            {
                "method": one.method,
                "size": one.size,
                "query": one.query,
                "l2": float((picture - factual[query]).norm()),
                "feature_distance": float((apart[0] - apart[1]).norm()),
                "pull_first_order": first,
                "pull_retraining": by_retraining,
            }
        )
    table = pd.DataFrame(rows)
    summary = compared(table, ["method", "size"], ["l2", "feature_distance"], bench.seed)
    return table, pd.concat([summary, foreseen(table, ["method", "size"], bench.seed)], ignore_index=True)
