"""Pictures of an ensemble under rows of weights, drawn in Trainer.predict."""

from collections.abc import Sequence

import lightning as L
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from ddattr.diffusion.conditions import Given
from ddattr.diffusion.process import ReverseStep
from ddattr.ensemble.ensemble import Ensemble


class SamplingModule(L.LightningModule):
    """Draws the picture of every row of weights on every seed's tape.

    A row is an ensemble: one member, the first k of an order, an ablation. Seeds are split over batches and devices.

    Args:
        ensemble: the members.
        reverse: the sampler's steps.
        shape: (C, H, W).
        weights: (rows, n).
        seeds: one for every picture of a row.
        batch: seeds drawn together.
        under: the condition of every seed, where members take any.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        reverse: list[ReverseStep],
        shape: Sequence[int],
        weights: Float[Tensor, "rows n"],
        seeds: Sequence[int],
        batch: int,
        under: Given | None = None,
    ):
        super().__init__()
        self.ensemble = ensemble
        self.reverse = reverse
        self.shape = tuple(shape)
        self.weights = weights
        self.seeds = list(seeds)
        self.batch = batch
        self.under = under

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(range(len(self.seeds)), batch_size=self.batch)  # type: ignore[arg-type]

    def predict_step(self, places: Tensor, index: int) -> Float[Tensor, "rows q c h w"]:
        seeds = [self.seeds[place] for place in places.tolist()]
        ensemble = self.ensemble.given(None if self.under is None else self.under.at(places.cpu()))
        return ensemble.pictures(self.weights, seeds, self.reverse, self.shape, self.device)
