"""Figure 15: one run at several numbers of units: radii, and what queries are attributable to, against N."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ddattr.files import load_table
from ddattr.tracking.figures.forest import reach
from ddattr.tracking.figures.style import BLUE, GREEN, GREY, ORANGE, RED, SKY, WIDTH

CAPTION = (
    "Figure 15. Radius, and that of as many phantoms, against the number of units N, with fitted powers; share of "
    "queries that are attributable. Bars: 95 % intervals over queries."
)
NEEDS = ("sizes/sizes.csv", "sizes/exponents.csv")
PUBLISHED = -0.20  # exponent of the radius: "Outputs of generative diffusion models are often unattributable", 2026
_LENGTHS = {
    "radius": ("radius", BLUE, "o"),
    "phantom_radius": ("of N phantoms", ORANGE, "s"),
    "phantom_length": ("one phantom's length", GREY, "^"),
}
_SHARES = {
    "attributable/label": ("to a label", SKY, "^"),
    "resolved": ("to a neighbourhood", GREEN, "s"),
    "attributable/unit": ("to one unit", RED, "o"),
}


def draw(root: Path) -> tuple[Figure, pd.DataFrame]:
    """Medians of lengths on logarithmic axes with lines of the fitted exponents; shares of queries beside them."""
    table = load_table(root / "sizes" / "sizes.csv")
    fitted = load_table(root / "sizes" / "exponents.csv").set_index("statistic").exponent
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.4))
    for (name, (label, colour, mark)), shift in zip(_LENGTHS.items(), (0.97, 1.03, 1.0), strict=True):
        rows = _dots(left, table, name, colour, mark, f"{label}, $N^{{{fitted[name]:.2f}}}$", shift)
        _line(left, rows, fitted[name], color=colour, linewidth=1.2)
    _line(left, table[table.statistic == "radius"], PUBLISHED, color=GREY, linewidth=0.8, linestyle="--")
    left.plot([], [], "--", color=GREY, linewidth=0.8, label=f"published, $N^{{{PUBLISHED:.2f}}}$")
    for (name, (label, colour, mark)), shift in zip(_SHARES.items(), (0.96, 1.04, 1.0), strict=True):
        rows = _dots(right, table, name, colour, mark, label, shift)
        right.plot(shift * rows.units, rows.value, color=colour, linewidth=1.2)
    left.set(yscale="log", ylabel="L2 of pictures in [-1, 1], median")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    left.yaxis.set_major_formatter("{x:.2g}")
    left.yaxis.set_minor_locator(NullLocator())
    right.set(ylabel="share of queries attributable", ylim=(-0.04, 1.04))
    for axis in (left, right):
        ticks = np.unique(table.units)
        axis.set(xscale="log", xlabel="units N")
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.legend(loc="lower left", bbox_to_anchor=(-0.04, 1.0), borderaxespad=0.2)
    figure.tight_layout()
    return figure, table


def _dots(axis, table: pd.DataFrame, name: str, colour: str, mark: str, label: str, shift: float) -> pd.DataFrame:
    """A dot a run, moved a little along N so that none hides another; the rows that it shows."""
    rows = table[table.statistic == name]
    arms = reach(rows.value.to_numpy(), rows.low.to_numpy(), rows.high.to_numpy())
    axis.errorbar(shift * rows.units, rows.value, arms, fmt=mark, color=colour, markersize=4, capsize=2, label=label)
    return rows


def _line(axis, rows: pd.DataFrame, exponent: float, **options) -> None:
    """A power of N through the middle of dots."""
    units, middle = np.log(rows.units), np.log(rows.value).mean()
    ends = np.array([units.min(), units.max()])
    axis.plot(np.exp(ends), np.exp(middle + exponent * (ends - units.mean())), **options)
