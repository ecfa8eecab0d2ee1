"""Figure 12: accuracy against total cost, training included."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ddattr.artifacts import load_table
from ddattr.attribution.methods import label_of, ordered
from ddattr.tracking.figures.forest import reach
from ddattr.tracking.figures.style import WIDTH, colour_of, marks_of, zero
from ddattr.tracking.figures.words import worth_showing

CAPTION = (
    "Figure 12. Accuracy (LDS on generated queries, 95 % intervals) against total cost, the training of every model "
    "included; points of like cost stand side by side."
)
NEEDS = ("validation/cost.csv", "validation/lds_summary.csv")


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """A panel a target, a point a method that is shown."""
    costs, summary = load_table(root / "validation" / "cost.csv"), load_table(root / "validation" / "lds_summary.csv")
    summary = summary[(summary.kind == "transfer") & (summary.queries == "generated") & (summary.statistic == "lds")]
    table = summary.merge(costs, on="method")
    names = worth_showing(table.method)
    drawn = table[table.method.isin(names)]
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.4), sharex=True)
    for axis, target in zip(axes, ("loss", "distance"), strict=True):
        _points(axis, drawn[drawn.target == target])
        zero(axis)
        axis.set(xlabel="seconds of one process", ylabel=f"LDS, {target}")
    known = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(
        [known[label_of(name)] for name in names], [label_of(name) for name in names], loc="upper center", ncols=3
    )
    figure.tight_layout(rect=(0, 0, 1, 0.84))
    return figure, table


def _points(axis, rows: pd.DataFrame) -> None:
    """A point a method, at the cost of all that it needs; those of like cost stand side by side."""
    last, beside = 0.0, 1.0
    marks = marks_of(ordered(rows.method))
    for row in rows.assign(x=rows.seconds.clip(lower=1.0)).sort_values("x").itertuples():
        beside = 1.25 * beside if row.x < 1.25 * last else 1.0
        last = row.x
        axis.errorbar(
            row.x * beside,
            row.mean,
            np.reshape(reach(row.mean, row.low, row.high), (2, 1)),
            fmt=marks[row.method],
            color=colour_of(row.method),
            markersize=5,
            linewidth=1,
            label=label_of(row.method),
        )
    axis.set_xscale("log")
