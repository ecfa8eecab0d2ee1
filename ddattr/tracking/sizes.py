"""One run at several numbers of units: what its queries say at each, and how fast their radii fall with it.

The control of a radius, the largest displacement over N units, is that of N *phantoms*, codewords of no unit. What of
it is owed to the draws alone is told apart: `phantom_length` is what the length of one phantom's displacement is.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ddattr.attribution.agreement import mean_interval, share_interval
from ddattr.attribution.places import default_folder
from ddattr.codebook import Codebook
from ddattr.files import load_json, load_table, save_table
from ddattr.tracking.figures import draw_all
from ddattr.tracking.figures.fig15_sizes import PUBLISHED
from ddattr.tracking.figures.words import interval

COLUMNS = ["run", "units", "queries", "statistic", "value", "low", "high"]
FITTED = ("radius", "phantom_radius", "phantom_length")
DIFFERENCES = {"radius_less_phantom": ("radius", "phantom_radius"), "draws": ("phantom_radius", "phantom_length")}
SHARES = {  # of queries, and what of them is attributable, in words
    "attributable/unit": "a unit",
    "attributable/label": "a label",
    "resolved": "a neighbourhood",
    "radius_passes": "its radius",
}


def of_roots(roots: Sequence[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of `summarise` and of `exponents`, of runs by their folders."""
    table = pd.concat([of_queries(root) for root in roots], ignore_index=True)
    return summarise(table), exponents(table)


def write(tables: tuple[pd.DataFrame, pd.DataFrame], folder: Path) -> None:
    """Writes sizes.csv, exponents.csv and fig15_sizes into a run's folder `sizes`."""
    for name, table in zip(("sizes", "exponents"), tables, strict=True):
        save_table(folder / f"{name}.csv", table)
    draw_all(folder.parent, ["fig15_sizes"])


def of_queries(root: Path) -> pd.DataFrame:
    """A row a query of a run's own.

    Columns: run, units, query; radius, phantom_radius, and phantom_length, the root mean square of the length of a
    phantom's displacement, ||J||_F sqrt(h / (n (n - h) (n - 1))), in closed form as codewords are drawn at random;
    radius_over_phantom, the ratio of the first two; z_nearest, of the most similar unit; those of `SHARES`: whether a
    unit, a label, a neighbourhood has a q, the radius a p, of at most the level; resolution, units of the smallest
    neighbourhood, infinite where there is none, and resolution_share of all units; smallest_q, the least that a unit
    can reach.

    Raises:
        FileNotFoundError: the run has no attribution.
    """
    folder, code = default_folder(root), load_json(root / "codebook" / "codebook.json") or {}
    for name in ("manifest.json", "radius.csv", "queries.csv", "sets.parquet"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"compare: {folder / name} is missing. Make it: ddattr attribute, with that run's overrides"
            )
    codebook = Codebook.of_record(code)
    own = load_table(folder / "radius.csv").merge(load_table(folder / "queries.csv"), on="query")
    sets, level, units = load_table(folder / "sets.parquet"), own.level.iloc[0], codebook.units
    found = own[["query", "radius", "phantom_radius"]].assign(run=root.resolve().name, units=units)
    length = (codebook.contrast_variance / (codebook.members - 1)) ** 0.5
    found["phantom_length"] = own.jacobian_norm * length
    found["radius_over_phantom"] = own.radius / own.phantom_radius
    found["z_nearest"] = own["query"].map(sets[sets.set == "nearest:1"].set_index("query").z)
    found["attributable/unit"] = own.attributable
    labels = sets[sets.set.str.startswith("label:")].groupby("query").q_value.min()
    if len(labels):
        found["attributable/label"] = own["query"].map(labels <= level)
    found["resolved"] = own.resolution > 0
    found["radius_passes"] = own.p_value <= level
    found["resolution"] = own.resolution.where(found.resolved, np.inf)
    found["resolution_share"] = found.resolution / units
    return found.assign(smallest_q=codebook.smallest_q())


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Of every run: medians of lengths and of the resolution, mean ratio and z, shares of queries; 95 % intervals.

    Of a median that of its order statistics (Thompson 1936), of others as `agreement` has them, over queries alone:
    none holds the draw of the members, the codebook or the pictures.
    """
    rows = []
    for (run, units), part in table.groupby(["run", "units"], sort=False):
        known = part.dropna(axis="columns", how="all")
        for name in [column for column in known.columns if column not in ("run", "units", "query")]:
            values = known[name].dropna().to_numpy(float)
            rows.append((run, units, len(values), name, *_summary(name, values)))
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(["units", "run"], kind="stable", ignore_index=True)


def _summary(name: str, values: np.ndarray) -> tuple[float, float, float]:
    from scipy import stats  # slow to import

    if name == "smallest_q":
        return float(values[0]), np.nan, np.nan
    if name in SHARES:
        return share_interval(torch.tensor(values))
    if name in ("z_nearest", "radius_over_phantom"):
        return mean_interval(torch.tensor(values))
    low, high = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    return float(np.median(values)), float(low), float(high)


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Exponents b of lengths ~ N^b: least squares of logarithms, every query on a line of its own, and their mean.

    Columns: statistic, exponent, its 95 % interval over queries, queries, sizes; least and most, of the exponents where
    one size in turn is left out. Beside the lengths' are two differences of exponents, query by query:
    radius_less_phantom, and draws, what a phantom radius owes to its being the largest of more draws.

    Raises:
        ValueError: runs of one size, or without a query in common.
    """
    counts = np.unique(table.units)
    wide = table.pivot_table(index="units", columns="query", values=list(FITTED), aggfunc=_geometric, dropna=False)
    common = [query for query, rows in table.groupby("query") if rows.units.nunique() == len(counts)]
    if len(counts) < 2 or not common:
        raise ValueError(
            f"compare: {len(counts)} numbers of units, {len(common)} queries that all runs have, expected 2 and 1 at "
            "least. Give all runs one attribution.first_query."
        )
    logs = {name: np.log(wide[name][common].to_numpy()) for name in FITTED}  # (sizes, queries)

    def slopes(kept: np.ndarray) -> dict[str, np.ndarray]:
        found = {name: np.polyfit(np.log(counts[kept]), rows[kept], 1)[0] for name, rows in logs.items()}
        return found | {name: found[a] - found[b] for name, (a, b) in DIFFERENCES.items()}

    every = np.arange(len(counts))
    partly = [slopes(np.delete(every, i)) for i in every] if len(counts) > 2 else []
    rows = []
    for name, of_queries in slopes(every).items():
        without = [part[name].mean() for part in partly] or [np.nan]
        fitted = mean_interval(torch.tensor(of_queries))
        rows.append((name, *fitted, len(common), len(counts), min(without), max(without)))
    names = ["statistic", "exponent", "low", "high", "queries", "sizes", "least", "most"]
    return pd.DataFrame(rows, columns=names)


def _geometric(values: pd.Series) -> float:
    return float(np.exp(np.log(values).mean()))


def lines(table: pd.DataFrame, fitted: pd.DataFrame) -> list[str]:
    """Both tables in words."""
    said = []
    for (run, units), rows in table.groupby(["run", "units"], sort=False):
        found = rows.set_index("statistic").value
        shares = [f"{words} {found[name]:.2f}" for name, words in SHARES.items() if name in found]
        said.append(
            f"{run}, {units:,} units: radius {found.radius:.3g}, that of as many phantoms {found.phantom_radius:.3g} "
            f"(medians), ratio {found.radius_over_phantom:.2f} (mean); z of the nearest {found.z_nearest:.2f}; share "
            f"of queries of which passes {', '.join(shares)}"
        )
    of = fitted.set_index("statistic")
    words = {name: f"{row.exponent:z.2f}{interval(row.low, row.high)}" for name, row in of.iterrows()}
    return [
        *said,
        f"the radius goes as N^{words['radius']} (published {PUBLISHED:.2f}), that of phantoms as "
        f"N^{words['phantom_radius']}; difference {words['radius_less_phantom']}",
        f"of the phantoms' exponent {words['phantom_length']} is one phantom's length, {words['draws']} that more of "
        "them are drawn",
    ]
