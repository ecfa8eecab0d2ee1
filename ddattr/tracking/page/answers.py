"""What one query set has been answered, by query: the tables and the pictures that the page reads."""

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Bool, Float
from torch import Tensor

from ddattr.attribution.jacobian import first_order
from ddattr.attribution.methods import SUPPORT, TESTED, shown
from ddattr.attribution.places import query_sets, shown_in
from ddattr.codebook import Codebook, contrast
from ddattr.files import load_json, load_table, load_tensors
from ddattr.tracking.attributed import query_names

_SHORT = {"p_value": "p", "q_value": "q"}


class Answers:
    """A query set's folder, read.

    A set of given pictures has no Jacobian and no exact counterfactuals, and older runs have no nulls. Of members that
    make latents pictures are decoded ones, and the Jacobian, which is of latents, is not read.

    Args:
        folder: attribution/<query set>/.
        codebook: who trained on what.
    """

    def __init__(self, folder: Path, codebook: Codebook):
        self.folder = folder
        self.codebook = codebook
        tensors = load_tensors(shown_in(folder))
        self.names: list[int] = tensors["seeds"].tolist()
        self.factual: Tensor = tensors["factual"]
        self._refined = {name: tensors[name] for name in ("refined_units", "refined") if name in tensors}
        self.queries = load_table(folder / "queries.csv").set_index("query")
        self.called = query_names(folder)
        self.radius = load_table(folder / "radius.csv").set_index("query")

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Of the set's artifact."""
        return load_json(self.folder / "manifest.json") or {}

    @property
    def level(self) -> float:
        """The q at and below which a unit passes."""
        return float(self.radius.level.iloc[0])

    @property
    def known_ranks(self) -> int | None:
        """Ranks up to which influence.parquet has the units of every method; None where it has all."""
        return self.manifest.get("config", {}).get("attribution", {}).get("kept")

    @cached_property
    def methods(self) -> list[str]:
        """Those that the page shows: what ranks, what is tested, and others that figures show, less the random one."""
        rest = [name for name in shown(set(self._scores.method)) if name not in (SUPPORT, TESTED, "random")]
        return [SUPPORT, TESTED, *rest]

    @cached_property
    def _scores(self) -> pd.DataFrame:
        measures = [("measure", "in", ["pull", "similarity"])]
        return pd.read_parquet(self.folder / "influence.parquet", filters=measures)

    @cached_property
    def _by_query(self) -> dict[int, pd.DataFrame]:
        return dict(list(self._scores[self._scores.method.isin(self.methods)].groupby("query")))

    def scores(self, query: int) -> pd.DataFrame:
        """A row a unit, a column a method."""
        return self._by_query[query].pivot(index="unit", columns="method", values="score")

    def tests(self, query: int) -> pd.DataFrame:
        """p, q and z of every unit, by what is tested."""
        rows = self._by_query[query]
        return rows[rows.method == TESTED].set_index("unit").sort_index().rename(columns=_SHORT)[["p", "q", "z"]]

    @cached_property
    def _sets(self) -> pd.DataFrame:
        return load_table(self.folder / "sets.parquet").rename(columns=_SHORT)

    def sets(self, query: int) -> pd.DataFrame:
        """A row a set."""
        return self._sets[self._sets["query"] == query]

    def found(self, kind: str | None) -> int:
        """For how many queries some set of a kind passes; or some unit, where the kind is None."""
        if kind is None:
            return int(self.radius.attributable.sum())
        rows = self._sets[self._sets.set.str.partition(":")[0] == kind]
        return rows["query"][rows.q <= self.level].nunique()

    @cached_property
    def _nulls(self) -> dict[tuple[int, int], list[int]]:
        path = self.folder / "nulls.parquet"
        rows = load_table(path).itertuples() if path.exists() else []
        return {(row.query, row.unit): list(map(int, row.counts)) for row in rows}

    def null(self, query: int, unit: int) -> list[int] | None:
        """How often phantoms had which z: 48 bins from -6 to 6."""
        return self._nulls.get((query, unit))

    @cached_property
    def _jacobian(self) -> Tensor | None:
        path = self.folder / "jacobian.safetensors"
        return load_tensors(path)["jacobian"] if path.exists() and not self.decoded else None

    @property
    def decoded(self) -> bool:
        """Whether members make latents: what moves one by so much moves no picture by as much, to first order."""
        return shown_in(self.folder).name == "shown.safetensors"

    def first_order(self, place: int, codewords: Bool[Tensor, "some n"]) -> Float[Tensor, "some c h w"] | None:
        """Displacements of the query at a place when what holds each codeword is removed; None without a Jacobian."""
        if self._jacobian is None:
            return None
        return first_order(self._jacobian[:, place : place + 1], contrast(codewords))[:, 0]

    def exact(self, place: int) -> dict[int, Float[Tensor, "c h w"]]:
        """Displacements that were replayed exactly, by unit."""
        if not self._refined:
            return {}
        moved = self._refined["refined"][:, place] - self.factual[place]
        return dict(zip(self._refined["refined_units"][:, place].tolist(), moved, strict=True))


def answered(root: Path) -> dict[str, Answers]:
    """Every query set of a run that is done, by its name."""
    code = load_json(root / "codebook" / "codebook.json") or {}
    codebook = Codebook.of_record(code)
    return {name: Answers(folder, codebook) for name, folder in query_sets(root).items()}
