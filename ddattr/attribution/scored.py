"""Scores and tests of all units on some queries, method by method: what becomes influence.parquet."""

from collections.abc import Mapping

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.attribution import baselines, influence, significance
from ddattr.attribution.estimator import Estimator, named
from ddattr.attribution.influence import Response
from ddattr.attribution.significance import TestSettings
from ddattr.attribution.streamed import Answers, Found, Streamed
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.pictures import blocks

BLOCK = 1 << 14  # units together: of 3 x 32 x 32 pictures 0.4 GB
Test = tuple[Tensor, Tensor]  # z and p, (units, q) each


class Scored:
    """Scores by method and measure, and the tests of those that are tested, in the order in which they are asked for.

    Args:
        seeds: names of the queries.
        factual: their pictures, (q, *image).
        data: the units, and how far they are from pictures.
        settings: of the tests.
        block: units together.
    """

    def __init__(
        self,
        seeds: Tensor,
        factual: Tensor,
        data: UnitDataModule,
        codebook: Codebook,
        settings: TestSettings,
        block: int = BLOCK,
    ):
        self.seeds = seeds
        self.factual = factual
        self.images = data.unit_pictures
        self.pixels = data.shown(factual), data.pictures.unit_pictures
        self.distance = data.distance(factual)
        self.settings = settings
        self.block = block
        self.codewords = codebook.codewords(torch.arange(codebook.units))
        self.phantoms = codebook.sample_phantoms(settings.phantoms, settings.seed)
        self.estimator = Estimator.of_distance(self.codewords, self.distance, settings.gls_share, codebook.basis)
        self.scores: dict[str, dict[str, Float[Tensor, "units q"]]] = {}
        self.tests: dict[tuple[str, str], Test] = {}

    def compare(self) -> None:
        """What takes no model: similarity of pixels, and no information."""
        random = baselines.random(len(self.images), self.seeds.tolist(), self.settings.seed)
        shown, images = self.pixels
        self.scores["pixel"] = {"similarity": torch.cat([baselines.pixel(shown, part) for part in blocks(images)])}
        self.scores["random"] = {"similarity": random}

    def respond(self, method: str, response: Response) -> None:
        """METHOD, a linear one: its pull and its norm."""
        parts = [
            influence.scores(response, self.factual, self.images[units], self.codewords[units])
            for units in torch.arange(len(self.codewords)).split(self.block)
        ]
        self.scores[method] = {measure: torch.cat([part[measure] for part in parts]) for measure in parts[0]}

    def estimate(self, method: str, answers: Answers) -> tuple[Found, Streamed]:
        """METHOD, METHOD_gls, which is tested, and METHOD_posterior of what members answer along the units."""
        streamed = Streamed(self.estimator, answers, self.block)
        found = streamed.found()
        for name, pull in named(method, found.plain, found.pull, found.posterior).items():
            self.scores[name] = self.scores.get(name, {}) | {"pull": pull}
        self.tests[f"{method}_gls", "pull"] = found.z, found.p
        return found, streamed

    def influence(self) -> pd.DataFrame:
        """A row a unit, query, method and measure."""
        rows = [
            influence_rows(method, measure, score, self.seeds, test=self.tests.get((method, measure)))
            for method, measures in self.scores.items()
            for measure, score in measures.items()
        ]
        return pd.concat(rows, ignore_index=True)

    def at(self, units: Tensor) -> Mapping[str, Mapping[str, Tensor]]:
        """The scores of some units."""
        return {name: {measure: score[units] for measure, score in of.items()} for name, of in self.scores.items()}


def influence_rows(
    method: str,
    measure: str,
    score: Float[Tensor, "units q"],
    seeds: Tensor,
    units: Tensor | None = None,
    test: Test | None = None,
) -> pd.DataFrame:
    """Long table of one method and measure, of all units or of some; z, p and q where it was tested."""
    count, queries = score.shape
    units = torch.arange(count) if units is None else units
    z, p = (torch.full_like(score, torch.nan),) * 2 if test is None else test
    return pd.DataFrame(
        {
            "unit": units.repeat_interleave(queries).numpy(),
            "query": seeds.repeat(count).numpy(),
            "method": method,
            "measure": measure,
            "score": score.flatten().numpy(),
            "z": z.flatten().numpy(),
            "p_value": p.flatten().numpy(),
            "q_value": significance.benjamini_hochberg(p).flatten().numpy(),
        }
    )
