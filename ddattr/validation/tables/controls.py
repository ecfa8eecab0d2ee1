"""calibration.csv, false_attribution.csv: what an attribution must not find.

Units that no member ever saw, and units that are nearest and were removed.
"""

from collections.abc import Iterator

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.attribution.baselines import pixel
from ddattr.attribution.calibration import calibration
from ddattr.diffusion.noise import Stream, generator
from ddattr.validation.intervals import means
from ddattr.validation.study import Phase, Study

PHASE = Phase.MEMBERS
_REDRAWS = 200  # codebooks


def tables(study: Study) -> Iterator[tuple[str, pd.DataFrame]]:
    """Calibration is left out where no picture, or one, was held out."""
    table = _false_attribution(study)
    yield "false_attribution", table
    yield "false_attribution_summary", means(table, ["removed"], ["unchanged", "moved"])
    answers = study.answers
    unknown = answers.data.held_out_units < 0
    if unknown.sum() > 1:
        held = answers.data.held_out.at(unknown)
        labels = {} if held.labels is None else {"label": held.labels}
        alike = answers.data.similarity
        table = calibration(
            answers.denoised,
            answers.queries.factual,
            held.images[:],
            labels,
            study.plan.codebook,
            _REDRAWS,
            answers.settings.level,
            gls_share=answers.settings.gls_share,
            distance=alike.distance(alike.points(held.images), answers.queries.factual),
        )
        yield "calibration", table
        yield "calibration_summary", means(table, ["test", "level"], ["rejected"])


def _false_attribution(study: Study) -> pd.DataFrame:
    """The nearest unit and a random other one are ablated: is the nearest unit still the same?"""
    answers, queries, images = study.answers, study.answers.queries, study.answers.data.pictures.unit_images
    factual = answers.shown(queries.factual)
    nearest, others = pixel(factual, images).argmax(0), max(1, len(images) - 1)
    draws = [generator(study.seed, Stream.RANDOM_BASELINE, step=s, attempt=1).integers(others) for s in queries.seeds]
    removed = torch.stack([nearest, (nearest + 1 + torch.tensor(draws)) % len(images)])
    ablated = answers.shown(answers.ablations(answers.codewords[removed]) + queries.factual)
    return false_attribution(factual, ablated, removed, images, queries.seeds)


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
