"""Figure 9: how far pictures move when the best units are removed, and whether the first order predicts it."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ddattr.files import load_table
from ddattr.tracking.figures.forest import ROW, by_value, forest
from ddattr.tracking.figures.growth import legend_above
from ddattr.tracking.figures.style import BLUE, GREEN, GREY, ORANGE, RED, SKY, WIDTH, zero
from ddattr.tracking.figures.words import means

CAPTION = (
    "Figure 9. Remove the best units, retrain, and make the picture again: how far it moves (95 % intervals over "
    "queries), and the whole set's pull by retraining against the first order's."
)
NEEDS = ("validation/removal.csv", "validation/removal_summary.csv")
COLOURS = (BLUE, ORANGE, GREEN, SKY, RED)  # of sizes


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Rows of methods with a dot a size, and a point for every set that was removed."""
    removed, rows = load_table(root / "validation" / "removal.csv"), distances(root)
    sizes = sorted(removed["size"].unique().tolist())
    methods = by_value(rows[rows["size"] == sizes[-1]])
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 1.1 + (ROW + 0.03) * max(6, len(methods))))
    for place, size in enumerate(sizes):
        shift = 0.36 * (place - (len(sizes) - 1) / 2) / max(1, len(sizes) - 1)
        forest(left, rows[rows["size"] == size], methods, COLOURS[place % 5], -shift, f"without its best {size}")
    left.set(xlabel="picture moves by (L2)", xlim=(0, None))
    legend_above(left)
    _sets(right, removed, sizes)
    figure.tight_layout()
    return figure, rows


def _sets(axis, removed: pd.DataFrame, sizes: list[int]) -> None:
    """Every set's pull once, whichever methods name it."""
    zero(axis)
    zero(axis, across=True)
    sets = removed.assign(chance=removed.method == "random")
    sets = sets.drop_duplicates(["chance", "size", "query", "pull_first_order", "pull_retraining"])
    for chance, colour, name in ((False, BLUE, "best"), (True, GREY, "random")):
        for place, size in enumerate(sizes):
            rows = sets[(sets["size"] == size) & (sets.chance == chance)]
            axis.scatter(
                rows.pull_first_order,
                rows.pull_retraining,
                s=12,
                color=colour,
                marker="osd^v"[place % 5],
                linewidth=0,
                label=f"{name} {size}",
            )
    legend_above(axis, columns=2)
    axis.set(xlabel="pull of the set, first order", ylabel="pull of the set, by retraining")


def findings(root: Path) -> list[str]:
    """How far pictures move without the largest sets."""
    rows = distances(root)
    rows = rows[rows["size"] == rows["size"].max()]
    return [f"remove {rows['size'].iloc[0]} and retrain, L2 of the picture: {means(rows)}"]


def distances(root: Path) -> pd.DataFrame:
    """Rows of the summary that say how far pictures move, of all methods."""
    summary = load_table(root / "validation" / "removal_summary.csv")
    return summary[summary.statistic == "l2"]
