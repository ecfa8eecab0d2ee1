"""removal.csv: the best units by each method are removed, the model is retrained, and the picture is made again."""

from collections.abc import Iterator

import pandas as pd
import torch

from ddattr.validation.intervals import compared, pull_predicted
from ddattr.validation.study import Phase, Study

PHASE = Phase.REMOVED
BY = ["method", "size"]


def tables(study: Study) -> Iterator[tuple[str, pd.DataFrame]]:
    """Left out when no models without best units are there; the first order of the whole set's pull beside it."""
    if not study.removals:
        return
    queries, rows = study.answers.queries, []
    factual = study.truth.pictures(study.plan.full(1))
    for one in study.removals:
        query = queries.seeds.index(one.query)
        picture = study.truth.pictures(one.model)[query]
        seen = study.answers.features(torch.stack([picture, factual[query]]))
        first, retraining = study.set_pull(~one.model.units, picture - factual[query], query)
        rows.append(
            {
                "method": one.method,
                "size": one.size,
                "query": one.query,
                "l2": float((picture - factual[query]).norm()),
                "feature_distance": float((seen[0] - seen[1]).norm()),
                "pull_first_order": first,
                "pull_retraining": retraining,
            }
        )
    table = pd.DataFrame(rows)
    yield "removal", table
    summary = compared(table, BY, ["l2", "feature_distance"])
    yield "removal_summary", pd.concat([summary, _predicted(table, study.seed)], ignore_index=True)


def _predicted(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Spearman over queries of a set's pull, first order against retraining without it.

    The k units that are most similar in pixels are the k nearest.
    """
    rows = []
    for names, part in table.groupby(BY, sort=False):
        pulls = part[["pull_first_order", "pull_retraining"]].to_numpy(copy=True)
        first, truth = torch.from_numpy(pulls)[:, None].unbind(2)
        found = {"statistic": "spearman_of_pull", **pull_predicted(first, truth, seed), "known": len(part)}
        rows.append({**dict(zip(BY, names, strict=True)), **found})
    return pd.DataFrame(rows)
