"""Figures 7 to 13, of the validation: each a .png and a .pdf, from its tables alone."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ddattr.artifacts import load_table
from ddattr.tracking import curves
from ddattr.tracking.curves import draw_growth
from ddattr.tracking.figures import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, STYLE, save_figure
from ddattr.tracking.names import named, ordered

SIBLINGS = {  # of a method that is drawn, at about the same cost
    "jvp_gls": "jvp_posterior",
    "denoised": "denoised_posterior",
    "denoised_gls": "denoised_posterior",
    "individual": "individual_centred",
    "member_loss": "loss",
    "member_picture": "datamodel_picture",
    "adjusted": "datamodel_both",
    "datamodel": "datamodel_both",
    "datamodel_trak": "datamodel_both",
}


COLOURS = (BLUE, ORANGE, GREEN, SKY, RED)


def draw_evidence(folder: Path) -> None:
    """Every figure of a validation into validation/figures."""
    for name, draw in EVIDENCE.items():
        with plt.rc_context(STYLE):
            if (figure := draw(folder)) is not None:
                save_figure(figure, folder / "figures" / name)


def _forest(axis, rows: pd.DataFrame, colour: str, shift: float, label: str, methods: list[str]) -> None:
    """Means with intervals, a line a method."""
    rows = rows.set_index("method")
    for place, method in enumerate(methods):
        if method in rows.index:
            row = rows.loc[method]
            axis.errorbar(
                row["mean"],
                len(methods) - place + shift,
                fmt="o",
                color=colour,
                markersize=4,
                capsize=2,
                xerr=np.reshape(_reach(row["mean"], row.low, row.high), (2, 1)),
            )
    axis.errorbar([], [], [], fmt="o", color=colour, markersize=4, label=label)
    axis.axvline(0, color=GREY, linewidth=0.6)
    axis.set_yticks(range(len(methods), 0, -1), [named(method) for method in methods])


def _reach(mean, low, high):
    """Lengths of an interval's two arms; the mean may lie a little outside a bootstrap of few rows."""
    return np.clip(mean - low, 0, None), np.clip(high - mean, 0, None)


def retraining(folder: Path) -> Figure | None:
    """Figure 7: agreement of every method with retraining, and its growth with the number of members."""
    if not (folder / "members.csv").exists():
        return None
    summary, curve = load_table(folder / "agreement_summary.csv"), load_table(folder / "members.csv")
    rows = summary[(summary.statistic == "spearman") & (summary.measure == "pull")]
    methods = ordered(rows.method)
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 0.9 + 0.22 * max(8, len(methods))), width_ratios=[1.3, 1])
    _forest(left, rows, BLUE, 0.0, "mean, 95 % over units and queries", methods)
    ceiling = rows.ceiling.iloc[0]
    if np.isfinite(ceiling):
        left.axvline(ceiling, color=RED, linewidth=1, linestyle="--", label="ceiling: noise of the seeds")
    left.set(xlabel="Spearman with retraining, over units")
    left.legend(fontsize=6.5, loc="lower left", bbox_to_anchor=(-0.5, 1.0), ncols=2)
    colours = {"jvp": BLUE, "jvp_gls": GREEN, "jvp_posterior": RED, "denoised_posterior": PINK, "pixel": ORANGE}
    lines = [(f"spearman_{method}", colour, named(method)) for method, colour in colours.items()]
    draw_growth(right, curve, lines, "Spearman with retraining")
    figure.tight_layout()
    return figure


def lds(folder: Path) -> Figure | None:
    """Figure 8: linear datamodelling scores against held-out half-data models."""
    if not (folder / "lds_summary.csv").exists():
        return None
    summary = load_table(folder / "lds_summary.csv")
    summary = summary[(summary.kind == "transfer") & (summary.statistic == "lds")]
    methods = ordered(summary.method)
    panels = [key for key, _ in summary.groupby(["target", "queries"], sort=False)]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(2.4 * len(panels) + 1.2, 0.8 + 0.22 * len(methods)), sharey=True, squeeze=False
    )
    for axis, (target, queries) in zip(axes[0], panels, strict=True):
        rows = summary[(summary.target == target) & (summary.queries == queries)]
        _forest(axis, rows, BLUE, 0.0, "mean, 95 % over queries and subsets", methods)
        if np.isfinite(rows.ceiling.iloc[0]):
            axis.axvline(rows.ceiling.iloc[0], color=RED, linewidth=1, linestyle="--", label="ceiling")
        axis.set(title=f"{target}, {queries} queries", xlabel="LDS")
    figure.legend(*axes[0][0].get_legend_handles_labels(), fontsize=6.5, loc="upper center", ncols=2)
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    return figure


def removal(folder: Path) -> Figure | None:
    """Figure 9: how far pictures move when the best units are removed, and whether the first order foresaw it."""
    if not (folder / "removal.csv").exists():
        return None
    table, summary = load_table(folder / "removal.csv"), load_table(folder / "removal_summary.csv")
    rows, sizes = summary[summary.statistic == "l2"], sorted(table["size"].unique())
    methods = ordered(rows.method)
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.8, 0.9 + 0.22 * max(9, len(methods))))
    for place, size in enumerate(sizes):
        shift = 0.3 * (place - (len(sizes) - 1) / 2) / max(1, len(sizes) - 1)
        _forest(left, rows[rows["size"] == size], COLOURS[place % 5], -shift, f"without its best {size}", methods)
    left.set(xlabel="picture moves by (L2), 95 % over queries", xlim=(0, None))
    left.legend(fontsize=6.5, loc="lower left", bbox_to_anchor=(-0.5, 1.0), ncols=3)
    right.axhline(0, color=GREY, linewidth=0.6)
    right.axvline(0, color=GREY, linewidth=0.6)
    sets = table.assign(chance=table.method == "random")  # of the best, methods name the same ones
    sets = sets.drop_duplicates(["chance", "size", "query", "pull_first_order", "pull_retraining"])
    for chance, colour, name in ((False, BLUE, "best"), (True, GREY, "random")):
        for place, size in enumerate(sizes):
            rows = sets[(sets["size"] == size) & (sets.chance == chance)]
            right.scatter(
                rows.pull_first_order,
                rows.pull_retraining,
                s=10,
                color=colour,
                marker="osd^v"[place % 5],
                linewidth=0,
                label=f"{name} {size}",
            )
    right.legend(fontsize=6.5, loc="lower left", bbox_to_anchor=(-0.1, 1.0), ncols=2)  # over nothing that is drawn
    right.set(xlabel="pull of the set, first order", ylabel="pull of the set, by retraining")
    figure.tight_layout()
    return figure


def groups(folder: Path) -> Figure | None:
    """Figure 10: does a method name the group whose removal hurts most, and does the first order foresee the pull?"""
    if not (folder / "groups_summary.csv").exists():
        return None
    summary, sets = load_table(folder / "groups_summary.csv"), load_table(folder / "sets.csv")
    summary = summary[summary.queries == "generated"]
    methods = ordered(summary.method)
    figure, axes = plt.subplots(1, 4, figsize=(11.4, 0.8 + 0.24 * len(methods)))
    for axis in axes[1:3]:
        axis.sharey(axes[0])
        axis.tick_params(labelleft=False)
    for axis, statistic in zip(axes[:2], ("top1", "ndcg3"), strict=True):
        for shift, (target, colour) in zip((0.15, -0.15), (("loss", BLUE), ("distance", ORANGE)), strict=True):
            rows = summary[(summary.statistic == statistic) & (summary.target == target)]
            _forest(axis, rows, colour, shift, f"effect on {target}", methods)
        axis.set(xlabel={"top1": "top-1 accuracy", "ndcg3": "NDCG@3"}[statistic])
    rows = summary[(summary.statistic == "spearman") & (summary.target == "pull")]
    _forest(axes[2], rows, GREEN, 0.0, "effect on pull", methods)
    axes[2].set(xlabel="Spearman over groups")
    handles = [axis.get_legend_handles_labels() for axis in axes[1:3]]
    figure.legend(*(a + b for a, b in zip(*handles, strict=True)), fontsize=7, loc="upper center", ncols=3)
    axes[3].scatter(sets.pull_first_order, sets.pull_retraining, s=8, color=BLUE, linewidth=0)
    axes[3].axhline(0, color=GREY, linewidth=0.6)
    axes[3].axvline(0, color=GREY, linewidth=0.6)
    axes[3].set(xlabel="a group's pull, first order", ylabel="by retraining without it")
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    return figure


def cost(folder: Path) -> Figure | None:
    """Figure 12: accuracy against total cost, training included; one of every family, if it is there."""
    if not ((folder / "cost.csv").exists() and (folder / "lds_summary.csv").exists()):
        return None
    costs, summary = load_table(folder / "cost.csv"), load_table(folder / "lds_summary.csv")
    summary = summary[(summary.kind == "transfer") & (summary.queries == "generated") & (summary.statistic == "lds")]
    siblings = [method for method, drawn in SIBLINGS.items() if drawn in set(summary.method)]
    siblings += [m for m in set(summary.method) if "@" in m and not m.startswith("denoised_posterior@")]
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.8), sharex=True)
    for axis, target in zip(axes, ("loss", "distance"), strict=True):
        rows = summary[(summary.target == target) & ~summary.method.isin(siblings)].merge(costs, on="method")
        seconds = rows.seconds.clip(lower=1.0)
        axis.errorbar(
            seconds,
            rows["mean"],
            _reach(rows["mean"], rows.low, rows.high),
            fmt="o",
            color=BLUE,
            ecolor=SKY,
            markersize=4,
            linewidth=0.8,
        )
        for method, x, y in _labels(rows.method, seconds, rows["mean"], 0.032 * (rows.high.max() - rows.low.min())):
            i = rows.method.tolist().index(method)
            axis.annotate(
                named(method),
                (seconds.iloc[i], rows["mean"].iloc[i]),
                (x, y),
                fontsize=6,
                va="center",
                ha="left" if x > seconds.iloc[i] else "right",
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkB": 3},
            )
        axis.set_xlim(0.1, 30 * seconds.max())  # labels need room on either side
        axis.axhline(0, color=GREY, linewidth=0.6)
        axis.set_xscale("log")
        axis.set(xlabel="seconds of one process, training included", ylabel=f"LDS, {target}, generated queries")
    figure.tight_layout()
    return figure


def _labels(names: pd.Series, x: pd.Series, y: pd.Series, gap: float) -> list[tuple[str, float, float]]:
    """Places of points' labels: one column for points of like x, a gap apart, and each as near as that allows.

    The first and the last points have theirs to the right, and all between them one to the left: these and the first
    ones' face each other, and are kept a gap apart as well.
    """
    order = x.sort_values(kind="stable").index
    group = (np.log10(x[order]).diff() > 0.3).cumsum()
    group = group.where(group.isin((0, group.max())), 1)
    placed = []
    for _, facing in group.groupby(group == group.max()):
        column = y[facing.index].sort_values(kind="stable")
        up, down = column.tolist(), column.tolist()
        for i in range(1, len(column)):
            up[i] = max(up[i], up[i - 1] + gap)
            down[-1 - i] = min(down[-1 - i], down[-i] - gap)
        for i, a, b in zip(column.index, up, down, strict=True):
            alike = x[group.index[group == group[i]]]
            at = 1.7 * alike.max() if group[i] in (0, group.max()) else alike.min() / 1.7
            placed.append((names[i], at, (a + b) / 2))
    return placed


EVIDENCE: dict[str, Callable[[Path], Figure | None]] = {
    "fig7_retraining": retraining,
    "fig8_lds": lds,
    "fig9_removal": removal,
    "fig10_groups": groups,
    "fig11_law": curves.law,
    "fig12_cost": cost,
    "fig13_planted": curves.planted,
}
