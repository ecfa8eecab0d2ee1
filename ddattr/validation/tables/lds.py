"""lds.csv: linear datamodelling scores, against half-data models (transfer) and the re-weighted ensemble (self)."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ddattr.validation.intervals import REFERENCES, difference, lds_resamples, percentiles
from ddattr.validation.metrics import ceiling, lds, reliability
from ddattr.validation.scores import best_of
from ddattr.validation.study import Phase, Study

PHASE = Phase.RETRAINED


class Case(NamedTuple):
    """Scores by method, (units, q), against targets (seeds, subsets, q) of subsets (subsets, units)."""

    kind: str
    target: str
    queries: str
    scores: Mapping[str, Tensor]
    targets: Tensor
    subsets: Tensor

    @property
    def name(self) -> dict[str, str]:
        return {"kind": self.kind, "target": self.target, "queries": self.queries}


def tables(study: Study) -> Iterator[tuple[str, pd.DataFrame]]:
    """Left out without `validation.lds_subsets`.

    A peer is tuned for the target, on the tuning halves' own: loss, or distance. An oracle has the damping and the
    projection that are best on these very targets: what tuning could reach at most, and no method.
    """
    if not study.plan.lds_subsets:
        return
    table, summary = lds_tables(_transfer(study) + _self(study), study.answers.queries.names, study.seed)
    yield "lds", table
    yield "lds_summary", summary


def _transfer(study: Study) -> list[Case]:
    masks, cases = study.plan.half_masks()[: study.plan.lds_subsets], []
    for kind, where in study.answers.queries.kinds().items():
        target = study.truth.half_targets["loss"][..., where]
        oracles = {
            f"{method}_oracle": best_of(tried[..., where], target.mean(0), masks)
            for method, tried in study.scores.get("tried", {}).items()
        }
        cases.append(Case("transfer", "loss", kind, study.scores[kind] | oracles, target, masks))
    distances = study.truth.half_targets["distance"]
    tuned = study.scores["generated"] | study.scores.get("distance", {})
    return [*cases, Case("transfer", "distance", "generated", tuned, distances, masks)]


def _self(study: Study) -> list[Case]:
    """Removing random sets from the ensemble by weights alone: first order against replay."""
    found = study.answers.reweighted
    first = {"jvp": found.first_order}
    cases = [Case("self", "picture", "generated", first, found.exact[None], found.removed)]
    weights = found.weights.double()
    rise = torch.einsum("sn,qnm,sm->sq", weights, study.answers.gram, weights)
    for kind, where in study.answers.queries.kinds().items():
        scores = {"loss": study.scores[kind]["loss"]}
        cases.append(Case("self", "loss", kind, scores, rise[None][..., where], found.removed))
    return cases


def lds_tables(cases: list[Case], queries: Mapping[str, list[int]], seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """lds.csv, per query, and its summary: with the targets' split-half reliability, its root (the ceiling), and what
    the mean is when corrected for it; `lds_less_REFERENCE` is the mean of a paired difference.

    Intervals are over queries and subsets at once.

    Args:
        queries: names of the queries of every kind.
    """
    rows: list[pd.DataFrame] = []
    means: list[dict[str, Any]] = []
    for case in cases:
        target, reached = case.targets.mean(0), ceiling(case.targets)
        values = {method: lds(score, target, case.subsets) for method, score in case.scores.items()}
        resampled = {method: lds_resamples(score, target, case.subsets, seed) for method, score in case.scores.items()}
        sizes = {"subsets": len(case.subsets), "seeds": len(case.targets)}

        for method, value in values.items():
            per_query = {"method": method, "query": queries[case.queries], "lds": value.numpy()}
            rows.append(pd.DataFrame({**case.name, **per_query}))
            found = _row(method, None, values, resampled)
            corrected = found["mean"] / reached if reached > 0 else float("nan")
            noise = {"reliability": reliability(case.targets), "ceiling": reached, "corrected": corrected}
            means.append({**case.name, "statistic": "lds", **found, **noise, **sizes})
        for other in [other for other in REFERENCES if other in case.scores]:
            for method in [method for method in case.scores if method != other]:
                means.append(
                    {**case.name, "statistic": f"lds_less_{other}", **_row(method, other, values, resampled), **sizes}
                )
    columns = ["kind", "target", "queries", "method", "statistic", "mean", "low", "high"]
    columns += ["reliability", "ceiling", "corrected", "subsets", "seeds"]
    return pd.concat(rows, ignore_index=True), pd.DataFrame(means)[columns]


def _row(
    method: str, other: str | None, values: Mapping[str, Tensor], resampled: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Mean over queries of a method's LDS, less another's if one is named, with its interval."""
    value = values[method] if other is None else values[method] - values[other]
    low, high = percentiles(difference(resampled, method, other))
    return {"method": method, "mean": value.nanmean().item(), "low": low, "high": high}
