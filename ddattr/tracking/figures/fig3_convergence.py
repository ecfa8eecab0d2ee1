"""Figure 3: how far pictures of k members are from those of all n, and of k others, on the same tapes."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ddattr.files import load_table
from ddattr.tracking.figures.style import BLUE, RED, members_axis

CAPTION = "Figure 3. The ensemble converges as it grows (95 % intervals over orders and pictures)."
NEEDS = ("quality/convergence.csv",)
_KINDS = {"to_all": ("to all n members", BLUE, "o-"), "disjoint": ("between two disjoint sets of k", RED, "s--")}


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Mean L2 distance of pictures against the number of members."""
    table = load_table(root / "quality" / "convergence.csv")
    figure, axis = plt.subplots(figsize=(3.8, 2.8))
    for kind, rows in table.groupby("kind", sort=False):
        label, colour, style = _KINDS[str(kind)]
        grouped = rows.groupby("members").distance_mean
        between = grouped.std(ddof=1).fillna(0) / grouped.nunique() ** 0.5
        sem = np.hypot(between, rows.groupby("members").distance_sem.mean())  # all orders draw the same tapes
        axis.errorbar(
            grouped.mean().index,
            grouped.mean(),
            1.96 * sem,
            fmt=style,
            color=colour,
            markersize=4,
            capsize=2,
            linewidth=1,
            label=label,
        )
    members_axis(axis, table.members, "members k in the ensemble")
    axis.set(ylabel="L2 distance of pictures", ylim=(0, None))
    axis.legend()
    return figure, table
