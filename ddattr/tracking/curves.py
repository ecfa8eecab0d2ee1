"""Figures that are curves: against the number of members, and against a unit's share of the data."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ddattr.artifacts import load_table
from ddattr.tracking.figures import BLACK, BLUE, GREEN, GREY, ORANGE, PINK
from ddattr.tracking.names import named


def draw_growth(axis, curve: pd.DataFrame, lines, label: str) -> None:
    """Statistics of members.csv against the number of members: means over orders, with their deviation.

    Args:
        lines: (statistic, colour, name) of each.
    """
    for statistic, colour, name in lines:
        over_orders(axis, curve, "members", statistic, color=colour, label=name)
    axis.set_xscale("log")
    ticks = sorted(curve.members.unique())
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.minorticks_off()
    axis.set(xlabel="members n", ylabel=label)
    axis.legend(fontsize=6.5, loc="lower left", bbox_to_anchor=(-0.1, 1.0))  # over nothing that is drawn


def over_orders(axis, curve: pd.DataFrame, x: str, statistic: str, line: str = "o-", markersize: int = 4, **options):
    """A statistic of members.csv: its mean over orders, with their deviation."""
    part = curve[curve.statistic == statistic].groupby(x)["value"]
    axis.errorbar(
        part.mean().index,
        part.mean(),
        part.std().fillna(0),
        fmt=line,
        markersize=markersize,
        capsize=2,
        linewidth=1,
        **options,
    )


def law(folder: Path) -> Figure | None:
    """Figure 11: LDS against the number of members, beside what subset means reach when effects are additive; and the
    power for the k nearest units, beside what `ddattr plan` foretells of it from all members.

    Members' losses and their pictures' distances are such means; the others are none, and are held against them.
    """
    if not (folder / "members.csv").exists():
        return None
    curve = load_table(folder / "members.csv")
    figure, axes = plt.subplots(2, 2, figsize=(6.8, 5.8))
    panels = (
        (
            axes[0, 0],
            (
                ("lds_loss_member_loss", BLUE, named("member_loss")),
                ("lds_loss_loss", GREEN, named("loss")),
                ("lds_loss_denoised_posterior", PINK, named("denoised_posterior")),
                ("lds_loss_jvp", ORANGE, named("jvp")),
                ("law_loss", GREY, "law"),
            ),
            "LDS, loss",
        ),
        (
            axes[0, 1],
            (
                ("lds_distance_member_picture", BLUE, named("member_picture")),
                ("lds_distance_denoised_posterior", PINK, named("denoised_posterior")),
                ("lds_distance_jvp", ORANGE, named("jvp")),
                ("law_distance", GREY, "law"),
            ),
            "LDS, distance",
        ),
    )
    for axis, lines, label in panels:
        draw_growth(axis, curve, lines, label)
        axis.axhline(0, color=GREY, linewidth=0.6)
    sets = [name.removeprefix("z_") for name in curve.statistic.unique() if name.startswith("z_nearest")]
    sets = [which for which in sets if not which.endswith("_predicted")]
    sets = sorted({sets[0], sets[len(sets) // 2], sets[-1]}, key=sets.index)
    for axis, kind, label in (
        (axes[1, 0], "z", "mean z of the k nearest"),
        (axes[1, 1], "found", "k nearest found, p ≤ level"),
    ):
        shown = list(zip(sets, (BLUE, ORANGE, GREEN), strict=False))
        measured = [(f"{kind}_{which}", colour, f"k = {which.partition(':')[2] or 1}") for which, colour in shown]
        draw_growth(axis, curve, measured, label)
        for which, colour in shown:
            predicted = curve[curve.statistic == f"{kind}_{which}_predicted"].groupby("members")["value"].mean()
            axis.plot(predicted.index, predicted, "--", color=colour, linewidth=1)
        axis.plot([], [], "--", color=GREY, linewidth=1, label="predicted from the largest n")
        axis.legend(fontsize=6.5, loc="lower left", bbox_to_anchor=(-0.1, 1.0), ncols=2)
        axis.axhline(0, color=GREY, linewidth=0.6)
    figure.tight_layout()
    return figure


def planted(folder: Path) -> Figure | None:
    """Figure 13: are units whose influence is known found, as their share of the data falls, and by which measure?

    One measure of each kind, what is tested among them; all are in the table.
    """
    if not (folder / "planted_summary.csv").exists():
        return None
    summary = load_table(folder / "planted_summary.csv")
    panels = (
        ("recall_at_1", "queries that find their unit first"),
        ("significant", "queries in which it passes, by q"),
        ("mean_z", "z of the unit"),
    )
    lines = (
        ("loss", BLUE, "o-"),
        ("jvp_norm", ORANGE, "o-"),
        ("denoised_gls", GREEN, "o-"),
        ("jvp_gls", PINK, "o-"),
        ("pixel", BLACK, "o--"),
    )
    figure, axes = plt.subplots(1, 3, figsize=(10.2, 3.0))
    shares = sorted(summary.share.unique())
    for axis, (statistic, label) in zip(axes, panels, strict=True):
        for place, (method, colour, line) in enumerate(lines):
            rows = summary[(summary.method == method) & (summary.statistic == statistic)].sort_values("share")
            if rows["value"].isna().all():  # a similarity has no z
                continue
            errors = [rows["value"] - rows.low, rows.high - rows["value"]]
            apart = 1.06 ** (place - (len(lines) - 1) / 2)
            axis.errorbar(
                rows.share * apart,
                rows["value"],
                np.maximum(errors, 0),
                fmt=line,
                color=colour,
                markersize=3,
                capsize=1.5,
                linewidth=1,
                label=named(method),
            )
        axis.set_xscale("log")
        axis.set_xticks(shares, [f"1/{1 / share:.0f}" for share in shares], fontsize=6.5)
        axis.minorticks_off()
        axis.set(xlabel="the unit's share of the pictures", ylabel=label)
        axis.axhline(0, color=GREY, linewidth=0.6)
    for axis in axes[:2]:
        axis.set_ylim(-0.03, 1.03)
    known = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known, fontsize=7, loc="upper center", ncols=5)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    return figure
