"""calibration.csv, false_attribution.csv: what an attribution must not find.

Units that no member ever saw, and units that are nearest and were removed.
"""

import math
from collections.abc import Iterator, Mapping

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.attribution.baselines import pixel
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.estimator import Estimator
from ddattr.attribution.influence import pixel_distance, similarity
from ddattr.attribution.sets import sets_of
from ddattr.attribution.significance import benjamini_hochberg
from ddattr.codebook import Codebook
from ddattr.diffusion.noise import Stream, generator
from ddattr.validation.intervals import means
from ddattr.validation.study import Phase, Study

PHASE = Phase.MEMBERS
_REDRAWS = 200  # codebooks


def tables(study: Study) -> Iterator[tuple[str, pd.DataFrame]]:
    """Calibration is left out where no picture, or one, was held out."""
    table = _false_attribution(study)
    yield "false_attribution", table
    yield "false_attribution_summary", means(table, ["removed"], ["unchanged", "moved"], study.seed)
    answers = study.answers
    unknown = answers.data.held_out_units < 0
    if unknown.sum() > 1:
        held = answers.data.held_out.at(unknown)
        labels = {} if held.labels is None else {"label": held.labels}
        table = calibration(
            answers.denoised,
            answers.queries.factual,
            held.images[:],
            labels,
            study.plan.codebook,
            _REDRAWS,
            answers.settings.level,
            gls_share=answers.settings.gls_share,
        )
        yield "calibration", table
        yield "calibration_summary", means(table, ["test", "level"], ["rejected"], study.seed)


def _false_attribution(study: Study) -> pd.DataFrame:
    """The nearest unit and a random other one are ablated: is the nearest unit still the same?"""
    answers, queries, images = study.answers, study.answers.queries, study.answers.data.unit_images
    nearest, others = pixel(queries.factual, images).argmax(0), max(1, len(images) - 1)
    draws = [generator(study.seed, Stream.RANDOM_BASELINE, step=s, attempt=1).integers(others) for s in queries.seeds]
    removed = torch.stack([nearest, (nearest + 1 + torch.tensor(draws)) % len(images)])
    ablated = answers.ablations(answers.codewords[removed]) + queries.factual
    return false_attribution(queries.factual, ablated, removed, images, queries.seeds)


def calibration(
    response: Float[Tensor, "n q *image"],
    factual: Float[Tensor, "q *image"],
    strangers: Float[Tensor, "units *image"],
    sets: Mapping[str, Int[Tensor, "units"]],
    codebook: Codebook,
    redraws: int,
    level: float,
    phantoms: int | None = None,
    gls_share: float = 0.5,
) -> pd.DataFrame:
    """False positives among pictures that no member saw, when they are given codewords at random, many times.

    They have no influence by construction, but look like those that have. A row a re-drawn codebook: the share of
    tests with p <= level, of units and of sets, and the share of queries in which any unit has q <= level; that is the
    false discovery rate, since every discovery is false. All should be at most `level`, but for chance. As the null is
    exact, this is so whatever the members are: it tests the tests, on real responses.

    Args:
        strangers: pictures of the same kind as the data, each a unit.
        sets: for every kind of set the set of each stranger.
        phantoms: of a null; None takes ten times as many as one discovery among the strangers needs.
        gls_share: share of the variance put down to other strangers, as in an attribution.
    """
    phantoms = phantoms or math.ceil(10 * len(strangers) / level)
    answers, rows = distinctive(response, strangers), []
    queries, near = len(factual), similarity(pixel_distance(factual, strangers))
    for redraw in range(redraws):
        code = Codebook(len(strangers), codebook.members, codebook.weight, codebook.seed + 1 + redraw)
        estimator = Estimator(code.codewords(torch.arange(code.units)), near, gls_share)
        _, p = estimator.test(estimator.gls.adjust(answers), code.sample_phantoms(phantoms, redraw))
        found = {"unit": _share(p, level), "discovery": _share(benjamini_hochberg(p).min(0).values, level)}
        for kind, of in sets.items():
            _, grouped = sets_of(of, queries)
            found[kind] = _share(estimator.test_sets(answers, grouped, code, 1000, redraw)[2], level)
        rows += [{"redraw": redraw, "test": test, "level": level, "rejected": share} for test, share in found.items()]
    return pd.DataFrame(rows)


def false_attribution(
    factual: Float[Tensor, "q *image"],
    ablated: Float[Tensor, "2 q *image"],
    removed: Int[Tensor, "2 q"],
    unit_images: Float[Tensor, "units *image"],
    queries: list[int],
) -> pd.DataFrame:
    """Does the nearest unit stay the nearest once it is removed? Then nearness is no attribution.

    Args:
        ablated: exact counterfactuals without the nearest unit, and without a random one.
        removed: which ones those are.
    Source: the false-attribution rate of Dai & Gifford, arXiv 2406.07908, with its random control.
    """
    frames = []
    nearest = _nearest(factual, unit_images)
    for kind, pictures, units in zip(("nearest", "random"), ablated, removed, strict=True):
        frames.append(
            pd.DataFrame(
                {
                    "query": queries,
                    "removed": kind,
                    "unit": units.numpy(),
                    "unchanged": (_nearest(pictures, unit_images) == nearest).numpy(),
                    "moved": (pictures - factual).flatten(1).norm(dim=1).numpy(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _nearest(pictures: Tensor, unit_images: Tensor) -> Int[Tensor, "q"]:
    return pixel(pictures, unit_images).argmax(0)


def _share(values: Tensor, level: float) -> float:
    passed: Bool[Tensor, "*tests"] = values[values.isfinite()] <= level
    return passed.double().mean().item()
