"""A run in a notebook: `ddattr.load("runs/digits")`. No command line, and no Hydra app."""

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

from ddattr.artifacts import Artifact
from ddattr.attribution.methods import SUPPORT, TESTED
from ddattr.attribution.places import DEFAULT, query_sets, shown_in
from ddattr.attribution.queries import QuerySet
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.diffusion.captions import Conditions
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.process import Process
from ddattr.ensemble.ensemble import Ensemble
from ddattr.files import load_table, load_tensors
from ddattr.stages.attributing import attribute
from ddattr.stages.run import Run
from ddattr.stages.saved import PER_CALL, read


def load(folder: str | Path, trusted: Collection[str] = ()) -> "Loaded":
    """A run by its folder, wherever that was moved to.

    Args:
        trusted: constructors of your own that its config names, as `my.module.pictures`; any other is refused.
    Raises:
        FileNotFoundError, ValueError: there is no such folder or config; it is damaged, or names what it may not.
    """
    folder = Path(folder)
    config = read(folder, trusted)
    call = {**dict.fromkeys(PER_CALL), "stage": "load", "run": str(folder), "root": str(folder)}
    alone = {"tracking": {**config["tracking"], "mode": "disabled"}}
    alone["trainer"] = {**config["trainer"], "devices": 1, "strategy": "auto"}  # a notebook starts no processes
    return Loaded(Run(OmegaConf.create(config | call | alone)))


class Attributed:
    """A query set, and whose pictures its queries are."""

    def __init__(self, name: str, artifact: Artifact, root: Path):
        self.name = name
        self._artifact = artifact
        self._root = root

    def __repr__(self) -> str:
        return f"query set {self.name}: {self.folder}"

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self._artifact.folder

    @cached_property
    def queries(self) -> pd.DataFrame:
        """A row for every query, named by its seed, or its place among the pictures that were given."""
        return self._table("queries.csv")

    @cached_property
    def pictures(self) -> dict[int, Float[Tensor, "*image"]]:
        """What the whole ensemble made, or what was given, by query; decoded, where members make latents."""
        stored = load_tensors(self._artifact.require().verified(shown_in(self.folder).name))
        return dict(zip(stored["seeds"].tolist(), stored["factual"], strict=True))

    @cached_property
    def influence(self) -> pd.DataFrame:
        """A row for every unit, query, method and measure: score, z, p, q."""
        return self._table("influence.parquet")

    @cached_property
    def attributions(self) -> pd.DataFrame:
        """What to read first: a row a query and unit that matters (its q is at most `significance.level`)."""
        return self._table("attributions.parquet")

    @cached_property
    def sets(self) -> pd.DataFrame:
        """A row for every set of units (a label, a cluster, the nearest) and query: score, z, p, q."""
        return self._table("sets.parquet")

    def best(self, query: int, k: int = 5) -> pd.DataFrame:
        """The k units of largest support of a query, in that order, with p, q and z of the test that each matters.

        Raises:
            ValueError: no such query.
        """
        known = self.queries["query"].tolist()
        if query not in known:
            raise ValueError(f"query={query}, expected one of {', '.join(map(str, known))}. Name it by its seed.")
        pulls = self.influence.query("query == @query and measure == 'pull'").set_index("unit")
        support = pulls.score[pulls.method == SUPPORT].rename("support")
        tested = pulls.loc[pulls.method == TESTED, ["p_value", "q_value", "z"]]
        found = tested.join(support).nlargest(k, "support").reset_index()
        if (path := self._root / "units.parquet").is_file():
            found = found.merge(load_table(path)[["unit", "name"]], on="unit", how="left")
        columns = ["unit", "name", "support", "p_value", "q_value", "z"]
        return found[[column for column in columns if column in found]]

    def _table(self, name: str) -> pd.DataFrame:
        return load_table(self._artifact.require().verified(name))


class Loaded:
    """What a run's config builds, and what its stages have made, each when it is first asked for.

    Raises:
        FileNotFoundError: by whatever was not made yet; says which command makes it.
    """

    def __init__(self, run: Run):
        self._run = run

    def __repr__(self) -> str:
        return f"ddattr.load({str(self._run.root)!r})"

    @cached_property
    def config(self) -> dict[str, Any]:
        """All of it, as plain containers; what is made here is tracked nowhere, and by one process."""
        return self._run.resolved()

    @property
    def data(self) -> UnitDataModule:
        """Pictures, and which unit each is of."""
        return self._run.data

    @property
    def seen(self) -> UnitDataModule:
        """The same as members see it: itself, or latents, which `seen.shown` decodes."""
        return self._run.seen

    @property
    def conditions(self) -> Conditions | None:
        """What members are conditioned on, for `ensemble.given(conditions.given(...))`; None where on nothing."""
        return self._run.conditions

    @property
    def codebook(self) -> Codebook:
        """Who trained on what."""
        return self._run.codebook

    @property
    def process(self) -> Process:
        """The forward process."""
        return self._run.process

    @property
    def reverse(self):
        """The reverse process of the run's sampler."""
        return self._run.reverse

    @cached_property
    def ensemble(self) -> Ensemble:
        """The trained members."""
        return self._run.ensemble()

    def tape(self, seeds: Sequence[int]) -> Float[Tensor, "tape q *image"]:
        """The noise of generations, of this run's length and shape; a query's is that of its seed."""
        return noise_tape(seeds, len(self.reverse), self._run.shape)

    def attribute(
        self,
        pictures: str | Path | Sequence[str | Path] | None = None,
        seeds: Sequence[int] | None = None,
        invert: bool = False,
        inversions: int = 3,
        name: str | None = None,
        conditions: Sequence[str | int | None] | None = None,
        held_out: bool = False,
    ) -> Attributed:
        """Attributes pictures (files, and folders of them), generated queries or what no member saw: a query set.

        As `ddattr attribute` does, to the bit, with the keys of `queries`, unless it was done. None of them: the run's
        own set.

        Raises:
            FileNotFoundError, ValueError: a file that cannot be read, or what excludes each other.
        """
        given = [pictures] if isinstance(pictures, str | Path) else pictures
        files = None if given is None else [str(path) for path in given]
        queries = QuerySet(name, files, seeds, invert, inversions, conditions, held_out)
        attribute(self._run, queries)
        return self.sets[queries.title]

    @property
    def sets(self) -> dict[str, Attributed]:
        """The query sets that are done, by name: `default`, the run's own, first."""
        found, done = self._run.query_sets, query_sets(self._run.root)
        return {name: Attributed(name, found[name], self._run.root) for name in done}

    @cached_property
    def _own(self) -> Attributed:
        return Attributed(DEFAULT, self._run.attribution_artifact, self._run.root)

    @property
    def queries(self) -> pd.DataFrame:
        """Of the run's own set, as the four below: see `Attributed`. Those of others are in `sets`."""
        return self._own.queries

    @property
    def pictures(self) -> dict[int, Float[Tensor, "*image"]]:
        """What the whole ensemble made, by query."""
        return self._own.pictures

    @property
    def influence(self) -> pd.DataFrame:
        """A row for every unit, query, method and measure: score, z, p, q."""
        return self._own.influence

    @property
    def attributions(self) -> pd.DataFrame:
        """What to read first: a row a query and unit that matters (its q is at most `significance.level`)."""
        return self._own.attributions

    def best(self, query: int, k: int = 5) -> pd.DataFrame:
        """The k units of largest support of a query, in that order, with p, q and z of the test that each matters.

        Raises:
            ValueError: no such query.
        """
        return self._own.best(query, k)

    @cached_property
    def units(self) -> pd.DataFrame:
        """A row for every unit: its name, label and pictures.

        Raises:
            FileNotFoundError: an older ddattr made the run, which wrote none.
        """
        path = self._run.root / "units.parquet"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: an older ddattr made the run. Set name= and make it again.")
        return load_table(path)
