"""Proof of significance: the tables that the members alone can make.

Power of every measure, false positives among pictures that no member saw, false attribution, and planted units.
"""

from collections.abc import Iterator

import pandas as pd
import torch

from ddattr.attribution import loss
from ddattr.attribution.baselines import pixel
from ddattr.attribution.denoised import along_own
from ddattr.attribution.influence import projections
from ddattr.diffusion.noise import Stream, generator
from ddattr.validation import controls, measures, planted
from ddattr.validation.bench import Bench
from ddattr.validation.peers import feature_similarity, over_units
from ddattr.validation.summary import Pair, means, pair


def of_members(bench: Bench) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every table that the members alone can make, by the name of its file, as soon as it is made."""
    yield "measures", power_of_measures(bench)
    yield from pair("false_attribution", false_attribution(bench))
    known = bench.data.held_out_units >= 0
    if (~known).sum() > 1:
        yield from pair("calibration", calibration(bench))
    if known.any():
        yield from pair("planted", planted_units(bench))


def power_of_measures(bench: Bench) -> pd.DataFrame:
    """z and attributable queries of the denoising, its length, the loss; of generated ones also of the displacement in
    pixels, in features, in a region, and of its length."""
    asked, units, sets, tables = bench.queries, bench.data.unit_images, bench.data.partitions(), []
    for kind, where in asked.kinds().items():
        pictures, projected = asked.asked[where], loss.loss_projections(bench.gram[where])
        if kind == "generated":
            answers = measures.measures_of_any(bench.denoised, pictures, units, projected)
            answers |= measures.measures_of_displacement(bench.response, pictures, units, bench.extractor)
            lengths = {"norm": bench.response, "denoised_norm": bench.denoised}
        else:
            answers = measures.measures_of_any(bench.denoised_real, pictures, units, projected)
            lengths = {"denoised_norm": bench.denoised_real}
        alike = pixel(pictures, units)
        ten = alike.topk(min(10, len(alike)), 0).indices
        own = {name: torch.searchsorted(of.unique(), of[ten].mode(0).values) for name, of in sets.items()}
        found = measures.power(
            answers,
            -alike.double(),
            sets,
            own,
            bench.plan.codebook,
            bench.level,
            bench.phantoms,
            2000,
            bench.seed,
            bench.background,
        )
        length = measures.power_of_norm(
            lengths, -alike.double(), bench.plan.codebook, bench.level, bench.phantoms, bench.seed
        )
        tables += [found.assign(queries=kind), length.assign(queries=kind)]
    return pd.concat(tables, ignore_index=True)


def false_attribution(bench: Bench) -> Pair:
    """The nearest unit and a random other one are ablated: is the nearest unit still the same?"""
    asked, images = bench.queries, bench.data.unit_images
    nearest, others = pixel(asked.factual, images).argmax(0), max(1, len(images) - 1)
    draws = [generator(bench.seed, Stream.RANDOM_BASELINE, step=s, attempt=1).integers(others) for s in asked.seeds]
    removed = torch.stack([nearest, (nearest + 1 + torch.tensor(draws)) % len(images)])
    ablated = asked.ablations(bench.ensemble, bench.words[removed]) + asked.factual
    table = controls.false_attribution(asked.factual, ablated, removed, images, asked.seeds)
    return table, means(table, ["removed"], ["unchanged", "moved"], bench.seed)


def calibration(bench: Bench, redraws: int = 200) -> Pair:
    """False positives among the held-out pictures, which no member saw."""
    held, labels = bench.data.held_out.at(bench.data.held_out_units < 0), {}
    if held.labels is not None:
        labels["label"] = held.labels
    table = controls.calibration(
        bench.denoised,
        bench.queries.factual,
        held.images,
        labels,
        bench.plan.codebook,
        redraws,
        bench.level,
        background=bench.background,
    )
    return table, means(table, ["test", "level"], ["rejected"], bench.seed)


def planted_units(bench: Bench) -> Pair:
    """Held-out pictures whose unit is known: where every method ranks it, and how sure it is.

    Displacements are of what the ensemble makes of the picture on one tape that leads to it, where the denoising has
    many draws. Others are discounted in every pull; lengths and losses, which have no direction, are plain contrasts.
    """
    asked, data, units = bench.queries, bench.data, bench.data.unit_images
    known = (data.held_out_units >= 0).nonzero()[:, 0]
    pictures, sizes, codebook = data.held_out.images[known], data.unit_of.bincount(), bench.plan.codebook
    gram = loss.residual_gram(bench.ensemble, asked.process, pictures, asked.times, asked.noise)
    alike = pixel(pictures, units)
    near = over_units(feature_similarity(bench.extractor, pictures, data.images), data.unit_of) / sizes[:, None]
    null, denoised = codebook.sample_phantoms(bench.phantoms, bench.seed), asked.denoised(bench.ensemble, pictures)
    made, response = asked.replayed(bench.ensemble, pictures, bench.plan.members_per_step)
    moved = measures.measures_of_displacement(response, made, units, bench.extractor)
    along = {
        "denoised_gls": along_own(denoised, units),
        "denoised_toward": projections(denoised, pictures, units),
        "jvp_gls": moved["pixel"],
        "jvp_own": moved["pixel_own"],
        "jvp_feature": moved["feature"],
        "jvp_region": moved["region"],
    }
    methods = planted.influence_on_loss(gram, bench.words, null)
    methods |= planted.influence_by_pull(along, -alike.double(), codebook, null, bench.background)
    methods |= planted.influence_by_length({"jvp_norm": response, "denoised_norm": denoised}, bench.words, null)
    methods |= {"feature": planted.Scored(near), "pixel": planted.Scored(alike)}
    return planted.planted_tables(methods, data.held_out_units[known], sizes, known.tolist(), bench.level)
