"""The tables of a validation: agreement with retraining, LDS, remove-and-retrain, groups. A row a query."""

from collections.abc import Mapping

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.attribution import agreement
from ddattr.attribution.influence import displacement_scores
from ddattr.attribution.tables import summarise
from ddattr.validation.groups import group_scores, ndcg, top_one
from ddattr.validation.lds import interval, joint_interval, lds
from ddattr.validation.retraining import ceiling

CORRELATIONS = {"pearson": agreement.pearson, "spearman": agreement.spearman}
ENOUGH = 5  # values for a bootstrap interval
Scores = Mapping[str, Tensor]  # method -> (units, q), larger for more support


def agreement_tables(
    truth: Float[Tensor, "seeds units q *image"],
    methods: Mapping[str, Scores],
    displacements: Mapping[str, Float[Tensor, "units q *image"]],
    factual: Float[Tensor, "q *image"],
    unit_images: Float[Tensor, "units *image"],
    queries: list[int],
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """agreement.csv with truth `retraining`, per query, and its summary with the ceiling.

    Correlations have intervals over units and queries at once, the rest over queries.

    Args:
        truth: displacements by retraining, at every training seed.
        methods: for every measure, the scores of every method on the truth's units.
        displacements: those of the methods that have one.
    """
    frames, reached, intervals = [], {}, {}
    by_seed = [displacement_scores(one, factual, unit_images) for one in truth]
    for measure, scores in methods.items():
        replicates = torch.stack([one[measure] for one in by_seed])
        target = replicates.mean(0)
        for name, correlation in CORRELATIONS.items():
            reached[measure, name] = ceiling(replicates, correlation)
        for method, score in scores.items():
            moved = displacements.get(method)
            for name, correlation in CORRELATIONS.items():
                intervals[method, measure, name] = joint_interval(score, target, seed, correlation=correlation)[1:]
            frames.append(pd.DataFrame({
                "truth": "retraining", "method": method, "measure": measure, "query": queries,
                "pearson": agreement.pearson(score, target).numpy(),
                "spearman": agreement.spearman(score, target).numpy(),
                "cosine": float("nan") if moved is None else agreement.cosine(moved, truth.mean(0)).numpy(),
                "relative_error":
                    float("nan") if moved is None else agreement.relative_error(moved, truth.mean(0)).numpy(),
            }))  # fmt: skip
    table = pd.concat(frames, ignore_index=True)
    summary = summarise(table, seed)
    for i, row in enumerate(summary.itertuples()):
        if (found := intervals.get((row.method, row.measure, row.statistic))) is not None:
            summary.loc[i, ["low", "high"]] = found
    summary["ceiling"] = [reached.get((row.measure, row.statistic), float("nan")) for row in summary.itertuples()]
    summary["corrected"] = (summary["mean"] / summary.ceiling).where(summary.ceiling > 0)
    return table, summary


def lds_tables(
    cases: list[tuple[dict[str, str], Scores, Tensor, Tensor]],
    queries: Mapping[str, list[int]],
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """lds.csv, per query, and its summary.

    Args:
        cases: (kind, target and queries by name; scores; targets (seeds, subsets, q); subsets (subsets, units)).
        queries: names of the queries of every kind.
    """
    rows, means = [], []
    for name, scores, targets, subsets in cases:
        target = targets.mean(0)
        reached = ceiling(targets)
        for method, score in scores.items():
            value = lds(score, target, subsets)
            rows.append(pd.DataFrame({**name, "method": method, "query": queries[name["queries"]],
                                      "lds": value.numpy()}))  # fmt: skip
            mean, low, high = interval(score, target, subsets, seed)
            means.append({**name, "method": method, "mean": mean, "low": low, "high": high, "ceiling": reached,
                          "subsets": len(subsets), "seeds": len(targets)})  # fmt: skip
    return pd.concat(rows, ignore_index=True), pd.DataFrame(means)


def group_tables(
    cases: list[tuple[dict[str, str], Scores, Tensor]],
    group_of: Int[Tensor, "units"],
    queries: Mapping[str, list[int]],
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """groups.csv, per query: top-1 and NDCG@3 against the groups' effect by retraining; and its summary.

    Args:
        cases: (target and queries by name; scores; effects (seeds, groups, q)).
    """
    rows = []
    for name, scores, effects in cases:
        effect = effects.mean(0)
        for method, score in scores.items():
            summed = group_scores(score, group_of)
            rows.append(pd.DataFrame({
                **name, "method": method, "query": queries[name["queries"]],
                "top1": top_one(summed, effect).numpy(), "ndcg3": ndcg(summed, effect).numpy(),
                "spearman": agreement.spearman(summed, effect).numpy(),
            }))  # fmt: skip
    table = pd.concat(rows, ignore_index=True)
    return table, means(table, ["target", "queries", "method"], ["top1", "ndcg3", "spearman"], seed)


def means(table: pd.DataFrame, by: list[str], columns: list[str], seed: int) -> pd.DataFrame:
    """Mean over rows of every column within groups, with its 95 % bootstrap interval; none of fewer than 5 values."""
    rows = []
    for names, part in table.groupby(by, sort=False):
        for column in columns:
            values = torch.tensor(part[column].tolist(), dtype=torch.float64)
            mean, low, high = agreement.bootstrap_mean(values, seed)
            if (known := int((~values.isnan()).sum())) < ENOUGH:
                low = high = float("nan")
            rows.append({**dict(zip(by, names, strict=True)), "statistic": column, "mean": mean, "low": low,
                         "high": high, "known": known})  # fmt: skip
    return pd.DataFrame(rows)
