"""The tables of a validation: agreement with retraining, LDS, groups. A row a query, and a summary."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.attribution import agreement
from ddattr.attribution.agreement import ENOUGH
from ddattr.attribution.influence import displacement_scores
from ddattr.attribution.tables import summarise
from ddattr.validation.ceiling import ceiling, reliability
from ddattr.validation.groups import group_scores, ndcg, top_one
from ddattr.validation.lds import joint_resamples, lds, lds_resamples, percentiles
from ddattr.validation.summary import REFERENCES, Pair, compared

CORRELATIONS = {"pearson": agreement.pearson, "spearman": agreement.spearman}
GROUP_STATISTICS = ["top1", "ndcg3", "spearman"]
Scores = Mapping[str, Tensor]  # method -> (units, q), larger for more support


def agreement_tables(
    truth: Float[Tensor, "seeds units q *image"],
    methods: Mapping[str, Scores],
    displacements: Mapping[str, Float[Tensor, "units q *image"]],
    factual: Float[Tensor, "q *image"],
    unit_images: Float[Tensor, "units *image"],
    queries: list[int],
    seed: int,
) -> Pair:
    """agreement.csv with truth `retraining`, per query, and its summary.

    Correlations have the truth's split-half reliability beside them, its root (the ceiling), and what they are when
    corrected for it; and intervals over units and queries at once, none of fewer than 5 units. The rest have intervals
    over queries. `spearman_less_REFERENCE` is the mean of a paired difference.

    Args:
        truth: displacements by retraining, at every training seed.
        methods: for every measure, the scores of every method on the truth's units.
        displacements: those of the methods that have one.
    """
    frames, noise, resampled = [], {}, {}
    by_seed = [displacement_scores(one, factual, unit_images) for one in truth]
    for measure, scores in methods.items():
        replicates = torch.stack([one[measure] for one in by_seed])
        target = replicates.mean(0)
        for name, correlation in CORRELATIONS.items():
            noise[measure, name] = reliability(replicates, correlation), ceiling(replicates, correlation)
        for method, score in scores.items():
            moved = displacements.get(method)
            for name, correlation in CORRELATIONS.items():
                resampled[measure, name, method] = joint_resamples(score, target, seed, correlation=correlation)
            frames.append(
                pd.DataFrame(
                    {
                        "truth": "retraining",
                        "method": method,
                        "measure": measure,
                        "query": queries,
                        "pearson": agreement.pearson(score, target).numpy(),
                        "spearman": agreement.spearman(score, target).numpy(),
                        "cosine": float("nan") if moved is None else agreement.cosine(moved, truth.mean(0)).numpy(),
                        "relative_error": float("nan")
                        if moved is None
                        else agreement.relative_error(moved, truth.mean(0)).numpy(),
                    }
                )
            )
    table = pd.concat(frames, ignore_index=True)
    summary = pd.concat([summarise(table, seed), _less(table, ["truth", "measure"], "spearman")], ignore_index=True)
    for i, row in enumerate(summary.itertuples()):
        name, _, other = row.statistic.partition("_less_")
        if name in CORRELATIONS:
            means = resampled[row.measure, name, row.method]
            means = means - resampled[row.measure, name, other] if other else means
            enough = truth.shape[1] >= ENOUGH
            summary.loc[i, ["low", "high"]] = percentiles(means) if enough else (float("nan"), float("nan"))
    known = [noise.get((row.measure, row.statistic), (float("nan"),) * 2) for row in summary.itertuples()]
    summary[["reliability", "ceiling"]] = known
    summary["corrected"] = (summary["mean"] / summary.ceiling).where(summary.ceiling > 0)
    return table, summary


def _less(table: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """Mean over queries of every method's value less a reference's, as `COLUMN_less_REFERENCE`; without intervals."""
    keys, found = [*by, "query"], []
    for other in REFERENCES:
        pairs = table[table.method != other].merge(table[table.method == other], on=keys, suffixes=("", "_other"))
        less = pairs.assign(mean=pairs[column] - pairs[f"{column}_other"]).groupby([*by, "method"], sort=False)["mean"]
        rows = less.agg(["mean", "count"]).rename(columns={"count": "queries"}).reset_index()
        found.append(rows.assign(statistic=f"{column}_less_{other}"))
    return pd.concat(found, ignore_index=True)


def lds_tables(
    cases: list[tuple[dict[str, str], Scores, Tensor, Tensor]],
    queries: Mapping[str, list[int]],
    seed: int,
) -> Pair:
    """lds.csv, per query, and its summary: with the targets' split-half reliability, its root (the ceiling), and what
    the mean is when corrected for it; `lds_less_REFERENCE` is the mean of a paired difference.

    Intervals are over queries and subsets at once.

    Args:
        cases: (kind, target and queries by name; scores; targets (seeds, subsets, q); subsets (subsets, units)).
        queries: names of the queries of every kind.
    """
    rows, means = [], []
    for name, scores, targets, subsets in cases:
        target, reached = targets.mean(0), ceiling(targets)
        values = {method: lds(score, target, subsets) for method, score in scores.items()}
        resampled = {method: lds_resamples(score, target, subsets, seed) for method, score in scores.items()}
        noise = {"reliability": reliability(targets), "ceiling": reached}
        sizes = {"subsets": len(subsets), "seeds": len(targets)}
        for method, value in values.items():
            rows.append(
                pd.DataFrame({**name, "method": method, "query": queries[name["queries"]], "lds": value.numpy()})
            )
            low, high = percentiles(resampled[method])
            mean = value.nanmean().item()
            corrected = mean / reached if reached > 0 else float("nan")
            means.append(
                {
                    **name,
                    "method": method,
                    "statistic": "lds",
                    "mean": mean,
                    "low": low,
                    "high": high,
                    **noise,
                    "corrected": corrected,
                    **sizes,
                }
            )
        for other in [other for other in REFERENCES if other in scores]:
            for method in [method for method in scores if method != other]:
                low, high = percentiles(resampled[method] - resampled[other])
                means.append(
                    {
                        **name,
                        "method": method,
                        "statistic": f"lds_less_{other}",
                        "mean": (values[method] - values[other]).nanmean().item(),
                        "low": low,
                        "high": high,
                        **sizes,
                    }
                )
    return pd.concat(rows, ignore_index=True), pd.DataFrame(means)


def group_tables(
    cases: list[tuple[dict[str, str], Scores, Tensor]],
    group_of: Int[Tensor, "units"],
    queries: Mapping[str, list[int]],
    seed: int,
) -> Pair:
    """groups.csv, per query: top-1 and NDCG@3 against the groups' effect by retraining; and its summary.

    `another_seed` is what one other training would say: the effect at one training seed, held as a score against the
    mean effect at all others, and averaged over the seeds. No bound: a score may be less noisy than a training.
    Correlations, and their differences, have intervals over groups and queries at once, none of fewer than 5 groups;
    the rest over queries.

    Args:
        cases: (target and queries by name; scores; effects (seeds, groups, q)).
    """
    rows, resampled = [], {}
    for name, scores, effects in cases:
        effect, case = effects.mean(0), (name["target"], name["queries"])
        for method, score in scores.items():
            grouped = group_scores(score, group_of)
            found = _named(grouped, effect)
            resampled[*case, method] = joint_resamples(grouped, effect, seed)
            rows.append(pd.DataFrame({**name, "method": method, "query": queries[name["queries"]], **found}))
        if (seeds := len(effects)) > 1:
            others = (effects.sum(0) - effects) / (seeds - 1)
            by_seed = [pd.DataFrame(_named(one, other)) for one, other in zip(effects, others, strict=True)]
            ceilings = sum(by_seed[1:], by_seed[0]) / seeds
            pairs = [joint_resamples(one, other, seed) for one, other in zip(effects, others, strict=True)]
            resampled[*case, "another_seed"] = torch.stack(pairs).nanmean(0)
            rows.append(ceilings.assign(**name, method="another_seed", query=queries[name["queries"]]))
    table = pd.concat(rows, ignore_index=True)
    summary = compared(table, ["target", "queries", "method"], GROUP_STATISTICS, seed)
    groups = len(group_of.unique())
    for i, row in enumerate(summary.itertuples()):
        name, _, other = row.statistic.partition("_less_")
        if name == "spearman":
            means = resampled[row.target, row.queries, row.method]
            if other:
                means = means - resampled[row.target, row.queries, other]
            enough = min(groups, row.known) >= ENOUGH
            summary.loc[i, ["low", "high"]] = percentiles(means) if enough else (float("nan"), float("nan"))
    return table, summary


def _named(scores: Float[Tensor, "groups q"], effect: Float[Tensor, "groups q"]) -> dict[str, np.ndarray]:
    """How well scores name the groups of largest effect, per query."""
    found = top_one(scores, effect), ndcg(scores, effect), agreement.spearman(scores, effect)
    return dict(zip(GROUP_STATISTICS, (value.numpy() for value in found), strict=True))
