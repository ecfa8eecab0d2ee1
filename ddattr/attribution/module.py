"""Attribution in Trainer.predict: every batch of queries is denoised, and replayed if it can be, as one shard."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import lightning as L
import torch
from annotated_types import Ge
from torch import Tensor
from torch.utils.data import DataLoader

from ddattr.attribution import replayed, tables
from ddattr.attribution.adjoint import Adjoint, Functional, adjoint
from ddattr.attribution.asked import Asked
from ddattr.attribution.denoising import denoised
from ddattr.attribution.loss import loss_draws
from ddattr.attribution.replay import Replay, inversion_spread
from ddattr.attribution.scored import BLOCK
from ddattr.attribution.shards import Shards
from ddattr.attribution.significance import TestSettings
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.diffusion.captions import Conditions
from ddattr.diffusion.noise import Stream, generator
from ddattr.diffusion.process import Process, ReverseStep
from ddattr.ensemble.ensemble import Ensemble


class AttributionModule(L.LightningModule):
    """Attributes queries to the units of an ensemble.

    Queries spread over batches, and these over devices; a batch is one shard of tensors. After the last one, rank 0
    merges the shards, scores all units and logs the agreement; a part, which shares them, makes its own alone.

    Args:
        ensemble: the members.
        process: the forward process.
        reverse: the sampler's steps.
        codebook: who trained on what.
        data: the units' images and the sets scored after the fact.
        settings: of the tests.
        shards: what batches make.
        seed: of the ablated units and of the noise that pictures are denoised from.
        queries: number of the run's own queries.
        first_query: seed of the first of them; the others follow.
        batch: queries together.
        jacobian: the function of that name, with its `members_per_step` and `tangents` given.
        ablation_units: units replayed exactly, the same for all queries, drawn by seed.
        check: queries, spread over all, whose exact Jacobian is made too, to measure the rotating one, and, where
            replays are rounded, what that moves.
        precision: that networks multiply in where a tape is found and replayed: pictures, Jacobian, ablations. What a
            picture is denoised to, which p-values are made of, and functionals are in float32 always.
        denoisings: noised copies of every picture, whose denoising is what p-values are made of.
        refine: best units of every query, by p of the tested pull and by norm, that are replayed exactly.
        block: units that are scored together: fewer need less memory, and have the same numbers.
        kept: best units of every query by each method, and as many drawn by seed, that influence.parquet has, beside
            those that pass and those that are replayed: no fewer than the page lists. None for all units, which
            `validate` needs.
        asked: another query set than the run's own.
        conditions: what members are conditioned on; None where on nothing.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        process: Process,
        reverse: list[ReverseStep],
        codebook: Codebook,
        data: UnitDataModule,
        settings: TestSettings,
        shards: Shards,
        seed: int,
        queries: Annotated[int, Ge(1)],
        batch: Annotated[int, Ge(1)],
        jacobian: partial,
        first_query: int = 0,
        ablation_units: Annotated[int, Ge(1)] = 64,
        denoisings: Annotated[int, Ge(1)] = 50,
        check: Annotated[int, Ge(0)] = 2,
        precision: Literal["float32", "bfloat16"] = "float32",
        refine: Annotated[int, Ge(1)] = 3,
        block: Annotated[int, Ge(1)] = BLOCK,
        kept: Annotated[int, Ge(12)] | None = None,
        asked: Asked | None = None,
        conditions: Conditions | None = None,
    ):
        super().__init__()
        settings.check_units(codebook.units)
        self.ensemble = ensemble
        self.process = process
        self.reverse = reverse
        self.codebook = codebook
        self.data = data
        self.settings = settings
        self.shards = shards
        self.batch = batch
        self.asked = asked or _own(range(first_query, first_query + queries), conditions)
        self.conditions = conditions
        # noise that `validate` holds no score against; it denoises real pictures with the same
        self.times, self.noise = loss_draws(denoisings, process, data.shape, seed, attempt=2)
        self.precision = getattr(torch, precision)
        count = len(self.asked.numbers)
        self.checked = self.asked.numbers[[i * count // check for i in range(check)]]
        order = generator(seed, Stream.TRUTH_UNITS).permutation(codebook.units)
        self.ablated = torch.from_numpy(order[: min(ablation_units, codebook.units)]).sort().values
        self.block, self.kept, refined = block, kept, min(refine, codebook.units)
        self.replay = Replay(ensemble, codebook, data, settings, jacobian, self.ablated, refined, block)
        self.tables: tables.Tables | None = None
        self.tensors: dict[str, Tensor] = {}

    @property
    def batches(self) -> Sequence[Tensor]:
        """Numbers of the queries of every shard: the same on any number of devices."""
        return self.asked.numbers.split(self.batch)

    @property
    def missing(self) -> int:
        """How many batches have no shard yet."""
        return self.shards.missing(self.batches)

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    def predict_step(self, numbers: Tensor, index: int) -> None:
        numbers = numbers.cpu()
        if not self.shards.make(numbers, lambda: self._answers(numbers)):
            return
        done = "replayed" if self.asked.replayed else "denoised"
        first, last, count = int(numbers[0]), int(numbers[-1]), len(self.asked.numbers)
        print(f"attribute: queries {first} to {last} {done} ({count} in all)", flush=True)

    def adjoint(self, numbers: Tensor, functional: Functional) -> Adjoint:
        """A functional of some queries, on their tapes; of inverted pictures on the first of each."""
        ensemble = self._conditioned(numbers)
        tapes, reverse = self._tapes(ensemble, numbers)
        return adjoint(ensemble, tapes[0], reverse, functional)

    def _answers(self, numbers: Tensor) -> dict[str, Tensor]:
        """Everything that costs evaluations of the networks, for one batch of queries."""
        ensemble, given = self._conditioned(numbers), self.asked.given(numbers)
        if given is None or self.asked.inversions:
            return self._replayed(ensemble, numbers, given)
        return self._denoised(ensemble, numbers, given.to(self.device))

    def _conditioned(self, numbers: Tensor) -> Ensemble:
        """The ensemble under the conditions of some queries, where it takes any."""
        if self.conditions is None or self.asked.condition is None:
            return self.ensemble
        places = torch.searchsorted(self.asked.numbers, numbers)
        return self.ensemble.given(self.conditions.given(self.asked.condition[places]))

    def _tapes(self, ensemble: Ensemble, numbers: Tensor) -> tuple[list[Tensor], list[ReverseStep]]:
        return self.asked.tapes(numbers, ensemble, self.process, self.reverse, self.data.shape, self.device)

    def _denoised(self, ensemble: Ensemble, numbers: Tensor, pictures: Tensor) -> dict[str, Tensor]:
        """What every query set has."""
        made = denoised(ensemble, self.process, pictures, self.times, self.noise)
        return {"seeds": numbers, "factual": pictures.cpu(), "denoised": made.cpu()}

    def _replayed(self, ensemble: Ensemble, numbers: Tensor, given: Tensor | None) -> dict[str, Tensor]:
        """That, and all that takes a tape; of given pictures, how well their tapes do."""
        rounded = ensemble.rounded(self.precision)
        tapes, reverse = self._tapes(rounded, numbers)
        replay = replace(self.replay, ensemble=rounded)
        drawn, response = replay.first_order(tapes[0], reverse)
        found, response = self._denoised(ensemble, numbers, drawn), response.cpu()
        checked = torch.isin(numbers, self.checked)
        found |= replay.exact(tapes[0], reverse, found["factual"], response, found["denoised"], checked)
        if given is not None:
            first_orders = [(drawn, response), *(replay.first_order(tape, reverse) for tape in tapes[1:])]
            pulls = [replay.pulls(picture.cpu(), of.cpu()) for picture, of in first_orders]
            found["pull_spread"] = inversion_spread(torch.stack(pulls))
            found["replay_error"] = (found["factual"] - given).abs().flatten(1).amax(1)
        return found

    def on_predict_end(self) -> None:
        self.trainer.strategy.barrier()  # every process's last shard is on disk
        if self.shards.part or not self.trainer.is_global_zero:
            return
        self.tensors = self.shards.merged(self.batches)
        given = (self.codebook, self.data, self.settings, self.names, self.block, self.kept, self.asked.known)
        if self.asked.replayed:
            self.tables = replayed.tabulate(self.tensors, self.ablated, *given)
        else:
            self.tables = tables.tabulate(self.tensors, *given)
        if (conditions := self._conditions()) is not None:
            self.tables = self.tables._replace(queries=self.tables.queries.assign(condition=conditions))
        for logger in self.trainer.loggers:
            logger.log_metrics(self.tables.metrics())

    def _conditions(self) -> list[str] | None:
        """Of every query, in words."""
        if self.conditions is None or self.asked.condition is None:
            return None
        return self.conditions.words(self.asked.condition)

    @property
    def names(self) -> Sequence[str] | None:
        """Of every query: its seed's or file's, and what it is conditioned on."""
        if (conditions := self._conditions()) is None:
            return self.asked.names
        names = self.asked.names or [f"seed {seed}" for seed in self.asked.numbers.tolist()]
        return [f"{name}, {condition}" for name, condition in zip(names, conditions, strict=True)]


def _own(seeds: range, conditions: Conditions | None) -> Asked:
    """The run's own queries."""
    condition = None if conditions is None else conditions.of_seeds(seeds, conditions.queries, "conditions.queries")
    return Asked(torch.arange(seeds.start, seeds.stop), condition=condition)
