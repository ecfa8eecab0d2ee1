"""How far a run's numbers hang on its ensemble: the same run at several seeds, mean and spread of every number.

No interval of one run contains the draw of its members and of its codebook.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ddattr.attribution.places import default_folder
from ddattr.files import load_table
from ddattr.tracking.figures.words import interval
from ddattr.tracking.findings import intervals, metrics

COLUMNS = ["statistic", "runs", "mean", "sd", "low", "high", "interval_low", "interval_high"]
HEADLINES = (  # of the runs' lines
    "ablation/agreement/ablation/jvp/spearman",
    "attributable/unit",
    "attributable/label",
    "attributable/cluster",
    "resolved",
    "calibration/discovery",
    "lds/transfer/loss/generated/denoised_posterior",
    "lds/transfer/loss/generated/denoised_posterior/lds_less_dtrak",
    "groups/pull/generated/jvp_posterior/spearman",
    "groups/pull/generated/leave_one_out/spearman",
)


def ensembles(roots: Sequence[Path]) -> pd.DataFrame:
    """Over runs that differ in their seed: mean, standard deviation, smallest and largest of what all of them have.

    Where each has an interval, of its own queries and units, the mean has one too: its half widths are the root of the
    sum of theirs squared, over the number of runs, as errors of independent runs add. How runs differ is `sd`.

    Args:
        roots: folders of the runs, two or more.
    """
    table = pd.DataFrame([numbers(root) for root in roots]).dropna(axis="columns")
    found = table.agg(["mean", "std", "min", "max"]).T.set_axis(["mean", "sd", "low", "high"], axis="columns")
    found = found.rename_axis("statistic").reset_index().assign(runs=len(table))
    return found.merge(_intervals(roots, table), on="statistic", how="left")[COLUMNS]


def _intervals(roots: Sequence[Path], numbers: pd.DataFrame) -> pd.DataFrame:
    """Of the means of those statistics that have one in every run.

    Args:
        numbers: a row a run, a column a statistic.
    """
    of_runs = [
        {f"ablation/{name}": ends for name, ends in intervals(default_folder(root)).items()}
        | intervals(root / "validation")
        for root in roots
    ]
    rows = []
    for name, means in numbers.items():
        if all(name in of_run for of_run in of_runs):
            ends = np.array([of_run[name] for of_run in of_runs])
            below, above = np.sqrt(np.square(ends - means.to_numpy()[:, None]).sum(0)) / len(roots)
            rows.append((name, means.mean() - below, means.mean() + above))
    return pd.DataFrame(rows, columns=["statistic", "interval_low", "interval_high"])


def numbers(root: Path) -> dict[str, float]:
    """Every mean of an attribution's and a validation's summaries; the share of queries with a unit, a label, a cluster
    that passes, and with a neighbourhood that is significant; false positives among held-out pictures.

    Raises:
        FileNotFoundError: the run has no attribution.
    """
    folder = default_folder(root)
    if not (folder / "radius.csv").is_file():
        raise FileNotFoundError(
            f"compare: {folder}/radius.csv is missing. Make it: ddattr attribute, with its overrides"
        )
    radius, sets = load_table(folder / "radius.csv"), load_table(folder / "sets.parquet")
    found = {f"ablation/{name}": value for name, value in metrics(folder).items()}
    found |= {"attributable/unit": float(radius.attributable.mean()), "resolved": float((radius.resolution > 0).mean())}
    for kind, rows in sets.groupby(sets.set.str.partition(":")[0]):
        if kind != "nearest":
            smallest = rows.groupby("query").q_value.min()
            found[f"attributable/{kind}"] = float((smallest <= radius.level.iloc[0]).mean())
    if (folder / "calibration.csv").is_file():
        rates = load_table(folder / "calibration.csv")
        found |= {f"calibration/{row.test}": float(row.rejected) for row in rates.itertuples()}
    return found | metrics(root / "validation")


def lines(table: pd.DataFrame) -> list[str]:
    """The headlines of `ensembles`, in words."""
    rows = table.set_index("statistic")
    return [
        f"{name}: {row['mean']:.3f}{interval(row.interval_low, row.interval_high)}, sd {row.sd:.3f}, {row.low:.3f} to "
        f"{row.high:.3f} over {row.runs:.0f} ensembles"
        for name, row in rows.loc[[name for name in HEADLINES if name in rows.index]].iterrows()
    ]
