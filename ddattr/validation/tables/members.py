"""members.csv: what fewer members would have said: scores against retraining, and the law of their number."""

from collections.abc import Iterator

import pandas as pd
from torch import Tensor

from ddattr.attribution.agreement import spearman
from ddattr.attribution.datamodel import subset_means
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.influence import displacement_scores, projections
from ddattr.validation.answers import SubEnsemble
from ddattr.validation.metrics import law, lds, noise_ratio
from ddattr.validation.study import Phase, Study

PHASE = Phase.RETRAINED


def tables(study: Study) -> Iterator[tuple[str, pd.DataFrame]]:
    """Left out without `validation.retrained_units` or `validation.lds_subsets`."""
    if study.plan.retrained_units and study.plan.lds_subsets:
        yield "members", members(study)


def members(study: Study) -> pd.DataFrame:
    """Sub-ensembles of growing size held against the same truths, in several orders.

    What they would have found is in power_by_members.csv, which takes no truth.
    """
    plan = study.plan
    laws = {
        f"law_{target}": (plan.codebook.units, noise_ratio(values[..., _generated(study)]).median().item())
        for target, values in study.truth.half_targets.items()
    }
    rows = []
    for part in study.answers.sub_ensembles:
        size = len(part.members)
        found = _held(study, part)
        found |= {name: law(units, size, noise, plan.replicates) for name, (units, noise) in laws.items()}
        rows += [
            {"members": size, "order": part.order, "statistic": name, "value": float(value)}
            for name, value in found.items()
        ]
    return pd.DataFrame(rows).sort_values(["members", "order"], kind="stable")


def _generated(study: Study) -> slice:
    return study.answers.queries.kinds()["generated"]


def _held(study: Study, part: SubEnsemble) -> dict[str, Tensor | float]:
    """A sub-ensemble's scores against retraining and against half-data models."""
    answers = study.answers
    queries = study.answers.queries
    plan = study.plan
    chosen = part.members
    units, images, generated = plan.retraining_units, answers.data.unit_images, _generated(study)
    truth = displacement_scores(study.truth.displacements.mean(0), queries.factual, images[units])["pull"]
    masks = plan.half_masks()[: plan.lds_subsets]
    targets = {target: values.mean(0) for target, values in study.truth.half_targets.items()}

    estimator = answers.estimator(queries.factual).of_members(chosen)
    along = {
        "jvp": projections(part.jacobian, queries.factual, images),
        "denoised": distinctive(answers.denoised[chosen], images, answers.data.distance(queries.factual)),
    }
    estimates = {method: estimator.estimate(given) for method, given in along.items()}
    scored = {name: score for method, found in estimates.items() for name, score in found.named(method).items()}
    gram = answers.gram[generated][:, chosen][:, :, chosen]
    means = {
        name: subset_means(outputs, estimator.contrastable) * estimator.identifiable
        for name, outputs in (
            ("member_picture", -answers.member_distances[chosen]),
            ("member_loss", -gram.diagonal(dim1=1, dim2=2).T),
        )
    }
    on_loss = {**scored, "loss": estimator.loss_change(gram), "member_loss": means["member_loss"]}
    on_distance = {**scored, "member_picture": means["member_picture"]}
    pixels = study.scores["generated"]["pixel"]

    found: dict[str, Tensor | float] = {}
    for method, score in {**scored, "pixel": pixels}.items():
        found[f"spearman_{method}"] = spearman(score[units], truth).nanmean()
    for method, score in on_distance.items():
        found[f"lds_distance_{method}"] = lds(score, targets["distance"], masks).nanmean()
    for method, score in on_loss.items():
        found[f"lds_loss_{method}"] = lds(score, targets["loss"][:, generated], masks).nanmean()
    return found
