"""planted.csv: queries whose unit is known. How high does a method rank it, and how sure is it, as its share falls?

The scores are of the loss, of the denoising, and of displacements on a tape that the picture is given: they need no
model besides the members.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor

from ddattr.attribution.agreement import wilson
from ddattr.attribution.baselines import pixel
from ddattr.attribution.datamodel import subset_means
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.estimator import Estimator
from ddattr.attribution.influence import gram, norm, projections
from ddattr.attribution.loss import loss_change, residual_gram
from ddattr.attribution.significance import benjamini_hochberg, norm_significance
from ddattr.codebook import RANDOM
from ddattr.validation.measures import measures_of_displacement
from ddattr.validation.peers import feature_similarity, over_units
from ddattr.validation.study import Phase, Study

PHASE = Phase.MEMBERS


def tables(study: Study) -> Iterator[tuple[str, pd.DataFrame]]:
    """Of held-out pictures whose unit is known; left out where there are none.

    Displacements are of what the ensemble makes of the picture on one tape that leads to it, where the denoising has
    many draws. Others are discounted in every pull; lengths and losses, which have no direction, are plain contrasts.
    Where words are orthogonal, with what p is by.
    """
    answers, data, units = study.answers, study.answers.data, study.answers.data.unit_images
    known = (data.held_out_units >= 0).nonzero()[:, 0]
    if not len(known):
        return
    queries, held_out = answers.queries, data.held_out.at(known)
    ensemble, pictures = queries.under_held_out(answers.ensemble, known), held_out.images[:]
    residuals = residual_gram(ensemble, queries.process, pictures, queries.times, queries.noise)
    sizes = data.unit_of.bincount()
    shown = answers.shown(pictures)
    features = feature_similarity(answers.extractor, shown, data.pictures.images[:])
    features = over_units(features, data.unit_of) / sizes[:, None]
    denoised = queries.denoised(ensemble, pictures)
    made, response = queries.replayed(ensemble, pictures, study.plan.members_per_step)
    moved = measures_of_displacement(response, made, units, answers.seen_extractor, data.distance(made))
    directed = {
        "denoised_gls": distinctive(denoised, units, data.distance(pictures)),
        "denoised_toward": projections(denoised, pictures, units),
        "jvp_gls": moved["pixel"],
        "jvp_distinctive": moved["pixel_distinctive"],
        **{f"jvp_{name}": moved[name] for name in ("feature", "region") if name in moved},
    }
    codewords, phantoms = answers.codewords, answers.phantoms
    methods = influence_on_loss(residuals, codewords, phantoms)
    methods |= influence_by_pull(directed, answers.estimator(pictures))
    methods |= influence_by_length({"jvp_norm": response, "denoised_norm": denoised}, codewords, phantoms)
    methods |= {"feature": Scored(features), "pixel": Scored(pixel(shown, data.pictures.unit_images))}
    planted = data.held_out_units[known]
    table, summary = planted_tables(methods, planted, sizes, known.tolist(), answers.settings.level)
    codebook = study.plan.codebook
    if codebook.design != RANDOM:
        tested = [name for name, scored in methods.items() if scored.p is not None]
        by = {name: codebook.p_by if name in directed else codebook.rank_by for name in tested}
        table, summary = (found.assign(p_by=found.method.map(by)) for found in (table, summary))
    yield "planted", table
    yield "planted_summary", summary


class Scored(NamedTuple):
    """Scores of a method, (units, q), larger for more support, with z and p where it has a null."""

    score: Tensor
    z: Tensor | None = None
    p: Tensor | None = None


def influence_on_loss(
    gram: Float[Tensor, "q n n"], codewords: Bool[Tensor, "units n"], phantoms: Bool[Tensor, "phantoms n"]
) -> dict[str, Scored]:
    """Influence on the loss of the ensemble, and on those of its members, with z and p.

    Neither score has a direction of its own: its null, the scores of phantoms, is the same for all units.
    """
    outputs = -gram.diagonal(dim1=1, dim2=2).T
    methods: dict[str, Callable[[Tensor], Tensor]] = {
        "loss": lambda codewords: loss_change(gram, codewords),
        "member_loss": lambda codewords: subset_means(outputs, codewords),
    }
    found = {}
    for name, method in methods.items():
        score = method(codewords)
        found[name] = Scored(score, *norm_significance(score, method(phantoms)))
    return found


def influence_by_pull(answers: Mapping[str, Float[Tensor, "n units q"]], estimator: Estimator) -> dict[str, Scored]:
    """Pull of what members answer along every unit's direction, the other units discounted, with z and p.

    Beside `METHOD_gls`, which is tested, stands what to expect of it, `METHOD_posterior`: that is no test.

    Args:
        answers: by method.
    """
    found = {}
    for name, given in answers.items():
        estimate = estimator.estimate(given)
        found[name] = Scored(estimate.pull, *estimator.test(estimate.adjusted))
        if name.endswith("_gls"):
            found[name.removesuffix("_gls") + "_posterior"] = Scored(estimate.posterior)
    return found


def influence_by_length(
    responses: Mapping[str, Float[Tensor, "n q *image"]],
    codewords: Bool[Tensor, "units n"],
    phantoms: Bool[Tensor, "phantoms n"],
) -> dict[str, Scored]:
    """How far removing a unit moves what members answer at all, with z and p; plain contrasts, and no sign."""
    found = {}
    for name, response in responses.items():
        products = gram(response)
        score = norm(products, codewords)
        found[name] = Scored(score, *norm_significance(score, norm(products, phantoms)))
    return found


def planted_tables(
    methods: Mapping[str, Scored],
    planted: Int[Tensor, "q"],
    pictures: Int[Tensor, "units"],
    queries: list[int],
    level: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """planted.csv, a row a query and method, and its summary by share and method. `first` is the unit ranked first.

    Args:
        methods: scores of all units on all queries.
        planted: the unit that each query is of.
        pictures: of every unit.
        queries: names of the queries.
        level: of q, at which a unit is significant.
    """
    copies, pattern = pictures[planted], torch.unique(planted, return_inverse=True)[1]
    its_unit = torch.arange(len(pictures))[:, None] == planted
    frames = []
    for method, (score, z, p) in methods.items():
        q = None if p is None else benjamini_hochberg(p)
        others = torch.nan if q is None else ((q <= level) & ~its_unit).sum(0).numpy()
        frames.append(
            pd.DataFrame(
                {
                    "query": queries,
                    "pattern": pattern.numpy(),
                    "share": (copies / pictures.sum()).numpy(),
                    "copies": copies.numpy(),
                    "unit": planted.numpy(),
                    "method": method,
                    "rank": ranks(score, planted).numpy(),
                    "score": _at(score, planted),
                    "z": _at(z, planted),
                    "p_value": _at(p, planted),
                    "q_value": _at(q, planted),
                    "others": others,
                    "level": level,
                    "first": score.argmax(0).numpy(),
                }
            )
        )
    table = pd.concat(frames, ignore_index=True)
    return table, summarise(table)


def ranks(score: Float[Tensor, "units q"], planted: Int[Tensor, "q"]) -> Int[Tensor, "q"]:
    """Place of every query's own unit: 1 is the largest score; ties count against it."""
    return (score >= score.gather(0, planted[None])).sum(0)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """What planted.csv says of every share and method, with 95 % intervals.

    recall_at_1 and significant (q <= level) are shares of queries; median_q, mean_z; others is the mean number of other
    units with q <= level, false positives unless their pictures serve the pattern too. Queries of one pattern have its
    unit and codeword in common, so intervals are over patterns: Wilson's for shares, Student's for means; a median has
    none.
    """
    rows = []
    for (share, copies, method), part in table.groupby(["share", "copies", "method"], sort=False):
        measures: dict[str, tuple[pd.Series, Callable]] = {"recall_at_1": (part["rank"] == 1, np.mean)}
        if part.q_value.notna().all():
            measures |= {
                "significant": (part.q_value <= part.level, np.mean),
                "median_q": (part.q_value, np.median),
                "mean_z": (part.z, np.mean),
                "others": (part.others, np.mean),
            }
        for name, (values, statistic) in measures.items():
            patterns = [group.to_numpy(float) for _, group in values.groupby(part.pattern)]
            value = float(statistic(np.concatenate(patterns)))
            low, high = np.nan, np.nan
            if values.dtype == bool:
                low, high = wilson(value, len(patterns))
            elif statistic is np.mean:
                low, high = _interval(value, patterns)
            rows.append(
                {
                    "share": share,
                    "copies": copies,
                    "method": method,
                    "statistic": name,
                    "value": value,
                    "low": low,
                    "high": high,
                    "patterns": len(patterns),
                    "queries": len(part),
                }
            )
    return pd.DataFrame(rows)


def _interval(value: float, patterns: list[np.ndarray]) -> tuple[float, float]:
    """Student's, of a mean over patterns, each with all of its queries; of two it is as wide as it has to be."""
    means, count = [pattern.mean() for pattern in patterns], len(patterns)
    if count < 2:
        return np.nan, np.nan
    half = float(stats.t.ppf(0.975, count - 1) * np.std(means, ddof=1) / count**0.5)
    return value - half, value + half


def _at(values: Tensor | None, planted: Tensor):
    return torch.nan if values is None else values.gather(0, planted[None])[0].numpy()
