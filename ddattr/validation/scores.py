"""Signed scores of all units on all queries by every method, ready to be summed over subsets: the predictors."""

from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddattr.artifacts import load_tensors
from ddattr.attribution.background import Background
from ddattr.attribution.baselines import pixel, random
from ddattr.attribution.datamodel import adjusted_means, kernel_ridge, rbf_kernel, subset_means
from ddattr.attribution.denoised import along_own
from ddattr.attribution.influence import nearness, pull
from ddattr.attribution.loss import loss_change
from ddattr.attribution.posterior import measured
from ddattr.codebook import Codebook
from ddattr.diffusion.process import Process
from ddattr.meter import Meter
from ddattr.validation import peers
from ddattr.validation.lds import lds
from ddattr.validation.methods import ENSEMBLE, TUNED
from ddattr.validation.part import Part

SCORED = 5  # raised whenever `validate` would score otherwise, so that older scores are refused


def load_scores(path: Path) -> dict[str, dict[str, Tensor]]:
    """Signed scores (units, q) of all methods, by kind of query and method, as `validate` stored them."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in sorted(load_tensors(path).items()):
        kind, _, method = name.partition("/")
        found.setdefault(kind, {})[method] = value
    return found


def from_table(table: pd.DataFrame, seeds: list[int]) -> dict[str, Float[Tensor, "units q"]]:
    """Scores that `attribute` has made: pull of the ensemble's methods, and similarities.

    Raises:
        ValueError: an `attribute` made them that knew fewer methods.
    """
    if missing := {*ENSEMBLE, "pixel", "random"} - set(table.method):
        raise ValueError(
            f"validate: influence.parquet has no method {', '.join(sorted(missing))}, as it was made by another "
            "version. Delete attribution/ and make it again: ddattr attribute."
        )
    found = {}
    for method in (*ENSEMBLE, "pixel", "random"):
        rows = table[(table.method == method) & (table.measure == ("pull" if method in ENSEMBLE else "similarity"))]
        wide = rows.pivot(index="unit", columns="query", values="score")[seeds]
        found[method] = torch.from_numpy(wide.to_numpy(copy=True))
    return found


def of_loss(
    gram: Float[Tensor, "q n n"],
    codewords: Bool[Tensor, "units n"],
    features: dict[str, tuple[Tensor, Tensor]],
    surrogate: Float[Tensor, "units q"],
) -> dict[str, Float[Tensor, "units q"]]:
    """Influence on the loss: of the ensemble; and, from its members' own losses, by datamodels.

    `member_loss` is the difference of subset means; `datamodel*` have a prior from features, from gradients, or from
    both; `adjusted` takes a surrogate as control variate.

    Args:
        features: of the units and of the queries, by kind: (units, features), (q, features).
        surrogate: scores of a method that never saw the members.
    """
    outputs = -gram.diagonal(dim1=1, dim2=2).T
    found = {
        "loss": loss_change(gram, codewords),
        "member_loss": subset_means(outputs, codewords),
        "adjusted": adjusted_means(outputs, codewords, surrogate),
    }
    return found | datamodels(outputs, codewords, features)


def of_part(
    part: Part,
    response: Float[Tensor, "m q *image"],
    gram: Float[Tensor, "q m m"],
    pictures: Float[Tensor, "q *image"],
    unit_images: Float[Tensor, "units *image"],
    background: float,
) -> dict[str, Float[Tensor, "units q"]]:
    """Any pictures by part of the ensemble: its denoising, plain and posterior, and its loss.

    Args:
        response, gram: of these members alone, as `denoised` and `residual_gram` have them.
    """
    found = part.measured(along_own(response, unit_images), -pixel(pictures, unit_images).double(), background)
    return {"denoised": found.plain, "denoised_posterior": found.posterior, "loss": part.loss_change(gram)}


def datamodels(
    outputs: Float[Tensor, "n q"], codewords: Bool[Tensor, "units n"], features: dict[str, tuple[Tensor, Tensor]]
) -> dict[str, Float[Tensor, "units q"]]:
    """Kernel ridge datamodels of members' outputs: `datamodel`, `datamodel_trak`, `datamodel_both`, as far as given.

    Units and queries are compared by cosine distance of the features; of both kinds, by the product of the kernels
    and of the nearnesses.
    """
    kernels, near = {}, {}
    for kind, (units, queries) in features.items():
        one, other = (nn.functional.normalize(x.double(), dim=-1) for x in (units, queries))
        kernels[kind], near[kind] = rbf_kernel(one), nearness(torch.cdist(one, other))
    if len(kernels) > 1:
        kernels["both"] = torch.stack(list(kernels.values())).prod(0)
        near["both"] = torch.stack(list(near.values())).prod(0)
    return {
        "datamodel" if kind == "features" else f"datamodel_{kind}": kernel_ridge(
            outputs, codewords, kernels[kind], near[kind]
        ).effects
        for kind in kernels
    }


def of_real(
    pictures: Float[Tensor, "q *image"], unit_images: Float[Tensor, "units *image"], seed: int
) -> dict[str, Float[Tensor, "units q"]]:
    """Similarities of pictures that have no tape."""
    return {
        "pixel": pixel(pictures, unit_images).double(),
        "random": random(len(unit_images), range(len(pictures)), seed + 1),
    }


def of_denoising(
    response: Float[Tensor, "n q *image"],
    pictures: Float[Tensor, "q *image"],
    unit_images: Float[Tensor, "units *image"],
    codebook: Codebook,
    background: float,
) -> dict[str, Float[Tensor, "units q"]]:
    """Pull of what members denoise pictures to, `response`: plain, with the other units discounted, and posterior."""
    words, distance = codebook.codewords(torch.arange(codebook.units)), -pixel(pictures, unit_images).double()
    answers = along_own(response, unit_images)
    _, score, expected = measured(answers, Background(words, nearness(distance), background), codebook, distance)
    return {"denoised": pull(answers, words), "denoised_gls": score, "denoised_posterior": expected}


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
        self.meter = Meter()
        self.found: dict[str, tuple[Tensor, Tensor]] = {}  # features of the units and of the queries, by kind
        self.tried: dict[str, Tensor] = {}  # scores at all that was tried, (tried, units, q), for the oracle

    def score(self, method: str, targets: Tensor, subsets: Tensor) -> tuple[Tensor, str]:
        """Scores (units, q) of a peer, and what was tuned.

        Args:
            targets, subsets: of the tuning subsets, (subsets, q) and (subsets, units); dampings and projections are
                chosen on them, by mean LDS over all queries.
        """
        with self.meter.measure(method):
            if method not in TUNED:
                return self._summed(peers.gradient_dot(self.network, self.loss, self.queries, self.images)), ""
            tried = self._unlearning() if method == "unlearning" else self._trak(method)
            reached = {name: lds(score, targets, subsets).nanmean().item() for name, score in tried.items()}
            best = max(reached, key=lambda name: reached[name])
            self.tried[method] = torch.stack(list(tried.values()))
            return tried[best], best

    def features(self, extractor: nn.Module) -> Tensor:
        """Similarity of features, (units, q)."""
        with self.meter.measure("feature"):
            found = self._summed(peers.feature_similarity(extractor, self.queries, self.images))
            self.found["features"] = self._means(extractor(self.images)), extractor(self.queries.clamp(-1, 1))
            return found

    def _trak(self, method: str) -> dict[str, Tensor]:
        loss = self.loss if method == "trak" else self.square
        images, queries = peers.trak_features(self.network, loss, self.queries, self.images, seed=self.seed)
        if method == "trak" or "trak" not in self.found:
            self.found["trak"] = self._means(images), queries  # all dimensions: nearest to the gradients' own cosines
        return {
            f"{size} dimensions, damping {damping:g}": self._summed(
                peers.trak(images[:, :size], queries[:, :size], damping)
            )
            for size in peers.PROJECTIONS
            for damping in peers.DAMPINGS
        }

    def _unlearning(self) -> dict[str, Tensor]:
        information = peers.fisher(self.network, self.loss, self.images)
        given = self.network, self.loss, self.queries, self.images, information
        return {f"damping {d:g}": self._summed(peers.unlearning(*given, d)) for d in peers.FISHER_DAMPINGS}

    def _summed(self, scores: Tensor) -> Tensor:
        return peers.over_units(scores.double(), self.unit_of)

    def _means(self, values: Tensor) -> Tensor:
        return self._summed(values) / self.unit_of.bincount()[:, None]
