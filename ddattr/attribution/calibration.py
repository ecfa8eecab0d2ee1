"""How often strangers pass: pictures that no member saw, as units with random codewords, under the tests of units."""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.attribution.agreement import share_interval
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.estimator import Estimator
from ddattr.attribution.influence import pixel_distance, similarity
from ddattr.attribution.sets import sets_of
from ddattr.attribution.significance import TestSettings, benjamini_hochberg
from ddattr.codebook import Codebook
from ddattr.data.similarity import PIXELS, Similarity
from ddattr.data.source import Source

_MOST = 50  # strangers, and queries, evenly spaced among all there are
_TESTS = 100_000  # over all codebooks: some seconds of a core
_REDRAWS = (10, 100)  # fewest and most codebooks


def calibrated(
    response: Float[Tensor, "n q *image"],
    factual: Float[Tensor, "q *image"],
    held_out: Source,
    codebook: Codebook,
    settings: TestSettings,
    alike: Similarity = PIXELS,
) -> pd.DataFrame | None:
    """calibration.csv: a row a test, with the share rejected at `level`, its mean over codebooks and 95 % interval.

    None where fewer than two pictures were held out, or two codewords are left. See `calibration`; as many codebooks
    as a few seconds allow, by the sizes alone.
    """
    count = min(len(held_out.images), _MOST, codebook.capacity // 2 if codebook.basis is None else codebook.units)
    if count < 2:
        return None
    chosen, asked = _spread(len(held_out.images), count), _spread(len(factual), min(len(factual), _MOST))
    fewest, most = _REDRAWS
    redraws = _TESTS // (count * len(asked))
    strangers = held_out.images[chosen]
    table = calibration(
        response[:, asked],
        factual[asked],
        strangers,
        {} if held_out.labels is None else {"label": held_out.labels[chosen]},
        codebook,
        min(max(redraws, fewest), most),
        settings.level,
        gls_share=settings.gls_share,
        distance=alike.distance(alike.points(strangers), factual[asked]),
    )
    rows = []
    for test, part in table.groupby("test", sort=False):
        mean, low, high = share_interval(torch.tensor(part.rejected.tolist(), dtype=torch.float64))
        rows.append({"test": test, "level": settings.level, "rejected": mean, "low": low, "high": high})
    return pd.DataFrame(rows)


def calibration(
    response: Float[Tensor, "n q *image"],
    factual: Float[Tensor, "q *image"],
    strangers: Float[Tensor, "units *image"],
    sets: Mapping[str, Int[Tensor, "units"]],
    codebook: Codebook,
    redraws: int,
    level: float,
    gls_share: float = 0.5,
    distance: Float[Tensor, "units q"] | None = None,
) -> pd.DataFrame:
    """False positives among pictures that no member saw, when they are given codewords at random, many times.

    They have no influence by construction, but look like those that have. A row a re-drawn codebook: the share of
    tests with p <= level, of units and of sets, and the share of queries in which any unit has q <= level; that is the
    false discovery rate, since every discovery is false. All should be at most `level`, but for chance. As the null is
    exact, this is so whatever the members are: it tests the tests, on real responses. Of orthogonal words it says how
    near to its level the t-test is: strangers, no more than there are units, hold words of as many, so that as many
    degrees of freedom are left.

    Args:
        strangers: pictures of the same kind as the data, each a unit.
        sets: for every kind of set the set of each stranger.
        gls_share: share of the variance put down to other strangers, as in an attribution.
        distance: from every stranger to every picture, by which they are near; None is that of pixels.
    """
    distance = pixel_distance(factual, strangers) if distance is None else distance
    if codebook.basis is not None:
        strangers, distance = strangers[: codebook.units], distance[: codebook.units]
        sets = {kind: of[: codebook.units] for kind, of in sets.items()}
    answers, near = distinctive(response, strangers, distance), similarity(distance)
    queries, rows = len(factual), []
    units = len(strangers) if codebook.basis is None else codebook.units
    for redraw in range(redraws):
        code = replace(codebook, units=units, seed=codebook.seed + 1 + redraw)
        codewords = code.codewords(torch.arange(len(strangers)))
        estimator = Estimator(codewords, near, gls_share, basis=code.basis)
        _, p = estimator.test(estimator.gls.adjust(answers))
        found = {"unit": _share(p, level), "discovery": _share(benjamini_hochberg(p).min(0).values, level)}
        for kind, of in sets.items():
            _, grouped = sets_of(of, queries)
            found[kind] = _share(estimator.test_sets(answers, grouped, code)[2], level)
        rows += [{"redraw": redraw, "test": test, "level": level, "rejected": share} for test, share in found.items()]
    return pd.DataFrame(rows)


def _spread(length: int, count: int) -> Int[Tensor, "count"]:
    """Places, evenly spaced over a length."""
    return torch.linspace(0, length - 1, count).round().long()


def _share(values: Tensor, level: float) -> float:
    passed: Bool[Tensor, "*tests"] = values[values.isfinite()] <= level
    return passed.double().mean().item()
