"""Figure 8: linear datamodelling scores against held-out half-data models."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ddattr.files import load_table
from ddattr.tracking.figures.forest import ROW, by_value, forest, reference
from ddattr.tracking.figures.style import RED, WIDTH
from ddattr.tracking.figures.words import means, noise, pictures

CAPTION = (
    "Figure 8. Linear datamodelling scores against models of random halves, which no score was made with; means with "
    "95 % intervals over queries and subsets."
)
NEEDS = ("validation/lds_summary.csv",)


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """A panel for every target and kind of queries, in the order of the first one's values."""
    summary = transfer(root)
    panels = [(key, rows) for key, rows in summary.groupby(["target", "queries"], sort=False)]
    methods = by_value(summary)
    size = (WIDTH, 1.15 + ROW * len(methods))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, ((target, queries), rows) in zip(axes[0], panels, strict=True):
        forest(axis, rows, methods, values=True)
        reference(axis, rows.ceiling.iloc[0], "ceiling: noise of the seeds", RED)
        axis.set(title=f"{target} of\n{pictures(queries)}", xlabel="LDS")
    if handles := axes[0][0].get_legend_handles_labels()[0]:
        figure.legend(handles=handles, loc="outside upper center")
    return figure, summary


def findings(root: Path) -> list[str]:
    """A line for every target and kind of queries."""
    return [
        f"LDS, {target} of {pictures(queries)}: {means(rows)}; {noise(rows)}"
        for (target, queries), rows in transfer(root).groupby(["target", "queries"], sort=False)
    ]


def transfer(root: Path) -> pd.DataFrame:
    """Rows of the summary of models that no score was made with, of all methods."""
    summary = load_table(root / "validation" / "lds_summary.csv")
    return summary[(summary.kind == "transfer") & (summary.statistic == "lds")]
