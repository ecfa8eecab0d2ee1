"""The tables of an attribution, from the tensors of its replays.

Rows are (unit, query); a query is named by its seed. Every number here can be made again from the tensors alone.
`attributions` is what a user reads first; the others are of all units and methods.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.attribution import agreement, baselines, influence, significance
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.estimator import Estimate, Estimator
from ddattr.attribution.jacobian import instability
from ddattr.attribution.methods import SUPPORT, TESTED
from ddattr.attribution.sets import neighbourhoods, sets_of
from ddattr.attribution.significance import TestSettings
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.pictures import blocks
from ddattr.ensemble.likeness import unusual

MEASURES = ("pull", "norm")
AGREEMENT = ["truth", "method", "measure", "query", "pearson", "spearman", "cosine", "relative_error"]
UNSTABLE = 0.25  # a query is flagged when the first order misses this share of its exact displacements
Scores = Mapping[str, Mapping[str, Float[Tensor, "units q"]]]  # by method and measure


class Tables(NamedTuple):
    """Tables by the names of the files that hold them."""

    attributions: pd.DataFrame
    influence: pd.DataFrame
    sets: pd.DataFrame
    agreement: pd.DataFrame
    agreement_summary: pd.DataFrame
    radius: pd.DataFrame
    queries: pd.DataFrame

    def metrics(self) -> dict[str, float]:
        """Flat metrics, the method in the key; the paper's measure `norm` is bare, `pull` goes by its name."""
        metrics = {}
        for row in self.agreement_summary.itertuples():
            measure = "" if row.measure == "norm" else f"/{row.measure}"
            metrics[f"agreement/{row.truth}/{row.method}{measure}/{row.statistic}"] = row.mean
        metrics["significance/unit/attributable"] = float(self.radius.attributable.mean())
        for kind, rows in self.sets.groupby(self.sets.set.str.partition(":")[0]):
            if kind != "nearest":
                best = rows.groupby("query").q_value.min()
                metrics[f"significance/{kind}/attributable"] = float((best <= self.radius.level.iloc[0]).mean())
        metrics["jacobian/rotating_error"] = float(self.queries.rotating_error.mean())
        metrics["jacobian/jvp_error"] = float(self.queries.jvp_error.median())
        return metrics


def tabulate(
    tensors: dict[str, Tensor], ablated: Tensor, codebook: Codebook, data: UnitDataModule, settings: TestSettings
) -> Tables:
    """All tables of an attribution.

    Args:
        tensors: seeds (Q,), factual (Q, C, H, W), jacobian, denoised, members and last_step (n, Q, C, H, W),
            ablations (ablated, Q, C, H, W), refined_units (2 k, Q), refined (2 k, Q, C, H, W), rotating_error (Q,).
        ablated: units that were ablated exactly.
    """
    seeds, factual, jacobian = tensors["seeds"], tensors["factual"], tensors["jacobian"]
    codewords = codebook.codewords(torch.arange(codebook.units))
    images = data.unit_images
    responses = baselines.responses(tensors, codebook.weight)
    scores = {name: influence.scores(response, factual, images, codewords) for name, response in responses.items()}
    pixel = baselines.pixel(factual, images)
    scores["pixel"] = {"similarity": pixel}
    scores["random"] = {"similarity": baselines.random(codebook.units, seeds.tolist(), settings.seed)}

    phantoms = codebook.sample_phantoms(settings.phantoms, settings.seed)
    norm_null = influence.norm(influence.gram(jacobian), phantoms)
    tests = {("jvp", "norm"): significance.norm_significance(scores["jvp"]["norm"], norm_null)}
    estimator = Estimator.of_distance(codewords, data.distance(factual), settings.gls_share)
    answers = {
        "jvp": influence.projections(jacobian, factual, images),
        "denoised": distinctive(tensors["denoised"], images),
    }
    for method, given in answers.items():
        found: Estimate = estimator.estimate(given)
        scores |= {name: scores.get(name, {}) | {"pull": pull} for name, pull in found.named(method).items()}
        tests[f"{method}_gls", "pull"] = estimator.test(found.adjusted, phantoms)

    exact = tensors["ablations"] - factual
    truth = influence.displacement_scores(exact, factual, images[ablated])
    influences = [
        _influence(name, measure, score, seeds, tests.get((name, measure)))
        for name, measures in scores.items()
        for measure, score in measures.items()
    ]
    influences += [_influence("ablation", measure, score, seeds, None, ablated) for measure, score in truth.items()]
    influences += [_refined(tensors, data, seeds, ablated)]
    moved = {name: response.displacement(codewords[ablated]) for name, response in responses.items()}
    table = _agreement({name: _at(of, ablated) for name, of in scores.items()}, moved, truth, exact, seeds)
    z, p = tests[TESTED, "pull"]
    sets, resolution = _sets(estimator, answers["denoised"], data.distance(factual), codebook, data, seeds, settings)
    radius = _radius(scores["jvp"]["norm"], norm_null, codebook, seeds)
    best_q = significance.benjamini_hochberg(p).min(0).values
    radius = radius.assign(
        attributable=(best_q <= settings.level).numpy(), resolution=resolution.numpy(), level=settings.level
    )
    return Tables(
        attributions(z, p, scores[SUPPORT]["pull"], seeds, settings.level),
        pd.concat(influences, ignore_index=True),
        sets,
        table,
        summarise(table, settings.seed),
        radius,
        _queries(tensors, moved["jvp"], exact, data),
    )


def attributions(
    z: Float[Tensor, "units q"],
    p: Float[Tensor, "units q"],
    support: Float[Tensor, "units q"],
    seeds: Tensor,
    level: float,
) -> pd.DataFrame:
    """What a user reads first: a row a query and unit that matters, which is to say that its q is at most `level`.

    `support` is the expected pull, and `rank` the unit's place by it among all units. It ranks; it is no share of the
    picture, and units' supports sum to nothing.
    """
    q_values = significance.benjamini_hochberg(p)
    rank = support.argsort(0, descending=True).argsort(0) + 1
    units, queries = (q_values <= level).nonzero(as_tuple=True)
    columns = {"rank": rank, "p_value": p, "q_value": q_values, "z": z, "support": support}
    table = pd.DataFrame(
        {"query": seeds[queries].numpy(), "unit": units.numpy()}
        | {name: values[units, queries].numpy() for name, values in columns.items()}
    )
    return table.sort_values(["query", "rank"], ignore_index=True)


def _at(scores: Mapping[str, Tensor], units: Tensor) -> dict[str, Tensor]:
    return {measure: score[units] for measure, score in scores.items()}


def _influence(
    method: str,
    measure: str,
    score: Tensor,
    seeds: Tensor,
    test: tuple[Tensor, Tensor] | None,
    units: Tensor | None = None,
) -> pd.DataFrame:
    """Long table of one method and measure; z, p and q where it was tested."""
    count, queries = score.shape
    units = torch.arange(count) if units is None else units
    z, p = (torch.full_like(score, torch.nan),) * 2 if test is None else test
    return pd.DataFrame(
        {
            "unit": units.repeat_interleave(queries).numpy(),
            "query": seeds.repeat(count).numpy(),
            "method": method,
            "measure": measure,
            "score": score.flatten().numpy(),
            "z": z.flatten().numpy(),
            "p_value": p.flatten().numpy(),
            "q_value": significance.benjamini_hochberg(p).flatten().numpy(),
        }
    )


def _refined(tensors: dict[str, Tensor], data: UnitDataModule, seeds: Tensor, ablated: Tensor) -> pd.DataFrame:
    """Exact scores of every query's best units, less those that were ablated for all queries."""
    frames = []
    for q, seed in enumerate(seeds):
        units = tensors["refined_units"][:, q]
        moved = (tensors["refined"][:, q] - tensors["factual"][q])[:, None]
        scores = influence.displacement_scores(moved, tensors["factual"][q : q + 1], data.unit_images[units])
        frames += [_influence("ablation", measure, of, seed[None], None, units) for measure, of in scores.items()]
    table = pd.concat(frames, ignore_index=True)
    return table[~table.unit.isin(ablated.tolist())].drop_duplicates(["unit", "query", "measure"])


def _sets(
    estimator: Estimator,
    answers: Tensor,
    distance: Tensor,
    codebook: Codebook,
    data: UnitDataModule,
    seeds: Tensor,
    settings: TestSettings,
) -> tuple[pd.DataFrame, Tensor]:
    """Labels, clusters and nearest neighbourhoods as sets, and every query's resolution."""
    frames = []
    for kind, of in data.partitions().items():
        names, sets = sets_of(of, len(seeds))
        total, z, p = estimator.test_sets(answers, sets, codebook, settings.draws, settings.seed)
        q = significance.benjamini_hochberg(p)
        frames.append(_set_rows([f"{kind}:{name}" for name in names], sets, seeds, total, z, p, q))
    sizes, sets = neighbourhoods(-distance, settings.neighbourhoods)
    total, z, p = estimator.test_sets(answers, sets, codebook, settings.draws, settings.seed)
    # q: a neighbourhood counts only if all larger ones do, so its q is the largest p from it upwards
    q = p.nan_to_num(0).flip(0).cummax(0).values.flip(0).where(p.isfinite(), torch.nan)
    frames.append(_set_rows([f"nearest:{size}" for size in sizes], sets, seeds, total, z, p, q))
    index = significance.resolution(p, settings.level)
    resolution = torch.where(index >= 0, torch.tensor(sizes)[index], -1)
    return pd.concat(frames, ignore_index=True), resolution


def _set_rows(
    names: list[str], sets: Tensor, seeds: Tensor, total: Tensor, z: Tensor, p: Tensor, q: Tensor
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "set": np.repeat(names, len(seeds)),
            "size": (sets >= 0).sum(-1).flatten().numpy(),
            "query": seeds.repeat(len(names)).numpy(),
            "measure": "pull",
            "score": total.flatten().numpy(),
            "z": z.flatten().numpy(),
            "p_value": p.flatten().numpy(),
            "q_value": q.flatten().numpy(),
        }
    )


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


def summarise(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Mean over queries of every statistic of an agreement table, with its 95 % bootstrap interval."""
    rows = []
    for (truth, method, measure), part in table.groupby(["truth", "method", "measure"], sort=False):
        for statistic in ("pearson", "spearman", "cosine", "relative_error"):
            values = torch.tensor(part[statistic].tolist(), dtype=torch.float64)
            known = int((~values.isnan()).sum())
            if known:
                interval = agreement.bootstrap_mean(values, seed)
                rows.append((truth, method, measure, statistic, *interval, known))
    return pd.DataFrame(rows, columns=["truth", "method", "measure", "statistic", "mean", "low", "high", "queries"])


def _radius(norm: Tensor, null: Tensor, codebook: Codebook, seeds: Tensor) -> pd.DataFrame:
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


def _queries(tensors: dict[str, Tensor], moved: Tensor, exact: Tensor, data: UnitDataModule) -> pd.DataFrame:
    """How far the first order can be trusted on every query, its nearest pictures' label, whether it is like any."""
    factual = tensors["factual"]
    error = agreement.relative_error(moved, exact)
    labels = torch.full((len(factual),), -1)
    if data.labels is not None:
        nearest = (
            torch.cat([baselines.pixel(factual, block) for block in blocks(data.images)])
            .topk(min(10, len(data.images)), 0)
            .indices
        )
        labels = data.labels[nearest].mode(0).values
    distance, unlike = unusual(factual.clamp(-1, 1), data.images, data.held_out.images[data.held_out_units < 0])
    return pd.DataFrame(
        {
            "query": tensors["seeds"].numpy(),
            "jacobian_norm": instability(tensors["jacobian"]).numpy(),
            "jvp_error": error.numpy(),
            "rotating_error": tensors["rotating_error"].numpy(),
            "label": labels.numpy(),
            "unstable": (error > UNSTABLE).numpy(),
            "nearest": distance.numpy(),
            "unlike_data": unlike.numpy(),
        }
    )
