"""Figure 6: z of the nearest k units against k, a line a query, with its resolution marked."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ddattr.attribution.places import default_folder
from ddattr.files import load_table
from ddattr.tracking.figures.style import BLUE, GREY, RED, members_axis, zero

CAPTION = "Figure 6. Significance of the k nearest units as a set, by the denoising; dots mark each query's resolution."
NEEDS = ("attribution/sets.parquet", "attribution/radius.csv")


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """A line a query, and the mean over queries."""
    sets = load_table(default_folder(root) / "sets.parquet")
    near = sets[sets.set.str.startswith("nearest:")]
    radius = load_table(default_folder(root) / "radius.csv").set_index("query")
    level = radius.level.iloc[0]
    figure, axis = plt.subplots(figsize=(4.6, 3.2))
    for query, rows in near.groupby("query"):
        axis.plot(rows["size"], rows.z, color=GREY, alpha=0.5, linewidth=0.8)
        resolved = rows[rows["size"] == radius.resolution[query]]
        axis.scatter(resolved["size"], resolved.z, s=24, color=RED, zorder=3, linewidth=0)
    mean = near.groupby("size").z.mean()
    axis.plot(mean.index, mean, "o-", color=BLUE, markersize=4, label="mean over queries")
    zero(axis)
    axis.scatter([], [], s=24, color=RED, label=f"resolution: smallest k with p ≤ {level:g}, and all larger")
    axis.plot([], [], color=GREY, linewidth=0.8, label="a query")
    members_axis(axis, near["size"], "k nearest units, as one set")
    axis.set(ylabel="z of their denoising")
    axis.legend(loc="upper left")
    axis.set_ylim(top=axis.get_ylim()[1] * 1.4)
    return figure, near.merge(radius.resolution.reset_index(), on="query")
