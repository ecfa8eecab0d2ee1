"""Figure 2: FID of individuals, and of ensembles of growing size."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ddattr.files import load_table
from ddattr.tracking.figures.style import BLUE, ORANGE, WIDTH, members_axis

CAPTION = "Figure 2. Quality of individual members and of ensembles, at equal numbers of pictures."
NEEDS = ("quality/fid.csv",)


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """FID, and KID beside it, against the number of members."""
    table = load_table(root / "quality" / "fid.csv")
    alone, grown = table[table.kind == "individual"], table[table.kind == "ensemble"]
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.8))
    for axis, measure in zip(axes, ("fid", "kid"), strict=True):
        jitter = 1 + 0.06 * np.linspace(-1, 1, len(alone))
        axis.scatter(jitter, alone[measure], s=12, color=ORANGE, label="individual members", zorder=3)
        axis.axhline(alone[measure].mean(), color=ORANGE, linewidth=0.8, linestyle=":", label="their mean")
        for _, rows in grown.groupby("order"):
            axis.plot(rows.members, rows[measure], color=BLUE, alpha=0.3, linewidth=0.8)
        mean = grown.groupby("members")[measure].mean()
        axis.plot(mean.index, mean, "o-", color=BLUE, markersize=4, label="ensembles, mean over orders")
        members_axis(axis, grown.members, "members k in the ensemble")
        axis.set_ylabel(f"{measure.upper()}, {int(table.images.iloc[0])} pictures")
    axes[0].legend()
    figure.tight_layout()
    note = "In the features of a small network trained on this data: not comparable with Inception's"
    figure.text(0.5, -0.04, note, ha="center", fontsize=8)
    return figure, table
