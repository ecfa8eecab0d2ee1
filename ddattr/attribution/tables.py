"""The tables of an attribution, from the tensors of its replays: influence, sets, agreement, radius, queries.

Rows are (unit, query); a query is named by its seed. Every number here can be made again from the tensors alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.attribution import agreement, baselines, influence, significance
from ddattr.attribution.background import Background
from ddattr.attribution.denoised import along_own
from ddattr.attribution.influence import Response
from ddattr.attribution.jacobian import instability
from ddattr.attribution.posterior import measured
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.ensemble.likeness import unusual

MEASURES = ("pull", "norm")
POSTERIOR = {"jvp": "posterior", "denoised": "denoised_posterior"}  # of what is measured with the others discounted
UNSTABLE = 0.25  # a query is flagged when the first order misses this share of its exact displacements


class Tables(NamedTuple):
    """Tables by the names of the files that hold them."""

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
    tensors: dict[str, Tensor],
    truth: Tensor,
    codebook: Codebook,
    data: UnitDataModule,
    seed: int,
    level: float,
    phantoms: int,
    draws: int,
    neighbourhoods: list[int],
    background: float,
) -> Tables:
    """All tables of an attribution.

    Args:
        tensors: seeds (Q,), factual (Q, C, H, W), jacobian, denoised, members and last_step (n, Q, C, H, W),
            ablations (truth, Q, C, H, W), refined_units (2 k, Q), refined (2 k, Q, C, H, W), rotating_error (Q,).
        truth: units that were ablated exactly.
        seed, level, phantoms, draws, neighbourhoods, background: as `AttributionModule` has them.
    """
    seeds, factual, jacobian = tensors["seeds"], tensors["factual"], tensors["jacobian"]
    units = torch.arange(codebook.units)
    words, images = codebook.codewords(units), data.unit_images
    methods = _displacements(tensors, codebook)
    scored = {name: influence.scores(response, factual, images, words) for name, response in methods.items()}
    scored["pixel"] = {"similarity": baselines.pixel(factual, images)}
    scored["random"] = {"similarity": baselines.random(codebook.units, seeds.tolist(), seed)}

    distance, null = -scored["pixel"]["similarity"].double(), codebook.sample_phantoms(phantoms, seed)
    near, norm_null = influence.nearness(distance), influence.norm(influence.gram(jacobian), null)
    others = Background(words, near, background)
    along = {
        "jvp": influence.projections(jacobian, factual, images),
        "denoised": along_own(tensors["denoised"], images),
    }
    scored["denoised"] = {"pull": influence.pull(along["denoised"], words)}
    tests = {("jvp", "norm"): significance.norm_significance(scored["jvp"]["norm"], norm_null)}
    for method, name in POSTERIOR.items():
        answers, score, expected = measured(along[method], others, codebook, distance)
        scored |= {f"{method}_gls": {"pull": score}, name: {"pull": expected}}
        tests[f"{method}_gls", "pull"] = significance.pull_significance(score, answers, null, codebook)
    exact = tensors["ablations"] - factual
    ablated = influence.displacement_scores(exact, factual, images[truth])
    frames = [
        _scores(name, measure, score, seeds, tests.get((name, measure)))
        for name, measures in scored.items()
        for measure, score in measures.items()
    ]
    frames += [_scores("ablation", measure, score, seeds, None, truth) for measure, score in ablated.items()]
    frames += [_refined(tensors, data, seeds, truth)]
    sets, resolved = _sets(
        near * along["denoised"],
        others,
        scored["pixel"]["similarity"],
        codebook,
        data,
        seeds,
        draws,
        seed,
        neighbourhoods,
        level,
    )
    q = significance.benjamini_hochberg(tests["denoised_gls", "pull"][1])
    table, summary = _agreement(methods, scored, ablated, exact, words[truth], truth, seeds, seed)
    return Tables(
        pd.concat(frames, ignore_index=True),
        sets,
        table,
        summary,
        _radius(scored["jvp"]["norm"], norm_null, q, codebook, seeds, level, resolved),
        _queries(tensors, exact, words[truth], data),
    )


def _displacements(tensors: dict[str, Tensor], codebook: Codebook) -> dict[str, Response]:
    """Methods that say where a picture goes, and not only how far."""
    return {
        "jvp": Response(tensors["jacobian"]),
        "individual": baselines.individual(tensors["members"], tensors["factual"], codebook.weight),
        "individual_centred": baselines.individual_centred(tensors["members"]),
        "last_step": Response(tensors["last_step"]),
    }


def _scores(method: str, measure: str, score: Tensor, seeds: Tensor, tests, units: Tensor | None = None):
    """Long table of one method and measure; z, p and q where they were tested."""
    count, queries = score.shape
    units = torch.arange(count) if units is None else units
    z, p = (torch.full_like(score, torch.nan),) * 2 if tests is None else tests
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


def _refined(tensors: dict[str, Tensor], data: UnitDataModule, seeds: Tensor, truth: Tensor) -> pd.DataFrame:
    """Exact scores of every query's best units, less those that are in the truth already."""
    frames = []
    for q, seed in enumerate(seeds):
        units = tensors["refined_units"][:, q]
        moved = (tensors["refined"][:, q] - tensors["factual"][q])[:, None]
        scores = influence.displacement_scores(moved, tensors["factual"][q : q + 1], data.unit_images[units])
        frames += [_scores("ablation", measure, score, seed[None], None, units) for measure, score in scores.items()]
    table = pd.concat(frames, ignore_index=True)
    return table[~table.unit.isin(truth.tolist())].drop_duplicates(["unit", "query", "measure"])


def _sets(weighted, others, alike, codebook, data, seeds, draws, seed, wanted, level):
    """Labels, clusters and nearest neighbourhoods as sets, their units by nearness, and every query's resolution."""
    frames = []
    for kind, of in data.partitions().items():
        names, which = torch.unique(of, return_inverse=True)
        padded = _pad([(which == s).nonzero()[:, 0] for s in range(len(names))])
        groups = padded[:, None].expand(-1, len(seeds), -1)
        answers = others.discount_sets(weighted, groups)
        total, z, p = significance.set_significance(groups, answers, codebook, draws, seed)
        q = significance.benjamini_hochberg(p)
        frames.append(_set_rows([f"{kind}:{name}" for name in names.tolist()], groups, seeds, total, z, p, q))
    sizes, groups = neighbourhoods(alike, wanted)
    answers = others.discount_sets(weighted, groups)
    total, z, p = significance.set_significance(groups, answers, codebook, draws, seed)
    # q: a neighbourhood counts only if all larger ones do, so its q is the largest p from it upwards
    q = p.nan_to_num(0).flip(0).cummax(0).values.flip(0).where(p.isfinite(), torch.nan)
    frames.append(_set_rows([f"nearest:{size}" for size in sizes], groups, seeds, total, z, p, q))
    index = significance.resolution(p, level)
    resolved = torch.where(index >= 0, torch.tensor(sizes)[index], -1)
    return pd.concat(frames, ignore_index=True), resolved


def neighbourhoods(alike: Float[Tensor, "units q"], wanted: Sequence[int]) -> tuple[list[int], Int[Tensor, "sets q k"]]:
    """The k units that are most alike, as sets padded with -1, for every k wanted that there are units for; and k."""
    sizes = [size for size in wanted if size <= len(alike)]
    nearest = alike.argsort(0, descending=True)[: max(sizes)].T
    return sizes, torch.stack([torch.where(torch.arange(max(sizes)) < size, nearest, -1) for size in sizes])


def _set_rows(names, groups, seeds, total, z, p, q) -> pd.DataFrame:
    queries = len(seeds)
    return pd.DataFrame(
        {
            "set": np.repeat(names, queries),
            "size": (groups >= 0).sum(-1).flatten().numpy(),
            "query": seeds.repeat(len(names)).numpy(),
            "measure": "pull",
            "score": total.flatten().numpy(),
            "z": z.flatten().numpy(),
            "p_value": p.flatten().numpy(),
            "q_value": q.flatten().numpy(),
        }
    )


def _pad(sets: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(sets, batch_first=True, padding_value=-1)


def _agreement(methods, scored, ablated, exact, words, truth, seeds, seed):
    """Agreement with exact ablation, per query and as means with bootstrap intervals.

    The truth's pull is along d_i; `denoised*` foretell it with scores along what is the unit's own.
    """
    frames = []
    for name, scores in scored.items():
        moved = methods[name].displacement(words) if name in methods else None
        for measure in MEASURES:
            if (score := scores.get(measure, scores.get("similarity"))) is None:
                continue
            score = score[truth]
            frames.append(
                pd.DataFrame(
                    {
                        "truth": "ablation",
                        "method": name,
                        "measure": measure,
                        "query": seeds.numpy(),
                        "pearson": agreement.pearson(score, ablated[measure]).numpy(),
                        "spearman": agreement.spearman(score, ablated[measure]).numpy(),
                        "cosine": np.nan if moved is None else agreement.cosine(moved, exact).numpy(),
                        "relative_error": np.nan if moved is None else agreement.relative_error(moved, exact).numpy(),
                    }
                )
            )
    table = pd.concat(frames, ignore_index=True)
    return table, summarise(table, seed)


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


def _radius(norm, null, q, codebook, seeds, level, resolved) -> pd.DataFrame:
    radius = norm.max(0).values
    control, p = significance.radius_significance(radius, null, codebook)
    return pd.DataFrame(
        {
            "query": seeds.numpy(),
            "radius": radius.numpy(),
            "phantom_radius": control.numpy(),
            "p_value": p.numpy(),
            "attributable": (q.min(0).values <= level).numpy(),
            "resolution": resolved.numpy(),
            "level": level,
        }
    )


def _queries(tensors, exact, words, data) -> pd.DataFrame:
    """How far the first order can be trusted on every query, its nearest pictures' label, whether it is like any."""
    moved, factual = Response(tensors["jacobian"]).displacement(words), tensors["factual"]
    error = agreement.relative_error(moved, exact)
    labels = torch.full((len(factual),), -1)
    if data.labels is not None:
        near = baselines.pixel(factual, data.images).topk(min(10, len(data.images)), 0).indices
        labels = data.labels[near].mode(0).values
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
