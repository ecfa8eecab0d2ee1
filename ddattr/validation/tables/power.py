"""power.csv: which measure finds most? Denoising, displacement in pixels, features or a region, lengths, loss."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.attribution.estimator import Estimator
from ddattr.attribution.influence import gram, norm, similarity
from ddattr.attribution.loss import loss_projections
from ddattr.attribution.sets import sets_of
from ddattr.attribution.significance import TestSettings, benjamini_hochberg, norm_significance
from ddattr.codebook import RANDOM, Codebook
from ddattr.validation.measures import measures_of_any, measures_of_displacement
from ddattr.validation.study import Phase, Study

PHASE = Phase.MEMBERS


def tables(study: Study) -> Iterator[tuple[str, pd.DataFrame]]:
    """Of real queries the measures that need no tape; of generated ones also those of the displacement.

    Where words are orthogonal, with what p is by.
    """
    answers, images, found = study.answers, study.answers.data.unit_images, []
    partitions, codebook, settings = answers.data.partitions(), study.plan.codebook, answers.settings
    for kind, where in answers.queries.kinds().items():
        pictures, loss = answers.queries.pictures[where], loss_projections(answers.gram[where])
        denoised = answers.denoised if kind == "generated" else answers.denoised_real
        distance, lengths = answers.data.distance(pictures), {"denoised_norm": denoised}
        measures = measures_of_any(denoised, pictures, images, loss, distance)
        if kind == "generated":
            measures |= measures_of_displacement(answers.jacobian, pictures, images, answers.seen_extractor, distance)
            lengths = {"norm": answers.jacobian, **lengths}
        ten = distance.topk(min(10, len(distance)), 0, largest=False).indices
        labels = {name: torch.searchsorted(of.unique(), of[ten].mode(0).values) for name, of in partitions.items()}
        tested = power(measures, distance.double(), partitions, labels, codebook, settings)
        length = power_of_norm(lengths, distance.double(), codebook, settings)
        if codebook.design != RANDOM:
            tested, length = tested.assign(p_by=codebook.p_by), length.assign(p_by=codebook.rank_by)
        found += [tested.assign(queries=kind), length.assign(queries=kind)]
    yield "power", pd.concat(found, ignore_index=True)


def power(
    measures: Mapping[str, Float[Tensor, "n units q"]],
    distance: Float[Tensor, "units q"],
    partitions: Mapping[str, Int[Tensor, "units"]],
    labels: Mapping[str, Int[Tensor, "q"]],
    codebook: Codebook,
    settings: TestSettings,
) -> pd.DataFrame:
    """A row a measure, a share of the variance put down to other units, and a weighting of the units within a set.

    Every measure is tested by plain contrasts (share 0) and with the other units discounted.

    `z_nearest`: mean z of the nearest unit; `found_nearest`: share of queries where it has p <= level. `attributable`:
    share of queries with a unit of q <= level; `units`: mean number of such units. For every kind of set: mean z of the
    query's own set (`z_<kind>`) and the share of queries with a set of q <= level. Compare z only between measures of
    one kind of null: a pull's is normal, a length's is skewed.

    Args:
        distance: of every unit to every query.
        labels: number of the query's own set among the sorted ones, by kind.
    """
    codewords, rows = codebook.codewords(torch.arange(codebook.units)), []
    near, queries = similarity(distance), torch.arange(distance.shape[1])
    for (name, answers), share in itertools.product(measures.items(), sorted({0.0, settings.gls_share})):
        estimator = Estimator(codewords, near, share, basis=codebook.basis)
        z, p = estimator.test(estimator.gls.adjust(answers))
        row, counts = _of_units(name, z, p, distance, settings.level)
        for weighting, weight in (("equal", torch.ones_like(near)), ("nearness", near)):
            found = dict(row, weighting=weighting)
            for kind, of in partitions.items():
                _, sets = sets_of(of, len(queries))
                adjusted = estimator.gls.adjust_sets(weight * answers, sets)
                _, z, p = estimator.test_adjusted_sets(adjusted, sets, codebook)
                found[f"z_{kind}"] = z[labels[kind], queries].mean().item()
                found[f"attributable_{kind}"] = _reached(p, settings.level)
            rows.append({**found, "gls_share": share, **counts})
    return pd.DataFrame(rows)


def power_of_norm(
    responses: Mapping[str, Float[Tensor, "n q *image"]],
    distance: Float[Tensor, "units q"],
    codebook: Codebook,
    settings: TestSettings,
) -> pd.DataFrame:
    """A row a response: how far removing a unit moves it at all, as `power` has it for directions.

    A length has no sign, and no sum over a set: it has plain contrasts and single units alone.
    """
    codewords, rows = codebook.codewords(torch.arange(codebook.units)), []
    phantoms = codebook.sample_phantoms(settings.phantoms, settings.seed)
    for name, response in responses.items():
        products = gram(response)
        z, p = norm_significance(norm(products, codewords), norm(products, phantoms))
        row, counts = _of_units(name, z, p, distance, settings.level)
        rows.append({**row, "weighting": "equal", "gls_share": 0.0, **counts})
    return pd.DataFrame(rows)


def _of_units(
    name: str,
    z: Float[Tensor, "units q"],
    p: Float[Tensor, "units q"],
    distance: Float[Tensor, "units q"],
    level: float,
) -> tuple[dict[str, Any], dict[str, float]]:
    """What a table says of single units: a row's first columns, and its last."""
    nearest = distance.argmin(0), torch.arange(distance.shape[1])
    return (
        {"measure": name, "z_nearest": z[nearest].mean().item(), "attributable": _reached(p, level)},
        {
            "found_nearest": (p[nearest] <= level).double().mean().item(),
            "units": (benjamini_hochberg(p) <= level).sum(0).double().mean().item(),
        },
    )


def _reached(p: Float[Tensor, "tests q"], level: float) -> float:
    return (benjamini_hochberg(p).nan_to_num(1).min(0).values <= level).double().mean().item()
