"""groups.csv, sets.csv, discoveries.csv: what retraining without one group at a time says of scores and of findings."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.attribution import agreement
from ddattr.attribution.influence import displacement_scores
from ddattr.attribution.methods import LEFT_OUT, TESTED, Family, method_of
from ddattr.validation.intervals import bounds, compared, difference, joint_resamples, means, pull_predicted
from ddattr.validation.metrics import ceiling, group_scores, ndcg, reliability, top_one
from ddattr.validation.study import Phase, Study

PHASE = Phase.RETRAINED
STATISTICS = ["top1", "ndcg3", "spearman"]
SHARED = "shared_seed"


class Case(NamedTuple):
    """Scores by method, (units, q), against the groups' effects (seeds, groups, q), and `own`, those at the members'
    seed (groups, q): a method, None where they are not known."""

    target: str
    queries: str
    scores: Mapping[str, Tensor]
    effects: Tensor
    own: Tensor | None

    @property
    def name(self) -> dict[str, str]:
        return {"target": self.target, "queries": self.queries}


def tables(study: Study) -> Iterator[tuple[str, pd.DataFrame]]:
    """Left out without `validation.groups`; discoveries are of groups that are units."""
    if study.plan.groups is None:
        return
    plan, names = study.plan, study.answers.queries.names
    table, summary = group_tables(_cases(study), plan.group_of, names, study.seed, plan.group_names())
    yield "groups", table
    yield "groups_summary", summary
    table, summary = _sets(study)
    yield "sets", table
    yield "sets_summary", summary
    if study.plan.groups == "unit":
        table = _discoveries(study)
        yield "discoveries", table
        found = [name for name in table.columns if name != "query"]
        yield "discoveries_summary", means(table.assign(method=TESTED), ["method"], found)


def _cases(study: Study) -> list[Case]:
    """Does a method name the group whose removal hurts most, in loss or by how far the picture moves, and does it
    predict how far it moves away from the group's mean image (its pull)? Peers are tuned on loss, and for distance on
    distance; for pull, which has a sign and which half-data models have not, on loss: they were not made for it.

    Similarities have no zero: they are centred over units, or the largest group would always win.
    """
    plan, answers, truth = study.plan, study.answers, study.truth
    centred = {
        kind: {
            method: score - score.mean(0) if method_of(method).family is Family.SIMILARITY else score
            for method, score in study.scores[kind].items()
        }
        for kind in answers.queries.kinds()
    }
    losses = truth.losses_without_groups(0) if plan.leave_one_out else None
    cases = [
        Case("loss", kind, centred[kind], truth.group_losses[..., where], None if losses is None else losses[:, where])
        for kind, where in answers.queries.kinds().items()
    ]
    images = torch.stack([answers.data.unit_images[plan.group_of == g].mean(0) for g in plan.group_names()])
    moved = [displacement_scores(one, answers.queries.factual, images) for one in truth.group_displacements]
    own = displacement_scores(truth.without_groups(0), answers.queries.factual, images) if plan.leave_one_out else {}
    for target, measure in (("distance", "norm"), ("pull", "pull")):
        effects = torch.stack([one[measure] for one in moved])
        tuned = study.scores.get("distance", {}) if target == "distance" else {}
        cases.append(Case(target, "generated", centred["generated"] | tuned, effects, own.get(measure)))
    return cases


def group_tables(
    cases: list[Case],
    group_of: Int[Tensor, "units"],
    queries: Mapping[str, list[int]],
    seed: int,
    names: list[int] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """groups.csv, per query: top-1 and NDCG@3 against the groups' effect by retraining; and its summary.

    `leave_one_out` is what the truth's own trainings say at another seed, the members': the effect of each group there,
    held as a score against the mean effect at the truth's seeds. `shared_seed` is what a seed in common gives: a
    method's Spearman with the effect at the members' seed, less its mean with that at another one.

    Correlations, and their differences, have intervals over groups and queries at once, none of fewer than 5 groups;
    the rest over queries. Spearman has the truth's split-half reliability beside it, its root (the ceiling), and what
    it is when corrected for that.
    """
    rows, resampled, noise = [], {}, {}
    for case in cases:
        effect = case.effects.mean(0)
        grouped = {method: group_scores(score, group_of, names) for method, score in case.scores.items()}
        noise[case.target, case.queries] = reliability(case.effects), ceiling(case.effects)
        for method, score in (grouped | ({} if case.own is None else {LEFT_OUT: case.own})).items():
            resampled[case.target, case.queries, method] = joint_resamples(score, effect, seed)
            found = {"method": method, "query": queries[case.queries], **_named(score, effect)}
            apart = torch.stack([agreement.spearman(score, one) for one in case.effects]).nanmean(0)
            shared = np.full(len(apart), np.nan)
            if case.own is not None and method != LEFT_OUT:
                shared = (agreement.spearman(score, case.own) - apart).numpy()
            rows.append(pd.DataFrame({**case.name, **found, SHARED: shared}))
    table = pd.concat(rows, ignore_index=True)
    by = ["target", "queries", "method"]
    summary = pd.concat([compared(table, by, STATISTICS), means(table, by, [SHARED])], ignore_index=True)
    groups = cases[0].effects.shape[1]
    for i, row in enumerate(summary.itertuples()):
        name, _, other = row.statistic.partition("_less_")
        if name == "spearman":
            less = (row.target, row.queries, other) if other else None
            effects = difference(resampled, (row.target, row.queries, row.method), less)
            summary.loc[i, ["low", "high"]] = bounds(effects, min(groups, row.known))
        if row.statistic == "spearman":
            summary.loc[i, ["reliability", "ceiling"]] = noise[row.target, row.queries]
    summary["corrected"] = (summary["mean"] / summary.ceiling).where(summary.ceiling > 0)
    return table, summary


def _named(scores: Float[Tensor, "groups q"], effect: Float[Tensor, "groups q"]) -> dict[str, np.ndarray]:
    """How well scores name the groups of largest effect, per query."""
    found = top_one(scores, effect), ndcg(scores, effect), agreement.spearman(scores, effect)
    return dict(zip(STATISTICS, (value.numpy() for value in found), strict=True))


def _sets(study: Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first-order sum of a whole group's contrasts against retraining without the group, by query.

    Of one sign and order, not of one size: an ablation takes a unit from the h of n members that saw it, retraining
    from a model that saw them all, which for additive effects is n / h of that.
    """
    plan, seeds = study.plan, study.answers.queries.seeds
    pulls, rows = [], []
    for group, moved in zip(plan.group_names(), study.truth.group_displacements.mean(0), strict=True):
        units = plan.group_of == group
        found = [study.set_pull(units, moved[q], q) for q in range(len(seeds))]
        pulls.append(found)
        for query, (first, retraining) in zip(seeds, found, strict=True):
            row = {"set": f"{plan.groups}:{group}", "size": int(units.sum()), "query": query}
            rows.append({**row, "pull_first_order": first, "pull_retraining": retraining})
    first_order, truth = torch.tensor(pulls, dtype=torch.float64).unbind(2)
    predicted = pull_predicted(first_order, truth, study.seed)
    return pd.DataFrame(rows), pd.DataFrame([{"statistic": "spearman", **predicted, "sets": len(pulls)}])


def _discoveries(study: Study) -> pd.DataFrame:
    """What a finding is worth: pull by retraining without a unit that passes at q <= level, and without one that does
    not; per query, with the share of them whose pull is above 0. Of a query without either, that side is NaN."""
    answers, queries, tested = study.answers, study.answers.queries, study.answers.influence
    tested = tested[(tested.method == TESTED) & (tested.measure == "pull")]
    q = tested.pivot(index="unit", columns="query", values="q_value")[queries.seeds].to_numpy(copy=True)
    passed = torch.from_numpy(q) <= answers.settings.level
    left_out = study.plan.group_names()  # units, in order
    passed, images = passed[left_out], answers.data.unit_images[left_out]
    pull = displacement_scores(study.truth.group_displacements.mean(0), queries.factual, images)["pull"].double()
    sides = {"found": passed, "others": ~passed}
    found = {"units_found": passed.sum(0)}
    for name, of in (("pull", pull), ("above_0", (pull > 0).double())):
        found |= {f"{name}_{side}": (of * mask).sum(0) / mask.sum(0) for side, mask in sides.items()}
    return pd.DataFrame({"query": queries.seeds, **{name: value.numpy() for name, value in found.items()}})
