"""The tables of a query set: what every set has, of the denoising alone. `replayed` adds what takes a tape.

Rows are (unit, query); a query is named by its seed, or by its place among given pictures. Every number here can be
made again from the tensors alone. `attributions` is what a user reads first; the others are of all units and methods.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.attribution import significance
from ddattr.attribution.calibration import calibrated
from ddattr.attribution.denoising import Distinctive
from ddattr.attribution.nulls import nulls
from ddattr.attribution.retrieval import retrieval, summarise
from ddattr.attribution.rows import Rows
from ddattr.attribution.scored import BLOCK, Scored
from ddattr.attribution.sets import neighbourhoods, sets_of
from ddattr.attribution.significance import TestSettings
from ddattr.attribution.streamed import Answers, Streamed
from ddattr.attribution.verified import verification, verification_of_sets
from ddattr.codebook import RANDOM, Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.ensemble.likeness import nearest, unusual

_NEAREST = 10  # pictures, of whose labels most say a query's
_PARQUET = ("attributions", "influence", "sets", "nulls")


class Tables(NamedTuple):
    """Tables by the names of the files that hold them; None where there is nothing to say.

    `rows` are those of influence.parquet, which are made as they are written: of all units they are by far the most.
    `agreement` and its summary take a tape, `calibration` pictures that were held out, and `retrieval` queries whose
    source is known.
    """

    attributions: pd.DataFrame
    rows: Rows
    sets: pd.DataFrame
    radius: pd.DataFrame
    queries: pd.DataFrame
    nulls: pd.DataFrame
    verified: pd.DataFrame
    calibration: pd.DataFrame | None = None
    agreement: pd.DataFrame | None = None
    agreement_summary: pd.DataFrame | None = None
    retrieval: pd.DataFrame | None = None
    retrieval_summary: pd.DataFrame | None = None

    @property
    def influence(self) -> pd.DataFrame:
        """All of `rows`, as one table."""
        return self.rows.whole()

    def files(self) -> dict[str, pd.DataFrame | Rows]:
        """Those that there are, by the names of their files."""
        named = {"influence" if name == "rows" else name: table for name, table in self._asdict().items()}
        there = {name: table for name, table in named.items() if table is not None}
        return {f"{name}.{'parquet' if name in _PARQUET else 'csv'}": table for name, table in there.items()}

    def metrics(self) -> dict[str, float]:
        """Flat metrics, the method in the key; the paper's measure `norm` is bare, `pull` goes by its name."""
        metrics = {}
        for row in () if self.agreement_summary is None else self.agreement_summary.itertuples():
            measure = "" if row.measure == "norm" else f"/{row.measure}"
            metrics[f"agreement/{row.truth}/{row.method}{measure}/{row.statistic}"] = row.mean
        metrics["significance/unit/attributable"] = float(self.radius.attributable.mean())
        for kind, rows in self.sets.groupby(self.sets.set.str.partition(":")[0]):
            if kind != "nearest":
                best = rows.groupby("query").q_value.min()
                metrics[f"significance/{kind}/attributable"] = float((best <= self.radius.level.iloc[0]).mean())
        for row in () if self.retrieval_summary is None else self.retrieval_summary.itertuples():
            metrics[f"retrieval/{row.kind}/first"] = row.first
        if "jvp_error" in self.queries:
            metrics["jacobian/rotating_error"] = float(self.queries.rotating_error.mean())
            metrics["jacobian/jvp_error"] = float(self.queries.jvp_error.median())
        if "precision_error" in self.queries:
            metrics["jacobian/precision_error"] = float(self.queries.precision_error.mean())
        return metrics


def tabulate(
    tensors: dict[str, Tensor],
    codebook: Codebook,
    data: UnitDataModule,
    settings: TestSettings,
    names: Sequence[str] | None = None,
    block: int = BLOCK,
    kept: int | None = None,
    known: Mapping[str, Tensor] | None = None,
) -> Tables:
    """All tables of pictures that were denoised alone.

    Args:
        tensors: seeds (Q,), factual (Q, C, H, W), denoised (n, Q, C, H, W).
        names: of the queries, in words; None for those of seeds.
        block: units that are scored together: a matter of memory.
        kept: best units of every query by each method, and drawn ones, that `influence` has; None for all units.
        known: by kind the unit and sets that queries are of, (Q,), -1 for none.
    """
    scored = Scored(tensors["seeds"], tensors["factual"], data, codebook, settings, block)
    scored.compare()
    return of_denoising(scored, tensors["denoised"], codebook, data, names, kept, known)


def of_denoising(
    scored: Scored,
    denoised: Float[Tensor, "n q *image"],
    codebook: Codebook,
    data: UnitDataModule,
    names: Sequence[str] | None,
    kept: int | None,
    known: Mapping[str, Tensor] | None = None,
) -> Tables:
    """The same, after what was scored before."""
    tables = of_answers(scored, "denoised", Distinctive(denoised, scored.images, scored.distance), names, kept, known)
    strangers = data.held_out.at(data.held_out_units < 0)
    found = calibrated(denoised, scored.factual, strangers, codebook, scored.settings, data.similarity)
    return named(tables._replace(calibration=found), codebook)


def of_answers(
    scored: Scored,
    method: str,
    answers: Answers,
    names: Sequence[str] | None,
    kept: int | None,
    known: Mapping[str, Tensor] | None = None,
) -> Tables:
    """Scores and tests of METHOD, after what was scored before, and the tables of that."""
    seeds, settings, codebook, data = scored.seeds, scored.settings, scored.codebook, scored.data
    found, streamed = scored.estimate(method, answers)
    z, p = found.z, found.p
    q = significance.benjamini_hochberg(p)
    sets, resolution, judged = _sets(streamed, scored.distance, codebook, data, seeds, settings)
    units = verification(streamed.pairs, z, p, codebook, seeds, settings)
    radius = {
        "query": seeds.numpy(),
        "attributable": (q.min(0).values <= settings.level).numpy(),
        "resolution": resolution.numpy(),
        "level": settings.level,
    }
    retrieved = None
    if known is not None:
        by = (seeds, sets, data.partitions(), scored.distance, data.set_name)
        retrieved = retrieval(known, z, p, found.posterior, *by)
    return Tables(
        attributions(z, p, found.posterior, seeds, settings.level),
        scored.influence(kept),
        sets,
        pd.DataFrame(radius),
        _queries(seeds, scored.factual, data, names),
        nulls(streamed.pairs, found.deviation, found.posterior, q, scored.phantoms, seeds, settings.level),
        pd.concat([*([] if units is None else [units]), *judged], ignore_index=True),
        retrieval=retrieved,
        retrieval_summary=None if retrieved is None else summarise(retrieved, settings.level),
    )


def named(tables: Tables, codebook: Codebook) -> Tables:
    """With a column that says what p is by, where it is not by randomisation over codewords.

    Of a length it still is: the rank among the words that no unit holds.
    """
    if codebook.design == RANDOM:
        return tables
    by = codebook.p_by

    def of_scores(rows: pd.DataFrame) -> pd.DataFrame:
        found = (rows.measure == "norm").map({True: codebook.rank_by, False: by})
        return rows.assign(p_by=found.mask(rows.p_value.isna(), None))

    return tables._replace(
        attributions=tables.attributions.assign(p_by=by),
        rows=tables.rows.each(of_scores),
        sets=tables.sets.assign(p_by=by),
        calibration=None if tables.calibration is None else tables.calibration.assign(p_by=by),
    )


def attributions(
    z: Float[Tensor, "units q"],
    p: Float[Tensor, "units q"],
    support: Float[Tensor, "units q"],
    seeds: Tensor,
    level: float,
) -> pd.DataFrame:
    """What a user reads first: a row a query and unit that matters, which is to say that its q is at most `level`.

    `support` is the expected pull, and `rank` the unit's place by it among all units. It ranks; it is no share of the
    picture, and units' supports sum to nothing.
    """
    q_values = significance.benjamini_hochberg(p)
    rank = support.argsort(0, descending=True).argsort(0) + 1
    units, queries = (q_values <= level).nonzero(as_tuple=True)
    columns = {"rank": rank, "p_value": p, "q_value": q_values, "z": z, "support": support}
    table = pd.DataFrame(
        {"query": seeds[queries].numpy(), "unit": units.numpy()}
        | {name: values[units, queries].numpy() for name, values in columns.items()}
    )
    return table.sort_values(["query", "rank"], ignore_index=True)


def _sets(
    streamed: Streamed,
    distance: Tensor,
    codebook: Codebook,
    data: UnitDataModule,
    seeds: Tensor,
    settings: TestSettings,
) -> tuple[pd.DataFrame, Tensor, list[pd.DataFrame]]:
    """Labels, clusters and nearest neighbourhoods as sets, every query's resolution, and some sets' p against draws."""
    frames, judged = [], []
    for kind, of in data.partitions().items():
        values, sets = sets_of(of, len(seeds))
        total, z, p = streamed.test_sets(sets, codebook)
        q = significance.benjamini_hochberg(p)
        names = [f"{kind}:{data.set_name(kind, value)}" for value in values]
        frames.append(_set_rows(names, sets, seeds, total, z, p, q))
        judged.append(verification_of_sets(names, sets, streamed.sets, z, p, codebook, seeds, settings))
    sizes, sets = neighbourhoods(-distance, settings.neighbourhoods)
    total, z, p = streamed.test_sets(sets, codebook)
    # q: a neighbourhood counts only if all larger ones do, so its q is the largest p from it upwards
    q = p.nan_to_num(0).flip(0).cummax(0).values.flip(0).where(p.isfinite(), torch.nan)
    names = [f"nearest:{size}" for size in sizes]
    frames.append(_set_rows(names, sets, seeds, total, z, p, q))
    judged.append(verification_of_sets(names, sets, streamed.sets, z, p, codebook, seeds, settings))
    index = significance.resolution(p, settings.level)
    resolution = torch.where(index >= 0, torch.tensor(sizes)[index], -1)
    return pd.concat(frames, ignore_index=True).assign(similarity=data.compared_name), resolution, judged


def _set_rows(
    names: list[str], sets: Tensor, seeds: Tensor, total: Tensor, z: Tensor, p: Tensor, q: Tensor
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "set": np.repeat(names, len(seeds)),
            "size": (sets >= 0).sum(-1).flatten().numpy(),
            "query": seeds.repeat(len(names)).numpy(),
            "measure": "pull",
            "score": total.flatten().numpy(),
            "z": z.flatten().numpy(),
            "p_value": p.flatten().numpy(),
            "q_value": q.flatten().numpy(),
        }
    )


def _queries(seeds: Tensor, factual: Tensor, data: UnitDataModule, names: Sequence[str] | None) -> pd.DataFrame:
    """The label of every query's nearest pictures, whether it is like any, and its name."""
    labels: list[int | str] = [-1] * len(factual)
    images, strangers = data.pictures.images, data.pictures.held_out.images[data.held_out_units < 0]
    distance, near = nearest(data.shown(factual).clamp(-1, 1), images, min(_NEAREST, len(images)))
    if data.labels is not None:
        of_nearest = data.labels[near].mode(1).values.tolist()
        labels = of_nearest if data.source.label_names is None else [data.set_name("label", of) for of in of_nearest]
    closest = distance[:, 0]
    return pd.DataFrame(
        {
            "query": seeds.numpy(),
            "label": labels,
            "nearest": closest.numpy(),
            "unlike_data": unusual(closest, images, strangers).numpy(),
            "name": [f"seed {seed}" for seed in seeds.tolist()] if names is None else names,
        }
    )
