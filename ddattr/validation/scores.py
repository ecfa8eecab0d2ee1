"""Signed scores of all units on all queries by every method, ready to be summed over subsets: the predictors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ddattr.attribution.baselines import pixel, random
from ddattr.attribution.datamodel import adjusted_means, kernel_ridge, rbf_kernel, subset_means
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.estimator import Estimator, draw_members
from ddattr.attribution.influence import similarity
from ddattr.attribution.loss import loss_change, residual_gram
from ddattr.attribution.methods import METHODS, WITH_GRADIENTS, Family, keys
from ddattr.attribution.posterior import posterior
from ddattr.ensemble.ensemble import Ensemble
from ddattr.files import load_tensors
from ddattr.meter import Meter
from ddattr.validation.answers import Answers
from ddattr.validation.metrics import lds
from ddattr.validation.peers import Peers
from ddattr.validation.queries import Queries
from ddattr.validation.truth import Truth

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
    """Scores of all methods by kind of query; what was tuned, and how long it took.

    Beside them a peer's at all that it `tried`, and those of generated queries that are best on the tuning halves'
    `distance`: everywhere else a peer is tuned on their loss.
    """
    queries, plan, notes = answers.queries, answers.plan, {}
    made: Scores = {"generated": from_table(answers.influence, queries.seeds)}
    if "real" in queries.kinds():
        made["real"] = of_real(answers.shown(queries.real), answers.data.pictures.unit_images, answers.seed)
        along = distinctive(answers.denoised_real, answers.data.unit_images, answers.data.distance(queries.real))
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
        *_under(queries),
    )
    shown = answers.shown(queries.pictures)
    everywhere = {"feature": peers.features(answers.extractor, shown, answers.data.pictures.images[:])}
    networks, masks = [truth.network(model) for model in tuning], torch.stack([model.units for model in tuning])
    targets = -queries.losses(networks)
    for method in plan.peers:
        everywhere[method], notes[method] = peers.score(method, targets, masks)
        print(f"validate: {method} scored in {peers.meter.seconds[method]:.0f} s {notes[method]}", flush=True)
    surrogate = everywhere["dtrak" if "dtrak" in everywhere else "feature"]
    with peers.meter.measure(*keys(Family.LOSS)):
        everywhere |= of_loss(answers.gram, answers.codewords, peers.found, surrogate)
    with peers.meter.measure(*keys(Family.PICTURES)):
        made["generated"] |= of_pictures(answers, peers.found["features"])
    for kind, where in queries.kinds().items():
        given = {name: (units, pictures[where]) for name, (units, pictures) in peers.found.items()}
        tried = peers.tried["dtrak"][..., where] if "dtrak" in peers.tried else None
        made[kind] |= of_few(answers, queries.pictures[where], given, peers.meter, tried, kind)
        if tried is not None:
            response = answers.denoised if kind == "generated" else answers.denoised_real
            distance = answers.data.distance(queries.pictures[where])
            along = distinctive(response, answers.data.unit_images, distance)
            outputs = -answers.gram[where].diagonal(dim1=1, dim2=2).T
            with peers.meter.measure(WITH_GRADIENTS):
                estimator = answers.estimator(queries.pictures[where])
                made[kind][WITH_GRADIENTS] = with_gradients(estimator, along, outputs, tried)
        made[kind] |= {method: value[:, where] for method, value in everywhere.items()}
    distances, where = -queries.distances(networks), queries.kinds()["generated"]
    by_distance = {method: best_of(tried[..., where], distances, masks) for method, tried in peers.tried.items()}
    spent = {"tuned": notes, "seconds": peers.meter.seconds, "memory_mb": peers.meter.memory_mb}
    return made | {"distance": by_distance, "tried": peers.tried}, spent


def _under(queries: Queries) -> tuple[Tensor, ...]:
    """What training pictures, and queries, are shown under, of conditioned models."""
    known = queries.conditions
    if known is None or queries.condition is None:
        return ()
    return tuple(known.given(numbers).condition for numbers in (known.labels, queries.condition))


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
    answers: Answers,
    pictures: Float[Tensor, "q *image"],
    features: Features,
    meter: Meter,
    tried: Float[Tensor, "tried units q"] | None = None,
    kind: str = "generated",
) -> dict[str, Float[Tensor, "units q"]]:
    """Scores of pictures by as many members as a tuned peer's trainings would buy, as if these were all: METHOD@m.

    Those that need no replay; by one member fewer where gradients of the model of all units are given, for datamodels
    that use these.

    Args:
        meter: on which what they cost is booked.
        tried: D-TRAK's scores at all dampings and projections.
        kind: of the pictures.
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
            ensemble = queries.under(Ensemble(answers.networks(members)), kind)
            gram = residual_gram(ensemble, queries.process, pictures, queries.times, queries.noise)
            losses = -gram.diagonal(dim1=1, dim2=2).T
            scored = datamodels(losses, answers.codewords[:, members], features)
            estimator, distance = answers.estimator(pictures).of_members(members), answers.data.distance(pictures)
            if not beside or tried is not None:
                along = distinctive(queries.denoised(ensemble, pictures), answers.data.unit_images, distance)
            if not beside:
                scored |= estimator.estimate(along).named("denoised") | {"loss": estimator.loss_change(gram)}
            elif tried is not None:
                scored[WITH_GRADIENTS] = with_gradients(estimator, along, losses, tried)
            found |= {f"{method}@{size}": scored[method] for method in methods if method in scored}
    return found


def with_gradients(
    estimator: Estimator,
    answers: Float[Tensor, "n units q"],
    outputs: Float[Tensor, "n q"],
    tried: Float[Tensor, "tried units q"],
) -> Float[Tensor, "units q"]:
    """The posterior of members' answers whose covariate is D-TRAK's score, in place of how far a unit is.

    It takes the gradients of one model of all units and no other training: of all dampings and projections it has the
    one that best predicts the members' own losses, each of them a model of the units that it saw.

    Args:
        outputs: minus the members' losses.
        tried: D-TRAK's scores at all dampings and projections.
    """
    estimate = estimator.estimate(answers)
    covariate = best_of(tried, outputs, estimator.codewords.T)
    return posterior(estimate.pull, estimate.deviation, -covariate)


def best_of(
    tried: Float[Tensor, "tried units q"], targets: Float[Tensor, "subsets q"], subsets: Bool[Tensor, "subsets units"]
) -> Float[Tensor, "units q"]:
    """Of several scores those of the best mean LDS."""
    return max(tried, key=lambda score: lds(score, targets, subsets).nanmean().item())


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
