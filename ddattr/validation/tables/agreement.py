"""agreement.csv: every method's scores of the truth's units against retraining without them, by pull and by norm."""

from collections.abc import Iterator, Mapping

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.attribution import agreement
from ddattr.attribution.influence import Response, displacement_scores
from ddattr.attribution.methods import METHODS
from ddattr.attribution.replayed import AGREEMENT, agreement_rows, summarise
from ddattr.validation.intervals import bounds, difference, differences, joint_resamples
from ddattr.validation.metrics import ceiling, reliability
from ddattr.validation.study import Phase, Study

PHASE = Phase.RETRAINED
CORRELATIONS = {"pearson": agreement.pearson, "spearman": agreement.spearman}


def tables(study: Study) -> Iterator[tuple[str, pd.DataFrame]]:
    """Left out without `validation.retrained_units`."""
    if not study.plan.retrained_units:
        return
    answers, queries = study.answers, study.answers.queries
    units = study.plan.retraining_units
    codewords, images = answers.codewords[units], answers.data.unit_images[units]
    moved = {"jvp": Response(answers.jacobian).displacement(codewords), "ablation": answers.ablations(codewords)}
    ablated = displacement_scores(moved["ablation"], queries.factual, images)
    scores = {
        "pull": {"ablation": ablated["pull"], **{m: s[units] for m, s in study.scores["generated"].items()}},
        "norm": {"ablation": ablated["norm"], **_norms(answers.influence, queries.seeds, units)},
    }
    table, summary = agreement_tables(
        study.truth.displacements, scores, moved, queries.factual, images, queries.seeds, study.seed
    )
    yield "agreement", table
    yield "agreement_summary", summary


def _norms(influence: pd.DataFrame, seeds: list[int], units: Tensor) -> dict[str, Tensor]:
    """`norm` of every method that has one."""
    norms, found = influence[influence.measure == "norm"], {}
    for method in [method.key for method in METHODS if method.scored_by_attribute]:
        if method in set(norms.method):
            wide = norms[norms.method == method].pivot(index="unit", columns="query", values="score")[seeds]
            found[method] = torch.from_numpy(wide.to_numpy(copy=True))[units]
    return found


def agreement_tables(
    truth: Float[Tensor, "seeds units q *image"],
    scores: Mapping[str, Mapping[str, Float[Tensor, "units q"]]],
    moved: Mapping[str, Float[Tensor, "units q *image"]],
    factual: Float[Tensor, "q *image"],
    unit_images: Float[Tensor, "units *image"],
    queries: list[int],
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """agreement.csv with truth `retraining`, per query, and its summary.

    Correlations have the truth's split-half reliability beside them, its root (the ceiling), and what they are when
    corrected for it; and intervals over units and queries at once, none of fewer than 5 units. The rest have intervals
    over queries. `spearman_less_REFERENCE` is the mean of a paired difference.

    Args:
        truth: displacements by retraining, at every training seed.
        scores: for every measure, those of every method on the truth's units.
        moved: displacements of the methods that have one.
    """
    frames, noise, resampled = [], {}, {}
    by_seed = [displacement_scores(one, factual, unit_images) for one in truth]
    for measure, methods in scores.items():
        replicates = torch.stack([one[measure] for one in by_seed])
        target = replicates.mean(0)
        for name, correlation in CORRELATIONS.items():
            noise[measure, name] = reliability(replicates, correlation), ceiling(replicates, correlation)
        for method, score in methods.items():
            for name, correlation in CORRELATIONS.items():
                resampled[measure, name, method] = joint_resamples(score, target, seed, correlation=correlation)
            rows = agreement_rows(score, target, moved.get(method), truth.mean(0), queries)
            frames.append(rows.assign(truth="retraining", method=method, measure=measure))
    table = pd.concat(frames, ignore_index=True)[AGREEMENT]
    summary = pd.concat([summarise(table), _paired(table)], ignore_index=True)
    for i, row in enumerate(summary.itertuples()):
        name, _, other = row.statistic.partition("_less_")
        if name in CORRELATIONS:
            less = (row.measure, name, other) if other else None
            means = difference(resampled, (row.measure, name, row.method), less)
            summary.loc[i, ["low", "high"]] = bounds(means, truth.shape[1])
    known = [noise.get((row.measure, row.statistic), (float("nan"),) * 2) for row in summary.itertuples()]
    summary[["reliability", "ceiling"]] = known
    summary["corrected"] = (summary["mean"] / summary.ceiling).where(summary.ceiling > 0)
    return table, summary


def _paired(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over queries of every method's Spearman less a reference's; its interval is of units and queries at once."""
    by, found = ["truth", "measure", "method"], []
    for pairs, (name,) in differences(table, by, ["spearman"]):
        rows = pairs.groupby(by, sort=False)[name].agg(["mean", "count"]).rename(columns={"count": "queries"})
        found.append(rows.reset_index().assign(statistic=name))
    return pd.concat(found, ignore_index=True)
