"""Figure 5: queries whose best unit passes the test, with counterfactuals.

Where none passes there is nothing to draw as a finding: the figure says so, and shows queries alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from ddattr.attribution.places import default_folder
from ddattr.files import load_table
from ddattr.tracking.figures.style import WIDTH, show_picture
from ddattr.tracking.figures.words import q_of
from ddattr.tracking.panels import panels
from ddattr.tracking.units import unit_names

CAPTION = (
    "Figure 5. Queries with a unit that passes the test, surest first: without the unit of smallest q, by the "
    "denoising; and, beside it, without the unit of largest norm, the paper's score, whose choice is not a test of "
    "significance. Change: exact less factual picture, brown where brighter. influence.parquet has more units."
)
NEEDS = (
    "attribution/queries.safetensors",
    "attribution/jacobian.safetensors",
    "attribution/influence.parquet",
    "attribution/radius.csv",
    "codebook/codebook.json",
)
_DRAWN = 4  # queries at most
_COLUMNS = {"unit_image": "removed", "exact": "exact", "jvp": "first order", "displacement": "change"}
_MEASURES = {"pull": "unit of smallest q", "norm": "unit of largest norm, not a test"}


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Up to four queries, a line each, and how many have no unit that passes."""
    folder = default_folder(root)
    rows = panels(root, folder)
    level = load_table(folder / "radius.csv").level.iloc[0]
    best = {(row["query"], row["measure"]): row for row in rows if row["rank"] == 1}
    sure = sorted((row for (_, measure), row in best.items() if measure == "pull"), key=lambda row: row["q_value"])
    passing = [row for row in sure if row["q_value"] <= level]
    if passing:
        lines = [[best[row["query"], measure] for measure in _MEASURES] for row in passing[:_DRAWN]]
        figure = _counterfactuals(lines, unit_names(root), _count(len(passing), len(sure), level))
    else:
        figure = _queries(sure[:_DRAWN], f"No single unit passes at q ≤ {level:g}, for any of {len(sure)} queries")
    table = pd.DataFrame([{k: v for k, v in row.items() if not isinstance(v, Tensor)} for row in rows])
    return figure, table


def _count(passing: int, queries: int, level: float) -> str:
    """How many queries have a unit that passes, and how many none."""
    drawn = f", the {_DRAWN} surest drawn" if passing > _DRAWN else ""
    some = f"Queries with a unit that passes at q ≤ {level:g}: {passing} of {queries}{drawn}"
    return f"{some}; with none: {queries - passing}"


def _counterfactuals(lines: list[list[dict[str, Any]]], name: Callable[[int], str], count: str) -> Figure:
    """A line a query: its picture, and for every measure the unit, both counterfactuals and the change."""
    block = len(_COLUMNS) + 1  # with the gap before it
    widths = [1.0, *([0.22] + [1.0] * len(_COLUMNS)) * len(_MEASURES)]
    figure, axes = plt.subplots(
        len(lines), len(widths), figsize=(WIDTH, 1.04 * len(lines) - 0.41), width_ratios=widths, squeeze=False
    )
    for line, rows in zip(axes, lines, strict=True):
        show_picture(line[0], rows[0]["factual"])
        line[0].set_title(f"query {rows[0]['query']}", fontsize=8, loc="left")
        for start, row in zip(range(1, len(widths), block), rows, strict=True):
            line[start].axis("off")
            limit = row["displacement"].abs().max().item()
            for axis, column in zip(line[start + 1 : start + block], _COLUMNS, strict=True):
                show_picture(axis, row[column], limit if column == "displacement" else None)
            axis.text(1.06, 0.5, f"±{limit:.2g}", transform=axis.transAxes, rotation=90, va="center", fontsize=8)
            said = name(row["unit"]) + (f"\n{q_of(row['q_value'])}" if row["measure"] == "pull" else "\n")
            line[start + 1].set_title(said, fontsize=8, loc="left")
    for start, heading in zip(range(1, len(widths), block), _MEASURES.values(), strict=True):
        place = {"xy": (0, 1), "xytext": (0, 30), "xycoords": "axes fraction", "textcoords": "offset points"}
        axes[0, start + 1].annotate(heading, weight="bold", annotation_clip=False, **place)
        for axis, label in zip(axes[-1, start + 1 : start + block], _COLUMNS.values(), strict=True):
            axis.set_xlabel(label, fontsize=8)
    axes[-1, 0].set_xlabel("factual", fontsize=8)
    figure.subplots_adjust(wspace=0.12, hspace=0.66, left=0, right=1, bottom=0, top=1)
    figure.text(0.5, -0.35 / figure.get_figheight(), count, ha="center", va="top")
    return figure


def _queries(rows: list[dict[str, Any]], statement: str) -> Figure:
    """Pictures of queries under what is said of all of them; no unit, and no counterfactual."""
    figure, axes = plt.subplots(1, max(2, len(rows)), figsize=(WIDTH, 1.5), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, row in zip(axes.flat, rows, strict=False):
        axis.axis("on")
        show_picture(axis, row["factual"])
        axis.set_xlabel(f"query {row['query']}\nsmallest {q_of(row['q_value'])}")
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
    figure.text(0, 1.12, statement, fontsize=10, weight="bold")
    return figure
