"""Figure 16: what fewer members would have found of the k nearest units, beside what `ddattr plan` predicts of it."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ddattr.files import load_table
from ddattr.tracking.figures.growth import Curve, draw_growth, legend_above
from ddattr.tracking.figures.style import BLUE, GREEN, GREY, ORANGE, WIDTH, zero

CAPTION = (
    "Figure 16. What fewer members would have found: z of the k nearest units as a set, and the share of pictures for "
    "which it passes, beside what is predicted from the whole ensemble."
)
NEEDS = ("validation/power_by_members.csv",)


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """A panel of z, and one of power."""
    curve = load_table(root / "validation" / "power_by_members.csv")
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
    sets = _sizes(curve)
    for axis, kind, label in (
        (axes[0], "z", "mean z of the k nearest"),
        (axes[1], "found", "share of queries that find\nthe k nearest, p ≤ level"),
    ):
        lines = [Curve(f"{kind}_{name}", colour, f"k = {name.partition(':')[2] or 1}") for name, colour in sets.items()]
        draw_growth(axis, curve, lines, label)
        for name, colour in sets.items():
            predicted = curve[curve.statistic == f"{kind}_{name}_predicted"].groupby("members")["value"].mean()
            axis.plot(predicted.index, predicted, "--", color=colour, linewidth=1.2)
        axis.plot([], [], "--", color=GREY, linewidth=1.2, label="predicted from the largest n")
        legend_above(axis, columns=2)
        zero(axis)
    figure.tight_layout()
    return figure, curve


def findings(root: Path) -> list[str]:
    """Of the whole ensemble and of its parts."""
    curve = load_table(root / "validation" / "power_by_members.csv")
    mean = curve.groupby(["members", "statistic"])["value"].mean()
    sizes = sorted(curve.members.unique(), reverse=True)
    z = ", ".join(f"{mean[n, 'z_nearest']:.1f} by {n} members" for n in sizes)
    return [f"power: z of the nearest unit {z}"]


def _sizes(curve: pd.DataFrame) -> dict[str, str]:
    """The smallest, the middle and the largest neighbourhood, each with its colour."""
    found = [name.removeprefix("z_") for name in curve.statistic.unique() if name.startswith("z_nearest")]
    found = [name for name in found if not name.endswith("_predicted")]
    some = sorted({found[0], found[len(found) // 2], found[-1]}, key=found.index)
    return dict(zip(some, (BLUE, ORANGE, GREEN), strict=False))
