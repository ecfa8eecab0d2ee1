"""Signed scores of all units on all queries by every method, ready to be summed over subsets: the predictors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ddattr.artifacts import load_tensors
from ddattr.attribution.baselines import pixel, random
from ddattr.attribution.datamodel import adjusted_means, kernel_ridge, rbf_kernel, subset_means
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.estimator import draw_members
from ddattr.attribution.influence import similarity
from ddattr.attribution.loss import loss_change, residual_gram
from ddattr.attribution.methods import METHODS, Family, keys
from ddattr.ensemble.ensemble import Ensemble
from ddattr.meter import Meter
from ddattr.validation.answers import Answers
from ddattr.validation.peers import Peers
from ddattr.validation.truth import Truth

SCORED = 7  # raised whenever `validate` would score otherwise, so that older scores are refused
Scores = dict[str, dict[str, Tensor]]  # kind of query -> method -> (units, q)
Features = Mapping[str, tuple[Tensor, Tensor]]  # of the units and of the pictures, by kind


def load_scores(path: Path) -> Scores:
    """Signed scores (units, q) of all methods, by kind of query and method, as `validate` stored them."""
    found: Scores = {}
    for name, value in sorted(load_tensors(path).items()):
        kind, _, method = name.partition("/")
        found.setdefault(kind, {})[method] = value
    return found


def score(answers: Answers, truth: Truth) -> tuple[Scores, dict[str, Any]]:
    """Scores of all methods by kind of query, a peer's at all it tried; what was tuned, and how long it took."""
    queries, plan, notes = answers.queries, answers.plan, {}
    made: Scores = {"generated": from_table(answers.influence, queries.seeds)}
    if "real" in queries.kinds():
        made["real"] = of_real(queries.real, answers.data.unit_images, answers.seed)
        along = distinctive(answers.denoised_real, answers.data.unit_images)
        estimate = answers.estimator(queries.real).estimate(along)
        made["real"] |= estimate.named("denoised")
    *tuning, full = plan.scored_by()
    tuning = tuning or [full]  # nothing is tuned then
    peers = Peers(
        truth.network(full),
        answers.data.images[:],
        answers.data.unit_of,
        queries.pictures,
        queries.process,
        queries.times,
        queries.noise,
        answers.seed,
    )
    everywhere = {"feature": peers.features(answers.extractor)}
    targets = -queries.losses([truth.network(model) for model in tuning])
    for method in plan.peers:
        everywhere[method], notes[method] = peers.score(method, targets, torch.stack([m.units for m in tuning]))
        print(f"validate: {method} scored in {peers.meter.seconds[method]:.0f} s {notes[method]}", flush=True)
    surrogate = everywhere["dtrak" if "dtrak" in everywhere else "feature"]
    with peers.meter.measure(*keys(Family.LOSS)):
        everywhere |= of_loss(answers.gram, answers.codewords, peers.found, surrogate)
    with peers.meter.measure(*keys(Family.PICTURES)):
        made["generated"] |= of_pictures(answers, peers.found["features"])
    for kind, where in queries.kinds().items():
        given = {name: (units, pictures[where]) for name, (units, pictures) in peers.found.items()}
        made[kind] |= of_few(answers, queries.pictures[where], given, peers.meter)
        made[kind] |= {method: value[:, where] for method, value in everywhere.items()}
    spent = {"tuned": notes, "seconds": peers.meter.seconds, "memory_mb": peers.meter.memory_mb}
    return made | {"tried": peers.tried}, spent


def from_table(table: pd.DataFrame, seeds: list[int]) -> dict[str, Float[Tensor, "units q"]]:
    """Scores that `attribute` has made: pull of the ensemble's methods, and similarities.

    Raises:
        ValueError: an `attribute` made them that knew fewer methods.
    """
    measures = {method.key: "pull" for method in METHODS if method.scored_by_attribute}
    measures |= dict.fromkeys(("pixel", "random"), "similarity")
    if missing := set(measures) - set(table.method):
        raise ValueError(
            f"validate: influence.parquet has no method {', '.join(sorted(missing))}, as it was made by another "
            "version. Delete attribution/default/ and make it again: ddattr attribute."
        )
    found = {}
    for method, measure in measures.items():
        rows = table[(table.method == method) & (table.measure == measure)]
        wide = rows.pivot(index="unit", columns="query", values="score")[seeds]
        found[method] = torch.from_numpy(wide.to_numpy(copy=True))
    return found


def of_few(
    answers: Answers, pictures: Float[Tensor, "q *image"], features: Features, meter: Meter
) -> dict[str, Float[Tensor, "units q"]]:
    """Scores of pictures by as many members as a tuned peer's trainings would buy, as if these were all: METHOD@m.

    Those that need no replay; by one member fewer where gradients of the model of all units are given, for datamodels
    that use these.

    Args:
        meter: on which what they cost is booked.
    """
    found: dict[str, Tensor] = {}
    few = [method for method in METHODS if method.few]
    for beside in (False, True):
        methods = [method.key for method in few if ("full" in method.needs) is beside]
        size = 0 if beside and "trak" not in features else answers.plan.equal_cost(methods[0])
        if not size:
            continue
        with meter.measure(*(f"{method}@{size}" for method in methods)):
            queries, members = answers.queries, draw_members(size, len(answers.ensemble), answers.seed)
            ensemble = Ensemble(answers.networks(members))
            gram = residual_gram(ensemble, queries.process, pictures, queries.times, queries.noise)
            losses = -gram.diagonal(dim1=1, dim2=2).T
            scored = datamodels(losses, answers.codewords[:, members], features)
            if not beside:
                estimator = answers.estimator(pictures).of_members(members)
                along = distinctive(queries.denoised(ensemble, pictures), answers.data.unit_images)
                scored |= estimator.estimate(along).named("denoised") | {"loss": estimator.loss_change(gram)}
            found |= {f"{method}@{size}": scored[method] for method in methods}
    return found


def of_pictures(answers: Answers, features: tuple[Tensor, Tensor]) -> dict[str, Float[Tensor, "units q"]]:
    """Generated queries by how far members' own pictures are from them: subset means, and a datamodel."""
    outputs = -answers.member_distances
    units, pictures = features
    prior = {"features": (units, pictures[: len(answers.queries.seeds)])}
    return {
        "member_picture": subset_means(outputs, answers.codewords),
        "datamodel_picture": datamodels(outputs, answers.codewords, prior)["datamodel"],
    }


def of_loss(
    gram: Float[Tensor, "q n n"],
    codewords: Bool[Tensor, "units n"],
    features: Features,
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


def datamodels(
    outputs: Float[Tensor, "n q"], codewords: Bool[Tensor, "units n"], features: Features
) -> dict[str, Float[Tensor, "units q"]]:
    """Kernel ridge datamodels of members' outputs: `datamodel`, `datamodel_trak`, `datamodel_both`, as far as given.

    Units and queries are compared by cosine distance of the features; of both kinds, by the product of the kernels
    and of the similarities.
    """
    kernels: dict[str, Tensor] = {}
    relevance: dict[str, Tensor] = {}
    for kind, (units, queries) in features.items():
        one, other = (nn.functional.normalize(x.double(), dim=-1) for x in (units, queries))
        kernels[kind] = rbf_kernel(one)
        relevance[kind] = similarity(torch.cdist(one, other))
    if len(kernels) > 1:
        kernels["both"] = torch.stack(list(kernels.values())).prod(0)
        relevance["both"] = torch.stack(list(relevance.values())).prod(0)
    return {
        "datamodel" if kind == "features" else f"datamodel_{kind}": kernel_ridge(
            outputs, codewords, kernels[kind], relevance[kind]
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
