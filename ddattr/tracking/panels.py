"""Attribution panels: what a query owes its best units, as pictures; for figure 5, the report and W&B."""

from pathlib import Path
from typing import Any

import torch

from ddattr.attribution.jacobian import first_order
from ddattr.attribution.methods import SUPPORT, TESTED
from ddattr.attribution.places import shown_in
from ddattr.codebook import Codebook, contrast
from ddattr.files import load_json, load_table, load_tensors


def panels(root: Path, folder: Path, queries: int | None = None) -> list[dict[str, Any]]:
    """A row for every query and each of its best units by what is tested and by `norm`, read from a query set's folder.

    z, p and q of `pull` are those of `denoised_gls`; its score is that of `jvp`, which the pictures show.

    Pictures: the factual, the unit's (mean) image, the exact and the first-order counterfactual, and the exact
    displacement.

    Args:
        queries: the first so many; None shows all.
    """
    tensors = load_tensors(shown_in(folder))
    jacobian = load_tensors(folder / "jacobian.safetensors")["jacobian"]
    code = load_json(root / "codebook" / "codebook.json") or {}
    codebook = Codebook.of_record(code)
    table = load_table(folder / "influence.parquet")
    scores, tests = (
        part.set_index(["query", "measure", "unit"]).sort_index()
        for part in (
            table[table.method == "jvp"],
            table[table.method == table.measure.map({"pull": TESTED, "norm": "jvp"})],
        )
    )
    support = table[(table.method == SUPPORT) & (table.measure == "pull")].set_index(["query", "unit"]).score
    best, rows = len(tensors["refined_units"]) // 2, []
    for q, seed in enumerate(tensors["seeds"].tolist()[:queries]):
        for place, unit in enumerate(tensors["refined_units"][:, q].tolist()):
            measure = "pull" if place < best else "norm"
            factual, exact = tensors["factual"][q], tensors["refined"][place, q]
            if "first" in tensors:  # decoded, where members make latents
                first = tensors["first"][place, q]
            else:
                weights = contrast(codebook.codewords(torch.tensor([unit])))
                first = factual + first_order(jacobian[:, q : q + 1], weights)[0, 0]
            found, test = scores.loc[(seed, measure, unit)], tests.loc[(seed, measure, unit)]
            rows.append(
                {
                    "query": seed,
                    "measure": measure,
                    "rank": place % best + 1,
                    "unit": unit,
                    "score": float(found.score),
                    "p_value": float(test.p_value),
                    "q_value": float(test.q_value),
                    "support": float(support[seed, unit]),
                    "factual": factual,
                    "unit_image": tensors["refined_images"][place, q],
                    "exact": exact,
                    "jvp": first,
                    "displacement": exact - factual,
                }
            )
    return rows
