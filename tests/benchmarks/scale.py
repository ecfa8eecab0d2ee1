"""Time and memory against the number of units, as a figure with fitted exponents.

`python tests/benchmarks/scale.py sweeps/results/scale` reads scale.csv there, to which test_a_million_pictures.py adds
a row a size where SCALE names that folder, and writes exponents.csv and scale.png.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter
from scipy import stats

from ddattr.files import load_table, save_table
from ddattr.tracking.figures.style import BLUE, GREY, ORANGE, STYLE, WIDTH

KEYS = ["of", "units"]
COLUMNS = [*KEYS, "processor_seconds", "clock_seconds", "anonymous_mb", "resident_mb", "device", "commit"]
CONSTANT = 1 << 15  # units from which on answers are in single precision; k-means sees 20,000 pictures at most
LINES = {"pictures": ("all tables of pictures", BLUE, "o"), "codewords": ("norm and loss of codewords", ORANGE, "s")}


def add(folder: Path, row: dict[str, object]) -> None:
    """Adds a row to scale.csv; a size that was there is replaced."""
    path = folder / "scale.csv"
    new = pd.DataFrame([row], columns=COLUMNS)
    rows = pd.concat([load_table(path), new]) if path.is_file() else new
    rows = rows.drop_duplicates(KEYS, keep="last").sort_values(KEYS, ascending=[False, True], ignore_index=True)
    folder.mkdir(parents=True, exist_ok=True)
    save_table(path, rows)


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Exponents b of seconds, and of memory, as N^b, of sizes past the constant: least squares of logarithms, with the
    slope's standard error; none of fewer than three sizes."""
    rows = []
    for of, part in table[table.units > CONSTANT].groupby("of", sort=False):
        if len(part) < 3:
            continue
        for name in ("processor_seconds", "anonymous_mb", "resident_mb"):
            fit = stats.linregress(np.log(part.units), np.log(part[name]))
            rows.append((of, name, fit.slope, fit.stderr, len(part), part.units.min(), part.units.max()))
    return pd.DataFrame(rows, columns=["of", "statistic", "exponent", "standard_error", "sizes", "least", "most"])


def draw(table: pd.DataFrame, fitted: pd.DataFrame):
    """Processor seconds, and megabytes, on logarithmic axes; lines of the fitted exponents."""
    slope = fitted.set_index(["of", "statistic"]).exponent
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.0))
    for axis, name, label in zip(
        axes, ("processor_seconds", "anonymous_mb"), ("processor seconds, one thread", "MB, anonymous"), strict=True
    ):
        for of, part in table.groupby("of", sort=False):
            words, colour, mark = LINES[str(of)]
            far = part[part.units > CONSTANT]
            known = (of, name) in slope.index
            power = f", $N^{{{slope[of, name]:.2f}}}$" if known else ""
            axis.plot(part.units, part[name], mark, color=colour, markersize=4, label=words + power)
            if known:
                x = np.log(far.units)
                axis.plot(
                    far.units,
                    np.exp(np.log(far[name]).mean() + slope[of, name] * (x - x.mean())),
                    color=colour,
                    linewidth=1.2,
                )
        axis.set(xscale="log", yscale="log", xlabel="units N", ylabel=label)
        axis.legend(loc="lower left", bbox_to_anchor=(-0.04, 1.0), borderaxespad=0.2)
    for axis, limit, words in zip(axes, (600, 4000), ("ten minutes", "4 GB"), strict=True):
        axis.axhline(limit, color=GREY, linewidth=0.8, linestyle="--")
        axis.annotate(words, (table.units.min(), limit), xytext=(0, -9), textcoords="offset points", fontsize=8)
        axis.set_ylim(top=1.3 * max(limit, axis.get_ylim()[1] / 1.3))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    figure.tight_layout()
    return figure


def main(folder: Path) -> None:
    table = load_table(folder / "scale.csv")
    fitted = exponents(table)
    save_table(folder / "exponents.csv", fitted)
    with plt.rc_context(STYLE):
        draw(table, fitted).savefig(folder / "scale.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
