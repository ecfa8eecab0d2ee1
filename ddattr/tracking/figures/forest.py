"""Methods as rows of a panel: means with intervals, the largest on top."""

import numpy as np
import pandas as pd

from ddattr.attribution.methods import label_of
from ddattr.tracking.figures.style import GREY, colour_of, zero
from ddattr.tracking.figures.words import worth_showing

ROW = 0.27  # inches


def by_value(rows: pd.DataFrame) -> list[str]:
    """The methods of a summary that are worth showing, the one of the largest mean first."""
    names = worth_showing(rows.method)
    means = rows.drop_duplicates("method").set_index("method")["mean"]
    return means[names].sort_values(ascending=False, kind="stable").index.tolist()


def forest(
    axis,
    rows: pd.DataFrame,
    methods: list[str],
    colour: str | None = None,
    shift: float = 0.0,
    label: str | None = None,
    values: bool = False,
) -> None:
    """Draws a line for every method that a summary has.

    Args:
        colour: of all of them; None gives every method its family's.
        shift: of the lines, upward, where several summaries share a panel.
        values: whether to write the mean beside each.
    """
    rows = rows.drop_duplicates("method").set_index("method")
    for place, method in enumerate(methods):
        if method in rows.index:
            row, y = rows.loc[method], len(methods) - place + shift
            axis.errorbar(
                row["mean"],
                y,
                xerr=np.reshape(reach(row["mean"], row.low, row.high), (2, 1)),
                fmt="o",
                color=colour or colour_of(method),
                markersize=4.5,
                capsize=2,
            )
            if values:
                where = axis.get_yaxis_transform()
                axis.text(1.02, y, _number(row["mean"]), transform=where, va="center", fontsize=8, color=GREY)
    if label is not None:
        axis.errorbar([], [], [], fmt="o", color=colour, markersize=4.5, label=label)
    zero(axis, across=True)
    axis.set_yticks(range(len(methods), 0, -1), [label_of(method) for method in methods])
    axis.set_ylim(0.4, len(methods) + 0.6)


def _number(value: float) -> str:
    """Two decimals, and no minus before 0."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def reach(mean, low, high):
    """Lengths of an interval's two arms; the mean may lie a little outside a bootstrap of few rows."""
    return np.clip(mean - low, 0, None), np.clip(high - mean, 0, None)


def reference(axis, value: float, label: str, colour: str, line: str = "--") -> None:
    """A line that methods are held against, where it is known."""
    if np.isfinite(value):
        axis.axvline(value, color=colour, linewidth=1.2, linestyle=line, label=label, zorder=0)
