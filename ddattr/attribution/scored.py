"""Scores and tests of all units on some queries, method by method: what becomes influence.parquet."""

from collections.abc import Iterator, Mapping

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.attribution import baselines, influence, significance
from ddattr.attribution.estimator import Estimator, named
from ddattr.attribution.influence import Response
from ddattr.attribution.methods import shown
from ddattr.attribution.rows import Rows
from ddattr.attribution.significance import TestSettings
from ddattr.attribution.streamed import Answers, Found, Streamed
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.data.pictures import blocks
from ddattr.data.similarity import PIXELS
from ddattr.diffusion.noise import Check, Stream, generator

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
        self.data = data
        self.codebook = codebook
        self.factual = factual
        self.images = data.unit_pictures
        self.pixels = data.shown(factual), data.pictures.unit_pictures
        self.by_pixels = data.pictures.similarity is PIXELS
        self.distance = data.distance(factual)
        self.settings = settings
        self.block = block
        self.codewords = codebook.codewords(torch.arange(codebook.units))
        self.phantoms = codebook.sample_phantoms(settings.phantoms, settings.seed)
        self.estimator = Estimator.of_distance(self.codewords, self.distance, settings.gls_share, codebook.basis)
        self.kept = torch.zeros(self.distance.shape, dtype=torch.bool)
        self.scores: dict[str, dict[str, Float[Tensor, "units q"]]] = {}
        self.tests: dict[tuple[str, str], Test] = {}

    def compare(self) -> None:
        """What takes no model: similarity of pixels, and no information."""
        self.scores["pixel"] = {"similarity": -self.distance if self.by_pixels else self._pixels()}
        random = baselines.random(len(self.images), self.seeds.tolist(), self.settings.seed)
        self.scores["random"] = {"similarity": random}

    def _pixels(self) -> Float[Tensor, "units q"]:
        pictures, images = self.pixels
        return torch.cat([baselines.pixel(pictures, part) for part in blocks(images)])

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

    def keep(self, units: Int[Tensor, "some q"]) -> None:
        """Some units of every query are in `influence`, whatever else is."""
        self.kept.scatter_(0, units, True)

    def influence(self, best: int | None = None) -> Rows:
        """A row a unit, query, method and measure: of all units; or of those that pass a test or are to be kept, the
        best by every method that is shown or tested, and as many drawn by seed. q is that among all units. A frame has
        no more units than a block."""
        if best is None:
            self.kept.fill_(True)
        else:
            self._choose(min(best, len(self.kept)))
        return Rows(self._frames)

    def _frames(self) -> Iterator[pd.DataFrame]:
        for method, measures in self.scores.items():
            for measure, score in measures.items():
                test = self.tests.get((method, measure))
                tested = None if test is None else (*test, significance.benjamini_hochberg(test[1]))
                for units in torch.arange(len(score)).split(self.block):
                    part = None if tested is None else tuple(of[units] for of in tested)
                    yield influence_rows(method, measure, score[units], self.seeds, units, part, self.kept[units])

    def _choose(self, best: int) -> None:
        """What is kept of each query where it is not all."""
        drawn = generator(self.settings.seed, Stream.VERIFICATION, step=Check.KEPT).permutation(len(self.kept))[:best]
        self.kept[torch.from_numpy(drawn)] = True
        ranking = [score for name in shown(self.scores) for score in self.scores[name].values()]
        for (name, measure), (z, p) in self.tests.items():
            ranking += [self.scores[name][measure], z]
            self.kept |= significance.benjamini_hochberg(p) <= self.settings.level
        for score in ranking:
            self.keep(score.topk(best, 0).indices)

    def at(self, units: Tensor) -> Mapping[str, Mapping[str, Tensor]]:
        """The scores of some units."""
        return {name: {measure: score[units] for measure, score in of.items()} for name, of in self.scores.items()}


def influence_rows(
    method: str,
    measure: str,
    score: Float[Tensor, "units q"],
    seeds: Tensor,
    units: Int[Tensor, "units"],
    tested: tuple[Tensor, ...] | None = None,
    kept: Bool[Tensor, "units q"] | None = None,
) -> pd.DataFrame:
    """Long table of one method and measure.

    Args:
        tested: its z, p and q, (units, q) each; None where it was not.
        kept: pairs that have a row; None for all.
    """
    kept = torch.ones_like(score, dtype=torch.bool) if kept is None else kept
    z, p, q = (torch.full_like(score, torch.nan),) * 3 if tested is None else tested
    row, query = kept.nonzero(as_tuple=True)
    return pd.DataFrame(
        {
            "unit": units[row].numpy(),
            "query": seeds[query].numpy(),
            "method": method,
            "measure": measure,
            "score": score[kept].double().numpy(),
            "z": z[kept].double().numpy(),
            "p_value": p[kept].double().numpy(),
            "q_value": q[kept].double().numpy(),
        }
    )
