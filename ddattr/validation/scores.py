"""Signed scores of all units on all queries by every method, ready to be summed over subsets: the predictors."""

import time
from collections.abc import Callable

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddattr.attribution.baselines import pixel, random
from ddattr.attribution.loss import loss_change, member_loss_change
from ddattr.diffusion.process import Process
from ddattr.validation import peers
from ddattr.validation.lds import lds

ENSEMBLE = ("jvp", "individual_centred", "individual", "last_step")  # scored by `attribute`, by pull
SIMILARITY = ("pixel", "random")


def from_table(table: pd.DataFrame, seeds: list[int]) -> dict[str, Float[Tensor, "units q"]]:
    """Scores that `attribute` has made: pull of the ensemble's methods, and similarities."""
    found = {}
    for method in (*ENSEMBLE, *SIMILARITY):
        rows = table[(table.method == method) & (table.measure == ("pull" if method in ENSEMBLE else "similarity"))]
        wide = rows.pivot(index="unit", columns="query", values="score")[seeds]
        found[method] = torch.from_numpy(wide.to_numpy(copy=True))
    return found


def of_loss(gram: Float[Tensor, "q n n"], codewords: Bool[Tensor, "units n"]) -> dict[str, Float[Tensor, "units q"]]:
    """Influence on the loss: of the ensemble, and of its members one by one (difference of subset means)."""
    return {"loss": loss_change(gram, codewords), "member_loss": member_loss_change(gram, codewords)}


def of_real(
    pictures: Float[Tensor, "q *image"], unit_images: Float[Tensor, "units *image"], seed: int
) -> dict[str, Float[Tensor, "units q"]]:
    """Similarities of pictures that have no tape."""
    return {
        "pixel": pixel(pictures, unit_images).double(),
        "random": random(len(unit_images), range(len(pictures)), seed + 1),
    }


class Peers:
    """Scores of the methods that ask one model of all units; each is timed.

    Args:
        network: trained on all units.
        images, unit_of: the training pictures and their units.
        queries: all pictures that are asked about.
        process, times, noise: of the loss.
    """

    def __init__(
        self,
        network: nn.Module,
        images: Float[Tensor, "pictures *image"],
        unit_of: Int[Tensor, "pictures"],
        queries: Float[Tensor, "q *image"],
        process: Process,
        times: Int[Tensor, "draws"],
        noise: Float[Tensor, "draws *image"],
        seed: int,
    ):
        self.network, self.images, self.unit_of, self.queries, self.seed = network, images, unit_of, queries, seed
        self.loss = peers.Loss(process, times, noise)
        self.square = peers.Loss(process, times, noise, square=True)
        self.seconds: dict[str, float] = {}

    def score(self, method: str, targets: Tensor, subsets: Tensor) -> tuple[Tensor, str]:
        """Scores (units, q) of a peer, and what was tuned.

        Args:
            targets, subsets: of the tuning subsets, (subsets, q) and (subsets, units); TRAK's damping is chosen on
                them, by mean LDS over all queries.
        """
        started = time.perf_counter()
        if method in ("trak", "dtrak"):
            found = self._tuned(self.loss if method == "trak" else self.square, targets, subsets)
        else:
            made = {"gradient_dot": peers.gradient_dot, "unlearning": peers.unlearning}[method]
            found = self._summed(made(self.network, self.loss, self.queries, self.images)), ""
        self.seconds[method] = time.perf_counter() - started
        return found

    def features(self, extractor: nn.Module) -> Tensor:
        """Similarity of features, (units, q)."""
        return self._timed("feature", lambda: peers.feature_similarity(extractor, self.queries, self.images))

    def _tuned(self, loss: peers.Loss, targets: Tensor, subsets: Tensor) -> tuple[Tensor, str]:
        images, queries = peers.trak_features(self.network, loss, self.queries, self.images, seed=self.seed)
        tried = {d: self._summed(peers.trak(images, queries, d)) for d in peers.DAMPINGS}
        reached = {d: lds(score, targets, subsets).nanmean().item() for d, score in tried.items()}
        best = max(reached, key=lambda d: reached[d])
        return tried[best], f"damping {best:g}"

    def _summed(self, scores: Tensor) -> Tensor:
        return peers.over_units(scores.double(), self.unit_of)

    def _timed(self, name: str, work: Callable[[], Tensor]) -> Tensor:
        started = time.perf_counter()
        found = self._summed(work())
        self.seconds[name] = time.perf_counter() - started
        return found
