"""Attribution in Trainer.predict: every batch of queries is replayed, differentiated and stored as one shard."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ddattr.artifacts import load_tensors, save_tensors
from ddattr.attribution.agreement import relative_error
from ddattr.attribution.baselines import last_step
from ddattr.attribution.counterfactual import counterfactual
from ddattr.attribution.denoising import denoised, distinctive
from ddattr.attribution.estimator import Estimator
from ddattr.attribution.influence import gram, norm
from ddattr.attribution.loss import loss_draws
from ddattr.attribution.significance import TestSettings, null_deviation, pull_significance
from ddattr.attribution.tables import Tables, tabulate
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.diffusion.noise import Stream, generator, noise_tape
from ddattr.diffusion.process import Process, ReverseStep
from ddattr.ensemble.ensemble import Ensemble

_SHORTLIST = 32  # units of largest z, for each that is wanted, among which those of smallest p are sought


class AttributionModule(L.LightningModule):
    """Attributes queries, named by their seeds, to the units of an ensemble.

    Queries spread over batches and devices; a batch is one atomic shard of tensors, so that a killed run goes on where
    it stopped. After the last one, rank 0 merges the shards, scores all units and logs the agreement.

    Args:
        ensemble: the members.
        process: the forward process.
        reverse: the sampler's steps.
        codebook: who trained on what.
        data: the units' images and the sets scored after the fact.
        settings: of the tests.
        folder: where shards go.
        seed: of the ablated units and of the noise that pictures are denoised from.
        queries: number of queries.
        first_query: seed of the first; the others follow.
        batch: queries together.
        jacobian: the function of that name, with its `members_per_step` and `tangents` given.
        ablation_units: units replayed exactly, the same for all queries, drawn by seed.
        check: queries, spread over all, whose exact Jacobian is made too, to measure the rotating one.
        denoisings: noised copies of every picture, whose denoising is what p-values are made of.
        refine: best units of every query, by p of the tested pull and by norm, that are replayed exactly.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        process: Process,
        reverse: list[ReverseStep],
        codebook: Codebook,
        data: UnitDataModule,
        settings: TestSettings,
        folder: Path,
        seed: int,
        queries: int,
        batch: int,
        jacobian: partial,
        first_query: int = 0,
        ablation_units: int = 64,
        denoisings: int = 100,
        check: int = 2,
        refine: int = 3,
    ):
        super().__init__()
        _validate(refine=refine, queries=queries, batch=batch, ablation_units=ablation_units, denoisings=denoisings)
        settings.check_units(codebook.units)
        self.ensemble = ensemble
        self.process = process
        self.reverse = reverse
        self.codebook = codebook
        self.data = data
        self.settings = settings
        self.folder = folder
        self.seed = seed
        self.queries = queries
        self.batch = batch
        self.jacobian = jacobian
        self.first_query = first_query
        self.refine = min(refine, codebook.units)
        # noise that `validate` holds no score against; it denoises real pictures with the same
        self.times, self.noise = loss_draws(denoisings, process, data.shape, seed, attempt=2)
        self.checked = {first_query + i * queries // check for i in range(check)}
        order = generator(seed, Stream.TRUTH_UNITS).permutation(codebook.units)
        self.ablated = torch.from_numpy(order[: min(ablation_units, codebook.units)]).sort().values
        self.codewords = codebook.codewords(torch.arange(codebook.units))
        self.tables: Tables | None = None
        self.tensors: dict[str, Tensor] = {}

    @property
    def batches(self) -> Sequence[Tensor]:
        """Seeds of the queries of every shard: the same on any number of devices."""
        return torch.arange(self.first_query, self.first_query + self.queries).split(self.batch)

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    def predict_step(self, seeds: Tensor, index: int) -> None:
        path = self.folder / f"shard-{int(seeds[0]):08d}.safetensors"
        if not path.exists():
            save_tensors(path, self._replay(seeds))
        print(f"attribute: queries {int(seeds[0])} to {int(seeds[-1])} replayed ({self.queries} in all)", flush=True)

    def _replay(self, seeds: Tensor) -> dict[str, Tensor]:
        """Everything that costs evaluations of the networks, for one batch of queries."""
        shape, names = self.data.shape, seeds.tolist()
        tape = noise_tape(names, len(self.reverse), shape).to(self.device)
        drawn, response = self.jacobian(self.ensemble, tape, self.reverse)
        made = denoised(self.ensemble, self.process, drawn, self.times, self.noise).cpu()
        picture, response = drawn.cpu(), response.cpu()
        alone = self.ensemble.pictures(torch.eye(len(self.ensemble)), names, self.reverse, shape, self.device)
        codewords = self.codewords[self.ablated]
        exact = counterfactual(self.ensemble, codewords, names, self.reverse, shape, str(self.device))
        top, refined = self._refine(names, picture, response, made)
        checked = torch.tensor([seed in self.checked for seed in names])
        rotating = torch.where(checked, 0.0, torch.nan)
        if checked.any() and self.jacobian.keywords.get("members_per_step") is not None:
            _, full = self.jacobian(self.ensemble, tape[:, checked], self.reverse, members_per_step=None)
            rotating[checked] = relative_error(response[:, checked], full.cpu())
        return {
            "seeds": seeds,
            "factual": picture,
            "jacobian": response,
            "denoised": made,
            "members": alone,
            "last_step": last_step(self.ensemble, tape, self.reverse).members,
            "ablations": exact,
            "refined_units": top,
            "refined": refined,
            "refined_images": self.data.unit_images[top],
            "rotating_error": rotating,
        }

    def _refine(self, seeds: list[int], picture: Tensor, response: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        """Exact counterfactuals of every query's best units, by p, then by norm: (2 k, Q), and pictures."""
        images = self.data.unit_images
        estimator = Estimator.of_distance(self.codewords, self.data.distance(picture), self.settings.gls_share)
        by_pull = self._surest(estimator, estimator.gls.adjust(distinctive(made, images)))
        by_norm = norm(gram(response), self.codewords).topk(self.refine, 0).indices
        top = torch.cat([by_pull, by_norm])
        codewords = self.codewords[top]
        return top, counterfactual(self.ensemble, codewords, seeds, self.reverse, self.data.shape, str(self.device))

    def _surest(self, estimator: Estimator, adjusted: Tensor) -> Tensor:
        """Units of smallest p of pull, (k, Q), ties by z. p is asked of the units of largest z only: it is dear."""
        score = estimator.pull(adjusted)
        z = score / null_deviation(adjusted, self.codewords).clamp_min(1e-12)
        likely = z.topk(min(_SHORTLIST * self.refine, len(z)), 0).indices
        phantoms = self.codebook.sample_phantoms(self.settings.phantoms, self.settings.seed)
        answers = adjusted.gather(1, likely.expand(len(adjusted), -1, -1))
        _, p = pull_significance(score.gather(0, likely), answers, phantoms, self.codewords[likely])
        return likely.gather(0, p.sort(dim=0, stable=True).indices[: self.refine])

    def on_predict_end(self) -> None:
        self.trainer.strategy.barrier()  # every process's last shard is on disk
        if not self.trainer.is_global_zero:
            return
        self.tensors = merge([load_tensors(path) for path in sorted(self.folder.glob("shard-*.safetensors"))])
        self.tables = tabulate(self.tensors, self.ablated, self.codebook, self.data, self.settings)
        for logger in self.trainer.loggers:
            logger.log_metrics(self.tables.metrics())


_QUERY_DIMENSION = {"seeds": 0, "factual": 0, "rotating_error": 0}


def merge(shards: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Shards joined over queries, in the order of their seeds."""
    order = torch.cat([shard["seeds"] for shard in shards]).argsort()
    joined = {}
    for name in shards[0]:
        dimension = _QUERY_DIMENSION.get(name, 1)
        joined[name] = torch.cat([shard[name] for shard in shards], dimension).index_select(dimension, order)
    return joined


def _validate(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"attribution: {name}={count}, expected at least 1. Set attribution.{name}.")
