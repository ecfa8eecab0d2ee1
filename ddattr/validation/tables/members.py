"""members.csv: what fewer members would have said: scores, power and the law against the number of members."""

from collections.abc import Iterator

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.attribution import power
from ddattr.attribution.agreement import spearman
from ddattr.attribution.datamodel import subset_means
from ddattr.attribution.denoising import distinctive
from ddattr.attribution.influence import displacement_scores, projections
from ddattr.attribution.sets import neighbourhoods
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

    `z_nearest` and `found_nearest` are of the nearest unit, `z_nearest:k` and `found_nearest:k` of the k nearest as a
    set; `..._predicted` is what `ddattr plan` would say of them, from the whole ensemble's z. These sub-ensembles are
    weaker than an ensemble of as many members, as their codewords have no constant weight: z is short by a root of
    m (n - 1) / ((m - 1) n), 5 % for 9 members of 64, and by units that they cannot identify. And the whole ensemble's
    chance is in its parts, too: that they agree says less than a new ensemble would.
    """
    plan, level, n = study.plan, study.answers.settings.level, len(study.answers.ensemble)
    laws = {
        f"law_{target}": (plan.codebook.units, noise_ratio(values[..., _generated(study)]).median().item())
        for target, values in study.truth.half_targets.items()
    }
    whole: dict[str, Tensor] = {}  # z of the whole ensemble, which comes first
    rows = []
    for part in study.answers.sub_ensembles:
        size = len(part.members)
        found, z = _held(study, part)
        found |= {name: law(units, size, noise, plan.replicates) for name, (units, noise) in laws.items()}
        whole = whole or z
        for which in z:
            found |= _power(which, z[which], whole[which], size / n, level)
        rows += [
            {"members": size, "order": part.order, "statistic": name, "value": float(value)}
            for name, value in found.items()
        ]
    return pd.DataFrame(rows).sort_values(["members", "order"], kind="stable")


def _generated(study: Study) -> slice:
    return study.answers.queries.kinds()["generated"]


def _held(study: Study, part: SubEnsemble) -> tuple[dict[str, Tensor | float], dict[str, Tensor]]:
    """A sub-ensemble's scores against retraining and against half-data models; and z of the nearest units."""
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

    near = -answers.data.distance(queries.factual)
    nearest = near.argmax(0), torch.arange(len(queries.seeds))
    sizes, sets = neighbourhoods(near, answers.settings.neighbourhoods)
    of_sets = estimator.z_of_sets(along["denoised"], sets, plan.codebook.capacity)
    z = {"nearest": estimates["denoised"].z[nearest]}
    z |= {f"nearest:{k}": of_set for k, of_set in zip(sizes, of_sets, strict=True) if k > 1}
    return found, z


def _power(
    which: str, z: Float[Tensor, "q"], whole: Float[Tensor, "q"], ratio: float, level: float
) -> dict[str, float]:
    """z and the share of queries found by a sub-ensemble, and what the whole one's z predicts of `ratio` of it.

    A query is found where z is beyond the normal's one-sided level, as power is reckoned.
    """
    threshold = -torch.special.ndtri(torch.tensor(level, dtype=torch.float64))
    return {
        f"z_{which}": z.mean().item(),
        f"z_{which}_predicted": whole.mean().item() * ratio**0.5,
        f"found_{which}": (z > threshold).double().mean().item(),
        f"found_{which}_predicted": power.expected_power(whole, ratio, level),
    }
