"""Which measure has most power? The denoising, the displacement in pixels, features or a region, lengths, the loss."""

import itertools
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import jvp

from ddattr.attribution.background import Background
from ddattr.attribution.denoised import along_own
from ddattr.attribution.influence import gram, nearness, norm, projections, pull
from ddattr.attribution.significance import benjamini_hochberg, norm_significance, pull_significance, set_significance
from ddattr.codebook import Codebook


def measures_of_displacement(
    response: Float[Tensor, "n q *image"],
    factual: Float[Tensor, "q *image"],
    unit_images: Float[Tensor, "units *image"],
    extractor: nn.Module,
) -> dict[str, Float[Tensor, "n units q"]]:
    """What every member adds to each measure of where pictures on a tape move, to first order.

    `pixel` is the displacement along every unit's direction; `pixel_own` along what is the unit's own, as the denoising
    is tested; `feature` as `pixel` in the space of an extractor; `region` as `pixel` within the bright part of the
    picture.
    """
    tangents = [jvp(extractor, (factual,), (column,))[1] for column in response]
    moved = torch.stack(tangents)[..., None, None]
    seen, units = (extractor(pictures)[..., None, None] for pictures in (factual, unit_images))
    region = [
        projections(response[:, [q]] * mask, (factual * mask)[[q]], unit_images * mask)
        for q, mask in enumerate(factual > 0)
    ]
    return {
        "pixel": projections(response, factual, unit_images),
        "pixel_own": along_own(response, unit_images),
        "feature": projections(moved, seen, units),
        "region": torch.cat(region, 2),
    }


def measures_of_any(
    denoised: Float[Tensor, "n q *image"],
    pictures: Float[Tensor, "q *image"],
    unit_images: Float[Tensor, "units *image"],
    loss: Float[Tensor, "n q"],
) -> dict[str, Float[Tensor, "n units q"]]:
    """What every member adds to each measure that needs no tape, on every unit's direction.

    `denoised` is what `attribute` tests; `denoised_toward` the same from the picture to the unit's image, which is
    blind to what the picture has of the unit; `loss` the change of the picture's loss, to first order, which has no
    direction.
    """
    return {
        "denoised": along_own(denoised, unit_images),
        "denoised_toward": projections(denoised, pictures, unit_images),
        "loss": loss.double()[:, None].expand(-1, len(unit_images), -1),
    }


def power(
    measures: dict[str, Float[Tensor, "n units q"]],
    distance: Float[Tensor, "units q"],
    sets: dict[str, Int[Tensor, "units"]],
    own: dict[str, Int[Tensor, "q"]],
    codebook: Codebook,
    level: float,
    phantoms: int,
    draws: int,
    seed: int,
    background: float = 0.5,
) -> pd.DataFrame:
    """A row a measure, a share of the background, and a weighting of the units within a set.

    Every measure is tested by plain contrasts (background 0) and with the other units discounted.

    `z_nearest`: mean z of the nearest unit; `found_nearest`: share of queries where it has p <= level. `attributable`:
    share of queries with a unit of q <= level; `units`: mean number of such units. For every kind of set: mean z of the
    query's own set (`z_<kind>`) and the share of queries with a set of q <= level. Compare z only between measures of
    one kind of null: a pull's is normal, a length's is skewed.

    Args:
        distance: of every unit to every query, for nearness.
        own: number of the query's own set among the sorted ones, by kind.
    """
    words, null, rows = codebook.codewords(torch.arange(codebook.units)), codebook.sample_phantoms(phantoms, seed), []
    queries = torch.arange(distance.shape[1])
    near = nearness(distance)
    for (name, plain), share in itertools.product(measures.items(), sorted({0.0, background})):
        others = Background(words, near, share)
        projected = others.discount(plain)
        score = pull(projected, words)
        z, p = pull_significance(score, projected, null, codebook)
        row, counts = _of_units(name, z, p, distance, level)
        for weighting, weight in (("equal", torch.ones_like(near)), ("nearness", near)):
            found = dict(row, weighting=weighting)
            for kind, of in sets.items():
                members = [(of == s).nonzero()[:, 0] for s in of.unique()]
                padded = torch.nn.utils.rnn.pad_sequence(members, batch_first=True, padding_value=-1)
                asked = padded[:, None].expand(-1, len(queries), -1)
                answers = others.discount_sets(weight * plain, asked)
                _, z, p = set_significance(asked, answers, codebook, draws, seed)
                found |= {f"z_{kind}": z[own[kind], queries].mean().item(), f"attributable_{kind}": _reached(p, level)}
            rows.append({**found, "background": share, **counts})
    return pd.DataFrame(rows)


def power_of_norm(
    responses: dict[str, Float[Tensor, "n q *image"]],
    distance: Float[Tensor, "units q"],
    codebook: Codebook,
    level: float,
    phantoms: int,
    seed: int,
) -> pd.DataFrame:
    """A row a response: how far removing a unit moves it at all, as `power` has it for directions.

    A length has no sign, and no sum over a set: it has plain contrasts and single units alone.
    """
    words, null, rows = codebook.codewords(torch.arange(codebook.units)), codebook.sample_phantoms(phantoms, seed), []
    for name, response in responses.items():
        products = gram(response)
        z, p = norm_significance(norm(products, words), norm(products, null))
        row, counts = _of_units(name, z, p, distance, level)
        rows.append({**row, "weighting": "equal", "background": 0.0, **counts})
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
