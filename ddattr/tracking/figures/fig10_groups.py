"""Figure 10: does a method name the group whose removal hurts most, and does the first order predict the pull?"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ddattr.files import load_table
from ddattr.tracking.figures.forest import ROW, by_value, forest
from ddattr.tracking.figures.style import BLUE, GREEN, ORANGE, WIDTH, zero
from ddattr.tracking.figures.words import interval, means

CAPTION = (
    "Figure 10. Leave one group out: does a method name the group whose removal hurts most, do its scores follow the "
    "pull, and does the first order predict a whole group's pull? Leaving each out: the same at another training seed."
)
NEEDS = ("validation/groups_summary.csv", "validation/sets.csv")


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Top-1 accuracy on loss and distance, Spearman with pull, and a point a group and query."""
    summary, sets = load_table(root / "validation" / "groups_summary.csv"), load_table(root / "validation" / "sets.csv")
    summary = summary[summary.queries == "generated"]
    top = summary[summary.statistic == "top1"]
    pull = summary[(summary.statistic == "spearman") & (summary.target == "pull")]
    methods = by_value(top)
    size = (WIDTH, 1.1 + (ROW + 0.03) * len(methods))
    figure, axes = plt.subplots(1, 3, figsize=size, width_ratios=[1, 0.85, 1.1], layout="constrained")
    for target, colour, shift in (("loss", BLUE, 0.16), ("distance", ORANGE, -0.16)):
        forest(axes[0], top[top.target == target], methods, colour, shift, f"effect on {target}")
    forest(axes[1], pull, methods, GREEN, 0.0, "effect on pull")
    axes[1].tick_params(labelleft=False)
    axes[0].set(xlabel="top-1\naccuracy")
    axes[1].set(xlabel="Spearman\nover groups")
    axes[2].scatter(sets.pull_first_order, sets.pull_retraining, s=8, color=BLUE, alpha=0.6, linewidth=0)
    zero(axes[2])
    zero(axes[2], across=True)
    axes[2].set(xlabel="a group's pull,\nfirst order", ylabel="by retraining without it")
    axes[2].locator_params(nbins=5)
    handles = [handle for axis in axes[:2] for handle in axis.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure, summary


def findings(root: Path) -> list[str]:
    """Whether methods name the group, and whether they follow its pull."""
    table = load_table(root / "validation" / "groups_summary.csv")
    rows = table[(table.statistic == "top1") & (table.target == "loss") & (table.queries == "generated")]
    lines = [f"leave one group out, top-1 on loss: {means(rows)}{_predicted(root)}"]
    pull = table[(table.statistic == "spearman") & (table.target == "pull")]
    return lines + ([f"leave one group out, Spearman with its pull: {means(pull)}"] if len(pull) else [])


def _predicted(root: Path) -> str:
    """How far the first order predicts the pull of a whole group."""
    path = root / "validation" / "sets_summary.csv"
    if not path.exists():
        return ""
    row = load_table(path).iloc[0]
    said = f"{row['mean']:.2f}{interval(row.low, row.high)}"
    return f"; a whole group's pull, first order against retraining, Spearman {said}"
