"""What an attribution must not find: units that no member ever saw, and units that are nearest and were removed."""

import math

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.attribution.background import Background
from ddattr.attribution.baselines import pixel
from ddattr.attribution.denoised import along_own
from ddattr.attribution.influence import nearness, pull
from ddattr.attribution.significance import benjamini_hochberg, pull_significance, set_significance
from ddattr.codebook import Codebook


def calibration(
    response: Float[Tensor, "n q *image"],
    factual: Float[Tensor, "q *image"],
    strangers: Float[Tensor, "units *image"],
    sets: dict[str, Int[Tensor, "units"]],
    codebook: Codebook,
    redraws: int,
    level: float,
    phantoms: int | None = None,
    background: float = 0.5,
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
        background: share of the variance put down to other strangers, as in an attribution.
    """
    phantoms = phantoms or math.ceil(10 * len(strangers) / level)
    projected, rows = along_own(response, strangers), []
    queries, near = len(factual), nearness(-pixel(factual, strangers).double())
    for redraw in range(redraws):
        code = Codebook(len(strangers), codebook.members, codebook.weight, codebook.seed + 1 + redraw)
        words = code.codewords(torch.arange(code.units))
        others = Background(words, near, background)
        discounted = others.discount(projected)
        _, p = pull_significance(pull(discounted, words), discounted, code.sample_phantoms(phantoms, redraw), code)
        found = {"unit": _share(p, level), "discovery": _share(benjamini_hochberg(p).min(0).values, level)}
        for kind, of in sets.items():
            members = [(of == s).nonzero()[:, 0] for s in of.unique()]
            padded = torch.nn.utils.rnn.pad_sequence(members, batch_first=True, padding_value=-1)
            asked = padded[:, None].expand(-1, queries, -1)
            answers = others.discount_sets(near * projected, asked)
            found[kind] = _share(set_significance(asked, answers, code, 1000, redraw)[2], level)
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
