"""Figure 12: accuracy against total cost, training included."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from ddattr.attribution.methods import label_of, ordered
from ddattr.files import load_table
from ddattr.tracking.figures.forest import reach
from ddattr.tracking.figures.style import WIDTH, colour_of, marks_of, zero
from ddattr.tracking.figures.words import worth_showing

CAPTION = (
    "Figure 12. Accuracy (LDS on generated queries, 95 % intervals) against total cost, the training of every model "
    "included; points of like cost stand side by side, about their mean."
)
STEP = 1.09  # between points of like cost: eight reach a third to either side
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
        axis.set(xlabel="seconds of one process\n(like costs side by side)", ylabel=f"LDS, {target}")
    known = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(
        [known[label_of(name)] for name in names], [label_of(name) for name in names], loc="upper center", ncols=3
    )
    figure.tight_layout(rect=(0, 0, 1, 0.84))
    return figure, table


def _points(axis, rows: pd.DataFrame) -> None:
    """A point a method, at the cost of all that it needs."""
    rows = rows.assign(x=rows.seconds.clip(lower=1.0)).sort_values("x", kind="stable")
    marks = marks_of(ordered(rows.method))
    for row, x in zip(rows.itertuples(), side_by_side(rows.x.to_numpy(float)), strict=True):
        axis.errorbar(
            x,
            row.mean,
            np.reshape(reach(row.mean, row.low, row.high), (2, 1)),
            fmt=marks[row.method],
            color=colour_of(row.method),
            markersize=5,
            linewidth=1,
            label=label_of(row.method),
        )
    axis.set_xscale("log")


def side_by_side(costs: Float[np.ndarray, "points"]) -> Float[np.ndarray, "points"]:
    """Where points of like cost, each within a quarter of the next, are drawn: about their geometric mean.

    Args:
        costs: in increasing order.
    """
    drawn = costs[:0]
    for group in np.split(costs, np.flatnonzero(costs[1:] >= 1.25 * costs[:-1]) + 1):
        place = np.arange(len(group)) - (len(group) - 1) / 2
        drawn = np.append(drawn, STEP**place * np.prod(group ** (1 / max(1, len(group)))))
    return drawn
