"""Figure 14: finished runs beside one another, against members, units, and what their training cost."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ddattr.artifacts import load_json, load_table, save_table
from ddattr.tracking.curves import over_orders
from ddattr.tracking.figures import BLUE, GREEN, GREY, ORANGE, RED, SKY, STYLE, save_figure

COLUMNS = ["run", "units", "forked", "members", "order", "training_steps", "statistic", "value"]
ESTIMATES = {  # of influence, the best first; the last is in every table
    "spearman_jvp_posterior": "JVP, posterior",
    "spearman_jvp_gls": "others discounted",
    "spearman_jvp": "first order",
}


def compare(table: pd.DataFrame, folder: Path) -> None:
    """Writes comparison.csv and fig14_comparison into a folder.

    Args:
        table: that of `growth` of several runs, one below the other.
    """
    save_table(folder / "comparison.csv", table)
    with plt.rc_context(STYLE):
        save_figure(draw(table), folder / "fig14_comparison")


def growth(root: Path) -> pd.DataFrame:
    """members.csv of a run's validation, and what it stands for: units, and optimiser steps of all its members.

    Raises:
        FileNotFoundError, ValueError: the run has no curve against its members; it is damaged.
    """
    path, member = root / "validation" / "members.csv", root / "members" / "000" / "manifest.json"
    for needed in (root / "validation" / "manifest.json", path, root / "codebook" / "codebook.json", member):
        if not needed.is_file():
            raise FileNotFoundError(
                f"compare: {needed} is missing: a run that is validated, with validation.units and validation.halves, "
                "has it. Make it: ddattr validate, with that run's overrides"
            )
    code, made = load_json(root / "codebook" / "codebook.json") or {}, load_json(member) or {}
    training = made.get("config", {}).get("training")
    if training is None or "N" not in code:
        raise ValueError(f"compare: {member} or the codebook beside it is damaged. Train the member again.")
    fork = training.get("fork")
    each, base = (training["steps"], 0) if fork is None else (fork["steps"], training["steps"])
    table = load_table(path)
    if lacking := {"spearman_jvp", "lds_loss_loss", "law_loss", "z_nearest"} - set(table.statistic):
        raise ValueError(f"compare: {path} has no {min(lacking)}. Delete its manifest.json and validate again.")
    table = table.assign(run=root.resolve().name, units=code["N"], forked=fork is not None)
    return table.assign(training_steps=base + each * table.members)[COLUMNS]


def best_estimate(table: pd.DataFrame) -> str:
    """Statistic of the agreement of the best estimate that every run has."""
    return next(name for name in ESTIMATES if table[table.statistic == name].run.nunique() == table.run.nunique())


def draw(table: pd.DataFrame) -> Figure:
    """LDS against members and units beside the law; agreement with retraining, and z, against training.

    Agreement is that of `best_estimate`; z is that of the score that is tested.
    """
    figure, axes = plt.subplots(2, 2, figsize=(6.8, 5.2))
    colours = dict(zip(table.run.unique(), (BLUE, ORANGE, GREEN, RED, SKY, GREY) * len(table), strict=False))
    lds, law = "lds_loss_loss", "law_loss"
    agreement = best_estimate(table)
    for run, rows in table.groupby("run", sort=False):
        marker, label = ("s" if rows.forked.iloc[0] else "o"), f"{run}, {rows.units.iloc[0]:,} units"
        over_orders(axes[0, 0], rows, "members", lds, marker + "-", color=colours[run], label=label)
        over_orders(axes[0, 0], rows, "members", law, "--", color=colours[run])
        over_orders(axes[1, 0], rows, "training_steps", agreement, marker + "-", color=colours[run])
        over_orders(axes[1, 1], rows, "training_steps", "z_nearest", marker + "-", color=colours[run])
    shared = set.intersection(*(set(rows.members) for _, rows in table.groupby("run")))
    whole = table.groupby("run").members.transform("max")
    rows = table[table.members == (max(shared) if shared else whole)]
    for run, one in rows.groupby("run", sort=False):
        marker = "s" if one.forked.iloc[0] else "o"
        over_orders(axes[0, 1], one, "units", lds, marker, color=colours[run])
        over_orders(axes[0, 1], one, "units", law, "_", 14, color=colours[run])
    axes[0, 0].plot([], [], "--", color=GREY, label="law of subset means")
    where = f"n = {max(shared)}" if shared else "all members"
    axes[0, 0].set(xlabel="members n", ylabel="LDS, loss, generated queries")
    axes[0, 1].set(xlabel=f"units N, {where}", ylabel="LDS; dashes: the law", ylim=axes[0, 0].get_ylim())
    axes[1, 0].set(xlabel="training steps of all members", ylabel=f"Spearman with retraining\n{ESTIMATES[agreement]}")
    axes[1, 1].set(xlabel="training steps of all members", ylabel="z of the nearest unit")
    for axis, x in zip(axes.flat, ("members", "units", "training_steps", "training_steps"), strict=True):
        axis.set_xscale("log")
        axis.minorticks_off()
        axis.axhline(0, color=GREY, linewidth=0.6)
        axis.set_xticks(ticks := _ticks(table[x].unique()), [f"{tick:,}" for tick in ticks])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=7, loc="upper center", ncols=3)
    figure.tight_layout(rect=(0, 0, 1, 0.92))
    return figure


def _ticks(values: np.ndarray) -> list[int]:
    """Some of the values, none within a fifth of the logarithmic axis of another: labels would touch."""
    kept: list[int] = []
    apart = (values.max() / values.min()) ** 0.19
    for value in sorted(values.tolist()):
        if not kept or value > apart * kept[-1]:
            kept.append(value)
    return kept
