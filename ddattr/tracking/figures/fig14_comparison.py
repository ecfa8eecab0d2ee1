"""Figure 14: finished runs beside one another, against members, units, and what their training cost."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ddattr.files import load_table
from ddattr.tracking.figures.growth import over_orders
from ddattr.tracking.figures.style import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, WIDTH, zero

CAPTION = (
    "Figure 14. Finished runs beside one another: LDS beside the law of subset means, agreement with retraining, and z "
    "of the nearest unit, against members, units and training. Squares: members forked from one base."
)
NEEDS = ("comparison/comparison.csv",)
ESTIMATES = {  # of influence, the best first; the last is in every table
    "spearman_jvp_posterior": "JVP, posterior",
    "spearman_jvp_gls": "others discounted",
    "spearman_jvp": "first order",
}
_COLOURS = (BLUE, ORANGE, GREEN, RED, SKY, PINK)
_LDS, _LAW = "lds_loss_loss", "law_loss"


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """LDS against members and units beside the law; agreement with retraining, and z, against training.

    Agreement is that of `best_estimate`; z is that of the score that is tested.
    """
    table = load_table(root / "comparison" / "comparison.csv")
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 5.4))
    runs = {run: (_COLOURS[i % len(_COLOURS)], rows) for i, (run, rows) in enumerate(table.groupby("run", sort=False))}
    agreement = best_estimate(table)
    for run, (colour, rows) in runs.items():
        line, label = _mark(rows) + "-", f"{run}, {rows.units.iloc[0]:,} units"
        over_orders(axes[0, 0], rows, "members", _LDS, line, color=colour, label=label)
        over_orders(axes[0, 0], rows, "members", _LAW, "--", color=colour)
        over_orders(axes[1, 0], rows, "training_steps", agreement, line, color=colour)
        over_orders(axes[1, 1], rows, "training_steps", "z_nearest", line, color=colour)
    shared = set.intersection(*(set(rows.members) for _, rows in runs.values()))
    for colour, rows in runs.values():
        equal = rows[rows.members == (max(shared) if shared else rows.members.max())]
        over_orders(axes[0, 1], equal, "units", _LDS, _mark(rows), color=colour)
        over_orders(axes[0, 1], equal, "units", _LAW, "_", 14, color=colour)
    axes[0, 0].plot([], [], "--", color=GREY, label="law of subset means")
    where = f"n = {max(shared)}" if shared else "all members"
    axes[0, 0].set(xlabel="members n", ylabel="LDS, loss, generated queries")
    axes[0, 1].set(xlabel=f"units N, {where}", ylabel="LDS; dashes: the law", ylim=axes[0, 0].get_ylim())
    axes[1, 0].set(xlabel="training steps of all members", ylabel=f"Spearman with retraining\n{ESTIMATES[agreement]}")
    axes[1, 1].set(xlabel="training steps of all members", ylabel="z of the nearest unit")
    for axis, x in zip(axes.flat, ("members", "units", "training_steps", "training_steps"), strict=True):
        axis.set_xscale("log")
        axis.minorticks_off()
        zero(axis)
        axis.set_xticks(ticks := _ticks(table[x].unique()), [f"{tick:,}" for tick in ticks])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=2)
    figure.tight_layout(rect=(0, 0, 1, 0.98 - 0.032 * ((len(labels) + 1) // 2)))
    return figure, table


def best_estimate(table: pd.DataFrame) -> str:
    """Statistic of the agreement of the best estimate that every run has."""
    return next(name for name in ESTIMATES if table[table.statistic == name].run.nunique() == table.run.nunique())


def _mark(rows: pd.DataFrame) -> str:
    return "s" if rows.forked.iloc[0] else "o"


def _ticks(values: np.ndarray) -> list[int]:
    """Some of the values, none within a fifth of the logarithmic axis of another: labels would touch."""
    kept: list[int] = []
    room = (values.max() / values.min()) ** 0.19
    for value in sorted(values.tolist()):
        if not kept or value > room * kept[-1]:
            kept.append(value)
    return kept
