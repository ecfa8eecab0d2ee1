"""Figure 7: agreement of methods with retraining, and its growth with the number of members."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ddattr.files import load_table
from ddattr.tracking.figures.forest import ROW, by_value, forest, reference
from ddattr.tracking.figures.growth import curves_of, draw_growth, legend_above
from ddattr.tracking.figures.style import BLACK, RED, WIDTH
from ddattr.tracking.figures.words import means, noise

CAPTION = (
    "Figure 7. Agreement with retraining without the unit, by method and by number of members; means with 95 % "
    "intervals over units and queries. Ceiling: the noise of training seeds."
)
NEEDS = ("validation/agreement_summary.csv",)


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Rows of methods, exact ablation a line, and beside them curves where the table of members is there."""
    rows, curve = spearman(root), root / "validation" / "members.csv"
    methods, table = by_value(rows), rows
    height = 1.2 + ROW * max(8, len(methods))
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, height), width_ratios=[1.15, 1])
    forest(axes[0], rows, methods, values=True)
    reference(axes[0], rows.ceiling.iloc[0], "ceiling: noise of the seeds", RED)
    if (exact := rows[rows.method == "ablation"]["mean"]).size:
        reference(axes[0], exact.iloc[0], "exact ablation", BLACK, ":")
    axes[0].set(xlabel="Spearman with retraining, over units")
    if axes[0].get_legend_handles_labels()[0]:
        legend_above(axes[0])
    if curve.exists():
        grown = load_table(curve)
        agreement = grown[grown.statistic.str.startswith("spearman_")]
        draw_growth(axes[1], grown, curves_of("spearman", methods), "Spearman with retraining")
        table = pd.concat([rows, agreement], ignore_index=True)
    else:
        axes[1].remove()
    figure.tight_layout()
    return figure, table


def findings(root: Path) -> list[str]:
    """Agreement of the methods that are shown, and what could be reached."""
    rows = spearman(root)
    return [f"agreement with retraining (Spearman, pull): {means(rows)}; {noise(rows)}"]


def spearman(root: Path) -> pd.DataFrame:
    """Rows of the summary that the figure shows, of all methods."""
    summary = load_table(root / "validation" / "agreement_summary.csv")
    return summary[(summary.statistic == "spearman") & (summary.measure == "pull")]
