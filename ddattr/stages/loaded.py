"""A run in a notebook: `ddattr.load("runs/digits")`. No command line, and no Hydra app."""

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

from ddattr.artifacts import load_table, load_tensors
from ddattr.attribution.methods import SUPPORT, TESTED
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.process import Process
from ddattr.ensemble.ensemble import Ensemble
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
    call = {**dict.fromkeys(PER_CALL), "stage": "load", "run": str(folder), "root": str(folder)}
    return Loaded(Run(OmegaConf.create(read(folder, trusted) | call)))


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
        """All of it, as plain containers."""
        return self._run.resolved()

    @property
    def data(self) -> UnitDataModule:
        """Pictures, and which unit each is of."""
        return self._run.data

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
        return noise_tape(seeds, len(self.reverse), self.data.shape)

    @cached_property
    def queries(self) -> pd.DataFrame:
        """A row for every query, named by its seed."""
        return self._table("queries.csv")

    @cached_property
    def pictures(self) -> dict[int, Float[Tensor, "*image"]]:
        """What the whole ensemble made, by query."""
        artifact = self._run.attribution_artifact.require()
        stored = load_tensors(artifact.verified("queries.safetensors"))
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
    def units(self) -> pd.DataFrame:
        """A row for every unit: its name, label and pictures.

        Raises:
            FileNotFoundError: an older ddattr made the run, which wrote none.
        """
        path = self._run.root / "units.parquet"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: an older ddattr made the run. Set name= and make it again.")
        return load_table(path)

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
        if (self._run.root / "units.parquet").is_file():
            found = found.merge(self.units[["unit", "name"]], on="unit", how="left")
        columns = ["unit", "name", "support", "p_value", "q_value", "z"]
        return found[[column for column in columns if column in found]]

    def _table(self, name: str) -> pd.DataFrame:
        return load_table(self._run.attribution_artifact.require().verified(name))
