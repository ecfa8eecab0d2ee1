"""power_by_members.csv: what fewer members would have found, and what the whole ensemble's z predicts of it."""

from collections.abc import Iterator

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.attribution import power
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.sets import neighbourhoods
from ddattr.attribution.significance import benjamini_hochberg
from ddattr.codebook import RANDOM
from ddattr.validation.study import Phase, Study

PHASE = Phase.MEMBERS


def tables(study: Study) -> Iterator[tuple[str, pd.DataFrame]]:
    """Of the generated queries. Without `validation.ensemble_sizes` the whole ensemble alone, beside members.csv, and
    left out where that is."""
    if study.plan.ensemble_sizes or (study.plan.retrained_units and study.plan.lds_subsets):
        yield "power_by_members", power_by_members(study)


def power_by_members(study: Study) -> pd.DataFrame:
    """Parts of the ensemble, several of each size, by what is tested: the denoising along a unit's distinctive
    direction.

    `z_nearest` and `found_nearest` are of the nearest unit, `z_nearest:k` and `found_nearest:k` of the k nearest as a
    set; `..._predicted` is what `ddattr plan` would say of them, from the whole ensemble's z. `units` is the mean
    number that pass at q <= level, `attributable` the share of queries that have one: of random codewords, whose null
    is a normal's, nearly. All is by that tail, as power is reckoned; the whole ensemble's own p, in
    attributions.parquet, is of its null.

    Parts are weaker than an ensemble of as many members, as their codewords have no constant weight: z is short by a
    root of m (n - 1) / ((m - 1) n), 5 % for 9 members of 64, and by units that they cannot identify. And the whole
    ensemble's chance is in its parts, too: that they agree says less than a new ensemble would.
    """
    level, n = study.answers.settings.level, len(study.answers.ensemble)
    whole: dict[str, Tensor] = {}  # z of the whole ensemble, which comes first
    rows = []
    for members, order in study.answers.parts:
        of_units, z = _z(study, members)
        whole = whole or z
        found = {}
        if study.plan.codebook.design == RANDOM:
            passed = benjamini_hochberg(torch.special.ndtr(-of_units.double())) <= level
            found["units"] = passed.double().sum(0).mean().item()
            found["attributable"] = passed.any(0).double().mean().item()
        for which in z:
            found |= _power(which, z[which], whole[which], len(members) / n, level)
        part = {"members": len(members), "order": order}
        rows += [{**part, "statistic": name, "value": value} for name, value in found.items()]
    return pd.DataFrame(rows).sort_values(["members", "order"], kind="stable")


def _z(study: Study, members: Tensor) -> tuple[Float[Tensor, "units q"], dict[str, Float[Tensor, "q"]]]:
    """z of every unit by some of the members; and of the nearest one and of the nearest sets."""
    answers, queries = study.answers, study.answers.queries
    distance = answers.data.distance(queries.factual)
    estimator = answers.estimator(queries.factual).of_members(members)
    along = distinctive(answers.denoised[members], answers.data.unit_images, distance)
    of_units = estimator.estimate(along).z
    sizes, sets = neighbourhoods(-distance, answers.settings.neighbourhoods)
    of_sets = estimator.z_of_sets(along, sets, study.plan.codebook.capacity)
    nearest = distance.argmin(0), torch.arange(len(queries.seeds))
    z = {"nearest": of_units[nearest]}
    return of_units, z | {f"nearest:{k}": of_set for k, of_set in zip(sizes, of_sets, strict=True) if k > 1}


def _power(
    which: str, z: Float[Tensor, "q"], whole: Float[Tensor, "q"], ratio: float, level: float
) -> dict[str, float]:
    """z and the share of queries found by a sub-ensemble, and what the whole one's z predicts of `ratio` of it.

    A query is found where z is beyond the normal's one-sided level, as power is reckoned.
    """
    threshold = -torch.special.ndtri(torch.tensor(level, dtype=torch.float64))
    return {
        f"z_{which}": z.mean().item(),
        f"z_{which}_predicted": whole.mean().item() * ratio**0.5,
        f"found_{which}": (z > threshold).double().mean().item(),
        f"found_{which}_predicted": power.expected_power(whole, ratio, level),
    }
