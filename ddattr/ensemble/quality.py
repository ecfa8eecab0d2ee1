"""Quality of an ensemble's pictures: FID and KID with growing size, and convergence to the whole ensemble."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import lightning as L
import pandas as pd
import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ddattr.data.pictures import Images, blocks
from ddattr.diffusion.conditions import Given
from ddattr.diffusion.noise import Stream, generator
from ddattr.diffusion.process import ReverseStep
from ddattr.ensemble.distances import frechet, kernel
from ddattr.ensemble.ensemble import Ensemble
from ddattr.ensemble.extractor import describe, train_extractor
from ddattr.ensemble.likeness import unlikeness
from ddattr.ensemble.sampling import SamplingModule

_SHOWN = 24  # pictures of the ensemble, and of the data, that are kept to look at


class Rows(NamedTuple):
    """Rows of weights that a quality run draws, and what each is.

    weights (rows, n); individuals (n,) the row of every member alone; whole, the row of all members; growing, the row
    of the first k members of an order, by (order, k), and halves, the row of the k members after those.
    """

    weights: Tensor
    individuals: list[int]
    whole: int
    growing: dict[tuple[int, int], int]
    halves: dict[tuple[int, int], int]


def halvings(n: int) -> list[int]:
    """1 to n by halving: 18 gives 1, 2, 4, 9, 18."""
    return [*(halvings(n // 2) if n > 1 else []), n]


def quality_rows(n: int, sizes: Sequence[int] | None, orders: int, seed: int) -> Rows:
    """Every member alone, all together, and in each of several seeded orders the first k and the next k.

    Args:
        sizes: the k; None takes `halvings(n)`.
    Raises:
        ValueError: a size that n members do not have.
    """
    sizes = halvings(n) if sizes is None else list(sizes)
    if any(not 1 <= size <= n for size in sizes):
        raise ValueError(f"quality: sizes={sizes}, expected values from 1 to {n} members. Set quality.sizes.")
    rows: dict[frozenset[int], int] = {}

    def row(members: Any) -> int:
        return rows.setdefault(frozenset(int(k) for k in members), len(rows))

    individuals, whole = [row([k]) for k in range(n)], row(range(n))
    growing, halves = {}, {}
    for order in range(orders):
        members = generator(seed, Stream.MEMBER_ORDER, step=order).permutation(n)
        for size in sizes:
            growing[order, size] = row(members[:size])
            if 2 * size <= n:
                halves[order, size] = row(members[size : 2 * size])
    weights = torch.zeros(len(rows), n)
    for members, index in rows.items():
        weights[index, list(members)] = 1 / len(members)
    return Rows(weights, individuals, whole, growing, halves)


def gathered(
    part: Float[Tensor, "rows share ..."], all_gather: Callable[[Tensor], Any], count: int, world: int
) -> Float[Tensor, "rows count ..."]:
    """What all `world` processes have of `count` seeds, in order: process r drew r, r + world, r + 2 world, ..."""
    missing = -(-count // world) - part.shape[1]
    padded = torch.cat([part, part.new_zeros(len(part), missing, *part.shape[2:])], 1)
    return torch.as_tensor(all_gather(padded)).cpu().movedim(0, 2).flatten(1, 2)[:, :count]


class EnsembleQuality(L.Callback):
    """Computes quality while pictures are drawn, and, when `while_training` is set, of a member while it trains.

    On the predict of its own `module`: FID and KID of every individual and every ensemble at equal numbers of
    pictures, and the distance between pictures of k members and of all n, and of two disjoint sets of k, on the same
    tapes. After it, `fid`, `convergence` and `likeness` hold the tables, and `shown` the whole ensemble's first
    pictures beside some of the data.

    Args:
        images: pictures to compare with, and to train the extractor on.
        labels: of the pictures, or None.
        members: n.
        reverse: the sampler's steps.
        seed: of the extractor and of the orders.
        pictures: of every individual and ensemble.
        batch: seeds drawn together.
        sizes: of the ensembles; None takes `halvings(members)`.
        orders: in which the ensembles grow.
        extractor_steps: of the extractor's training.
        while_training: whether a member's FID is computed at every validation.
        under: the condition of every picture drawn, where members take any.
        shape: of what members make, latents perhaps; None is that of the images.
        shown: what they make, as pictures; distances on the same tapes are of what they make.
    """

    def __init__(
        self,
        images: Images,
        labels: Int[Tensor, "images"] | None,
        members: int,
        reverse: list[ReverseStep],
        seed: int,
        pictures: int,
        batch: int,
        sizes: Sequence[int] | None,
        orders: int,
        extractor_steps: int = 400,
        while_training: bool = False,
        under: Given | None = None,
        shape: Sequence[int] | None = None,
        shown: Callable[[Tensor], Tensor] = lambda made: made,
    ):
        if pictures < 2 or batch < 1 or orders < 1:
            raise ValueError(
                f"quality: pictures={pictures} batch={batch} orders={orders}, expected at least 2, 1 and 1."
            )
        self.rows = quality_rows(members, sizes, orders, seed)
        self.extractor = train_extractor(images, labels, seed, extractor_steps)
        self.features_are = describe(labels)
        self.real = torch.cat([self.extractor(block) for block in blocks(images)])
        self.data = images
        self.seed = seed
        self.reverse = reverse
        self.shape = tuple(images.shape[1:] if shape is None else shape)
        self.show = shown
        self.seeds = range(pictures)
        self.batch = batch
        self.while_training = while_training
        self.under = under
        self.fid = pd.DataFrame()
        self.convergence = pd.DataFrame()
        self.likeness = pd.DataFrame()
        self.shown: dict[str, Tensor] = {}
        self._features: list[Tensor] = []
        self._pictures: list[Tensor] = []
        self._distances: list[Tensor] = []

    def module(self, ensemble: Ensemble) -> SamplingModule:
        """The module whose predict this callback listens to."""
        return SamplingModule(ensemble, self.reverse, self.shape, self.rows.weights, self.seeds, self.batch, self.under)

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        rows, pictures = self.rows, outputs.cpu()
        self._features.append(torch.stack([self.extractor(self.show(row).clamp(-1, 1)) for row in pictures]))
        pairs = [(row, rows.whole) for row in rows.growing.values()]
        pairs += [(rows.growing[key], row) for key, row in rows.halves.items()]
        self._pictures.append(pictures[[rows.whole]])
        self._distances.append(torch.stack([(pictures[a] - pictures[b]).flatten(1).norm(dim=1) for a, b in pairs]))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parts = [torch.cat(part, 1) for part in (self._features, self._distances, self._pictures)]
        if trainer.world_size > 1:
            parts = [gathered(part, pl_module.all_gather, len(self.seeds), trainer.world_size) for part in parts]
        features, distances, (pictures,) = parts
        self._tabulate(features, distances)
        pictures = self.show(pictures)
        found = unlikeness(pictures.clamp(-1, 1), self.data, self.seed)
        self.likeness = pd.DataFrame([(found, len(pictures))], columns=["unlikeness", "images"])
        evenly = torch.linspace(0, len(self.data) - 1, min(_SHOWN, len(self.data))).round().long()
        self.shown = {"samples": pictures[:_SHOWN], "data": self.data[evenly]}
        self._log(trainer)

    def _tabulate(self, features: Float[Tensor, "rows q d"], distances: Float[Tensor, "pairs q"]) -> None:
        rows = self.rows
        n = len(rows.individuals)
        listed = [("individual", k, -1, 1, row) for k, row in enumerate(rows.individuals)]
        listed += [("ensemble", -1, order, size, row) for (order, size), row in rows.growing.items()]
        listed += [] if any(size == n for _, size in rows.growing) else [("ensemble", -1, 0, n, rows.whole)]
        table = []
        for kind, member, order, size, row in listed:
            mean, deviation = kernel(self.real, features[row])
            table.append(
                (kind, member, order, size, frechet(self.real, features[row]), mean, deviation, features.shape[1])
            )
        self.fid = pd.DataFrame(
            table, columns=["kind", "member", "order", "members", "fid", "kid", "kid_std", "images"]
        )
        pairs = [(*key, "to_all") for key in rows.growing] + [(*key, "disjoint") for key in rows.halves]
        sem = distances.std(1) / distances.shape[1] ** 0.5
        self.convergence = pd.DataFrame(
            [
                (size, order, d.mean().item(), s.item(), kind)
                for (order, size, kind), d, s in zip(pairs, distances, sem, strict=True)
            ],
            columns=["members", "order", "distance_mean", "distance_sem", "kind"],
        )

    @rank_zero_only
    def _log(self, trainer: L.Trainer) -> None:
        if trainer.logger is None:
            return
        for logger in trainer.loggers:
            logger.log_metrics({"quality/ensemble/unlikeness": self.likeness.unlikeness[0]}, len(self.rows.individuals))
        sizes = self.fid[self.fid.kind == "ensemble"].groupby("members")[["fid", "kid"]].mean()
        alone = self.fid[self.fid.kind == "individual"][["fid", "kid"]].mean()
        for logger in trainer.loggers:
            logger.log_metrics({"quality/individual/fid": alone.fid, "quality/individual/kid": alone.kid}, 1)
            for size, row in sizes.iterrows():
                logger.log_metrics({"quality/ensemble/fid": row.fid, "quality/ensemble/kid": row.kid}, int(size))
            for (kind, size), rows in self.convergence.groupby(["kind", "members"]):
                logger.log_metrics({f"quality/distance/{kind}": rows.distance_mean.mean()}, int(size))

    @torch.no_grad()
    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        """FID of a member in training: its average, which Lightning has swapped in for the validation."""
        if not self.while_training or trainer.sanity_checking:
            return
        alone = Ensemble([deepcopy(pl_module.network)]).given(self.under)  # an ensemble freezes its networks
        pictures = alone.pictures(torch.ones(1, 1), self.seeds, self.reverse, self.shape, pl_module.device)[0]
        score = frechet(self.real, self.extractor(self.show(pictures.cpu()).clamp(-1, 1)))
        pl_module.log("val/fid", score, prog_bar=True, batch_size=len(self.seeds))
