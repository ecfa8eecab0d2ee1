"""The tables of queries that were replayed on a tape: how far methods agree with exact ablation, and the radius.

Beside them are the tables that every set has, with the scores of displacements in them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.attribution import agreement, baselines, influence, significance
from ddattr.attribution.jacobian import instability
from ddattr.attribution.scored import BLOCK, Scored, influence_rows
from ddattr.attribution.significance import TestSettings
from ddattr.attribution.tables import Tables, of_denoising
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule

MEASURES = ("pull", "norm")
AGREEMENT = ["truth", "method", "measure", "query", "pearson", "spearman", "cosine", "relative_error"]
UNSTABLE = 0.25  # a query is flagged when the first order misses this share of its exact displacements
_QUERIES = ["query", "jacobian_norm", "jvp_error", "rotating_error", "label", "unstable", "nearest", "unlike_data"]
_OTHERS = ["replay_error", "pull_spread", "precision_error", "precision_error_exact"]
Scores = Mapping[str, Mapping[str, Float[Tensor, "units q"]]]  # by method and measure


def tabulate(
    tensors: dict[str, Tensor],
    ablated: Tensor,
    codebook: Codebook,
    data: UnitDataModule,
    settings: TestSettings,
    names: Sequence[str] | None = None,
    block: int = BLOCK,
    kept: int | None = None,
    known: Mapping[str, Tensor] | None = None,
) -> Tables:
    """All tables of queries that were replayed.

    Args:
        tensors: seeds (Q,), factual (Q, C, H, W), jacobian, denoised, members and last_step (n, Q, C, H, W),
            ablations (ablated, Q, C, H, W), refined_units (2 k, Q), refined (2 k, Q, C, H, W), rotating_error (Q,);
            of inverted pictures replay_error and pull_spread (Q,), of rounded replays precision_error and
            precision_error_exact (Q,).
        ablated: units that were ablated exactly.
        names: of the queries, in words; None for those of seeds.
        block: units that are scored together: a matter of memory.
        kept: as `tables.tabulate` takes it; the units that were ablated are kept in any case.
        known: as `tables.tabulate` takes it.
    """
    seeds, factual, jacobian, images = tensors["seeds"], tensors["factual"], tensors["jacobian"], data.unit_pictures
    scored = Scored(seeds, factual, data, codebook, settings, block)
    responses = baselines.responses(tensors, codebook.weight)
    for name, response in responses.items():
        scored.respond(name, response)
    scored.compare()
    radius, norm_null = scored.scores["jvp"]["norm"], influence.norm(influence.gram(jacobian), scored.phantoms)
    scored.tests["jvp", "norm"] = significance.norm_significance(radius, norm_null)
    scored.estimate("jvp", lambda units: influence.projections(jacobian, factual, images[units]))
    scored.keep(tensors["refined_units"])
    scored.keep(ablated[:, None].expand(-1, len(seeds)))
    tables = of_denoising(scored, tensors["denoised"], codebook, data, names, kept, known)

    exact = tensors["ablations"] - factual
    truth = influence.displacement_scores(exact, factual, images[ablated])
    rows = [influence_rows("ablation", measure, score, seeds, ablated) for measure, score in truth.items()]
    rows.append(_refined(tensors, data, seeds, ablated))
    moved = {name: response.displacement(scored.codewords[ablated]) for name, response in responses.items()}
    table = _agreement(scored.at(ablated), moved, truth, exact, seeds)
    return tables._replace(
        rows=tables.rows.then(pd.concat(rows, ignore_index=True)),
        agreement=table,
        agreement_summary=summarise(table),
        radius=_radius(radius, norm_null, codebook, seeds).merge(tables.radius, on="query"),
        queries=_queries(tables.queries, tensors, agreement.relative_error(moved["jvp"], exact)),
    )


def _refined(tensors: dict[str, Tensor], data: UnitDataModule, seeds: Tensor, ablated: Tensor) -> pd.DataFrame:
    """Exact scores of every query's best units, less those that were ablated for all queries."""
    frames = []
    for q, seed in enumerate(seeds):
        units = tensors["refined_units"][:, q]
        moved = (tensors["refined"][:, q] - tensors["factual"][q])[:, None]
        scores = influence.displacement_scores(moved, tensors["factual"][q : q + 1], data.unit_pictures[units])
        frames += [influence_rows("ablation", measure, of, seed[None], units) for measure, of in scores.items()]
    table = pd.concat(frames, ignore_index=True)
    return table[~table.unit.isin(ablated.tolist())].drop_duplicates(["unit", "query", "measure"])


def _agreement(
    scores: Scores, moved: Mapping[str, Tensor], truth: Mapping[str, Tensor], exact: Tensor, seeds: Tensor
) -> pd.DataFrame:
    """Agreement with exact ablation, per query.

    The truth's pull is along d_i; `denoised*` predict it with scores along each unit's distinctive direction.

    Args:
        scores, moved, truth, exact: of the ablated units; `moved` are displacements of the methods that have one.
    """
    queries, frames = seeds.tolist(), []
    for method, measures in scores.items():
        for measure in MEASURES:
            score = measures.get(measure, measures.get("similarity"))
            if score is not None:
                rows = agreement_rows(score, truth[measure], moved.get(method), exact, queries)
                frames.append(rows.assign(truth="ablation", method=method, measure=measure))
    return pd.concat(frames, ignore_index=True)[AGREEMENT]


def agreement_rows(
    score: Float[Tensor, "units q"],
    target: Float[Tensor, "units q"],
    moved: Float[Tensor, "units q *image"] | None,
    exact: Float[Tensor, "units q *image"],
    queries: list[int],
) -> pd.DataFrame:
    """A row a query: how far a score agrees with a truth's, and its displacements with the truth's, if it has any."""
    return pd.DataFrame(
        {
            "query": queries,
            "pearson": agreement.pearson(score, target).numpy(),
            "spearman": agreement.spearman(score, target).numpy(),
            "cosine": np.nan if moved is None else agreement.cosine(moved, exact).numpy(),
            "relative_error": np.nan if moved is None else agreement.relative_error(moved, exact).numpy(),
        }
    )


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over queries of every statistic of an agreement table, with its 95 % interval within what it can be."""
    rows = []
    for (truth, method, measure), part in table.groupby(["truth", "method", "measure"], sort=False):
        for statistic in ("pearson", "spearman", "cosine", "relative_error"):
            values = torch.tensor(part[statistic].tolist(), dtype=torch.float64)
            known = int((~values.isnan()).sum())
            if known:
                least, most = (0, np.inf) if statistic == "relative_error" else (-1, 1)
                interval = np.clip(agreement.mean_interval(values), least, most)
                rows.append((truth, method, measure, statistic, *interval.tolist(), known))
    return pd.DataFrame(rows, columns=["truth", "method", "measure", "statistic", "mean", "low", "high", "queries"])


def _radius(norm: Tensor, null: Tensor, codebook: Codebook, seeds: Tensor) -> pd.DataFrame:
    """Its p comes in steps of about N over the number of codewords: `ddattr plan` says where that is no test."""
    radius = norm.max(0).values
    control, p = significance.radius_significance(radius, null, codebook)
    return pd.DataFrame(
        {
            "query": seeds.numpy(),
            "radius": radius.numpy(),
            "phantom_radius": control.numpy(),
            "p_value": p.numpy(),
        }
    )


def _queries(table: pd.DataFrame, tensors: dict[str, Tensor], error: Tensor) -> pd.DataFrame:
    """How far the first order can be trusted on every query, beside what every set says of its queries.

    Of inverted pictures also `replay_error`, the largest difference of a pixel between the replay and the picture, and
    `pull_spread`, as `inversion_spread` defines it. Of rounded replays also `precision_error` of the Jacobian and
    `precision_error_exact` of the ablated displacements, against those in float32.
    """
    found = {
        "jacobian_norm": instability(tensors["jacobian"]),
        "jvp_error": error,
        "rotating_error": tensors["rotating_error"],
        "unstable": error > UNSTABLE,
        **{name: tensors[name] for name in _OTHERS if name in tensors},
    }
    table = table.assign(**{name: values.numpy() for name, values in found.items()})
    return table[_QUERIES + [name for name in ("name", *_OTHERS) if name in table]]
