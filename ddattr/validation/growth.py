"""What fewer members would have said: scores, power and the law against the number of members."""

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.attribution import power
from ddattr.attribution.agreement import spearman
from ddattr.attribution.baselines import pixel
from ddattr.attribution.datamodel import subset_means
from ddattr.attribution.denoised import along_own
from ddattr.attribution.influence import displacement_scores, projections
from ddattr.attribution.tables import POSTERIOR, neighbourhoods
from ddattr.validation.bench import Bench, Scores
from ddattr.validation.lds import law, lds, noise_ratio


def growth(bench: Bench, scores: Scores) -> pd.DataFrame:
    """members.csv: sub-ensembles of growing size held against the same truths, in several orders.

    `z_nearest` and `found_nearest` are of the nearest unit, `z_nearest:k` and `found_nearest:k` of the k nearest as a
    set; `..._foretold` is what `ddattr plan` would say of them, from the whole ensemble's z. These parts are weaker
    than an ensemble of as many members, as their words have no constant weight: z is short by a root of
    m (n - 1) / ((m - 1) n), 5 % for 9 members of 64, and by units that they cannot tell. And the whole ensemble's
    chance is in its parts, too: that they agree says less than a new ensemble would.
    """
    plan, asked, rows = bench.plan, bench.queries, []
    units, n, count = plan.truth_units, len(bench.ensemble), plan.codebook.units
    images, where = bench.data.unit_images[units], asked.kinds()["generated"]
    truth = displacement_scores(bench.truth.mean(0), asked.factual, images)["pull"]
    masks, targets = plan.half_masks()[: plan.halves], {k: v.mean(0) for k, v in bench.half_targets.items()}
    noise = {k: noise_ratio(v[..., where]).median().item() for k, v in bench.half_targets.items()}
    alike = pixel(asked.factual, bench.data.unit_images)
    distance, nearest = -alike.double(), (alike.argmax(0), torch.arange(len(asked.seeds)))
    sizes, sets = neighbourhoods(alike, bench.neighbourhoods)
    apart = -asked.distances(list(bench.ensemble.members))
    whole: dict[str, Tensor] = {}  # z of the whole ensemble, which comes first
    for part, order, response in bench.parts:
        size, chosen = part.size, part.members
        along = {
            "jvp": projections(response, asked.factual, bench.data.unit_images),
            "denoised": along_own(bench.denoised[chosen], bench.data.unit_images),
        }
        measured = {method: part.measured(along[method], distance, bench.background) for method in along}
        scored: dict[str, Tensor] = {}
        for method, name in POSTERIOR.items():
            by = measured[method]
            scored |= {method: by.plain, f"{method}_gls": by.discounted, name: by.posterior}
        score, deviation = measured["denoised"].discounted[nearest], measured["denoised"].deviation[nearest]
        z = {"nearest": torch.where(deviation > 0, score / deviation, 0)}
        of_sets = part.z_of_sets(along["denoised"], distance, bench.background, sets, plan.codebook.capacity)
        z |= {f"nearest:{k}": of_set for k, of_set in zip(sizes, of_sets, strict=True) if k > 1}
        whole = whole or z
        change = part.loss_change(bench.gram[where][:, chosen][:, :, chosen])
        alone, own_loss = (
            subset_means(outputs[chosen], part.words) * part.told
            for outputs in (apart, -bench.gram[where].diagonal(dim1=1, dim2=2).T)
        )
        found: dict[str, Tensor | float] = {
            **{f"spearman_{method}": spearman(score[units], truth).nanmean() for method, score in scored.items()},
            "spearman_pixel": spearman(scores["generated"]["pixel"][units], truth).nanmean(),
            **{
                f"lds_distance_{method}": lds(score, targets["distance"], masks).nanmean()
                for method, score in scored.items()
            },
            "lds_distance_member_picture": lds(alone, targets["distance"], masks).nanmean(),
            **{
                f"lds_loss_{method}": lds(score, targets["loss"][:, where], masks).nanmean()
                for method, score in {**scored, "loss": change, "member_loss": own_loss}.items()
            },
            "law_distance": law(count, size, noise["distance"], plan.replicates),
            "law_loss": law(count, size, noise["loss"], plan.replicates),
        }
        for which in z:
            found |= _power(which, z[which], whole[which], size / n, bench.level)
        rows += [{"members": size, "order": order, "statistic": k, "value": float(v)} for k, v in found.items()]
    return pd.DataFrame(rows).sort_values(["members", "order"], kind="stable")


def _power(
    which: str, z: Float[Tensor, "q"], whole: Float[Tensor, "q"], ratio: float, level: float
) -> dict[str, float]:
    """z and the share of queries found by part of an ensemble, and what the whole one's z foretells of `ratio` of it.

    A query is found where z is beyond the normal's one-sided level, as power is reckoned.
    """
    threshold = -torch.special.ndtri(torch.tensor(level, dtype=torch.float64))
    return {
        f"z_{which}": z.mean().item(),
        f"z_{which}_foretold": whole.mean().item() * ratio**0.5,
        f"found_{which}": (z > threshold).double().mean().item(),
        f"found_{which}_foretold": power.expected_power(whole, ratio, level),
    }
