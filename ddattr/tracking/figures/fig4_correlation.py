"""Figure 4: correlation of every method's influence with the truth's, with 95 % intervals.

The truth is exact ablation and, once `validate` has retrained without units, retraining too.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ddattr.attribution.methods import METHODS, label_of
from ddattr.attribution.places import located
from ddattr.files import load_table
from ddattr.tracking.figures.forest import reach, reference
from ddattr.tracking.figures.style import BLUE, RED, SKY, WIDTH, zero

CAPTION = (
    "Figure 4. Agreement over units with exact ablation, and with retraining where it was validated; a dot a query, "
    "means with 95 % intervals. The denoising is along what distinguishes the unit from those like the picture, the "
    "pull from picture to unit."
)
NEEDS = ("attribution/agreement.csv", "attribution/agreement_summary.csv")
_PANELS = [
    ("attribution", "norm", "norm: how far\nthe picture moves", "exact ablation"),
    ("attribution", "pull", "pull: how far it\nmoves off the unit", "exact ablation"),
]
_RETRAINED = ("validation", "pull", "pull: how far it\nmoves off the unit", "retraining")


def methods() -> list[str]:
    """What `attribute` scores, a similarity and chance."""
    return [method.key for method in METHODS if method.scored_by_attribute] + ["pixel", "random"]


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """A panel a truth and measure, a row a method; exact ablation is a method where the truth is retraining."""
    retrained = (root / "validation" / "agreement_summary.csv").exists()
    panels = [*_PANELS, _RETRAINED] if retrained else _PANELS
    names = methods() + (["ablation"] if retrained else [])
    tables = {name: load_table(located(root, f"{name}/agreement_summary.csv")) for name, *_ in panels}
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, 1.1 + 0.3 * len(names)), sharey=True)
    for axis, (name, measure, title, truth) in zip(axes, panels, strict=True):
        queries = load_table(located(root, f"{name}/agreement.csv"))
        summary = tables[name][tables[name].measure == measure]
        _correlations(axis, queries[queries.measure == measure], summary, names)
        zero(axis, across=True)
        if "ceiling" in summary:
            ceiling = summary[summary.statistic == "spearman"].ceiling.iloc[0]
            reference(axis, ceiling, "ceiling of Spearman", RED)
        axis.set(xlim=(-1.05, 1.05), title=title, xlabel=f"correlation with\n{truth}")
        axis.set_yticks(range(len(names), 0, -1), [label_of(name) for name in names])
        axis.set_ylim(0.4, len(names) + 0.6)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.legend(*axes[-1].get_legend_handles_labels(), loc="upper center", ncols=3)
    return figure, pd.concat(tables.values(), ignore_index=True)


def _correlations(axis, queries: pd.DataFrame, summary: pd.DataFrame, names: list[str]) -> None:
    """A dot a query, and the mean with its interval, in a line for every method that the truth knows."""
    for statistic, colour, mark, shift in (("pearson", SKY, "s", 0.16), ("spearman", BLUE, "o", -0.16)):
        axis.errorbar([], [], fmt=mark, color=colour, markersize=4, label=statistic.title())
        for place, method in enumerate(names):
            y = len(names) - place + shift
            dots = queries[queries.method == method][statistic]
            axis.scatter(dots, np.full(len(dots), y), s=5, color=colour, alpha=0.3, linewidth=0)
            for row in summary[(summary.method == method) & (summary.statistic == statistic)].itertuples():
                arms = np.reshape(reach(row.mean, row.low, row.high), (2, 1))
                axis.errorbar(row.mean, y, xerr=arms, fmt=mark, color=colour, markersize=4, capsize=2)
