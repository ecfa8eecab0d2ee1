"""Summaries of a validation's tables: means with intervals, paired differences, shares."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from scipy import stats

from ddattr.attribution import agreement
from ddattr.attribution.agreement import ENOUGH
from ddattr.validation.lds import joint_resamples, percentiles

REFERENCES = ("jvp", "pixel", "dtrak")  # methods that others are held against: ours, the simplest, the best peer
SHARES = ("top1", "unchanged")  # statistics that are right or wrong; their differences are neither
Pair = tuple[pd.DataFrame, pd.DataFrame]  # a table, row by row, and its summary


def compared(table: pd.DataFrame, by: list[str], columns: list[str], seed: int) -> pd.DataFrame:
    """Means, and beside them those of every method less a reference, query by query, as `COLUMN_less_REFERENCE`.

    Queries differ more than methods do: differences have the narrower intervals.
    """
    keys, found = [name for name in [*by, "query"] if name != "method"], [means(table, by, columns, seed)]
    for other in REFERENCES:
        pairs = table[table.method != other].merge(table[table.method == other], on=keys, suffixes=("", "_other"))
        less = {f"{column}_less_{other}": pairs[column] - pairs[f"{column}_other"] for column in columns}
        found.append(means(pairs.assign(**less), by, list(less), seed))
    return pd.concat(found, ignore_index=True)


def means(table: pd.DataFrame, by: list[str], columns: list[str], seed: int) -> pd.DataFrame:
    """Mean over rows of every column within groups, with its 95 % interval; none of fewer than 5 values.

    By bootstrap, and Wilson's for shares, as far as every value is 0 or 1: at a bound they would have one of no width.
    """
    rows = []
    for names, part in table.groupby(by, sort=False):
        for column in columns:
            values = torch.tensor(part[column].tolist(), dtype=torch.float64)
            mean, low, high = agreement.bootstrap_mean(values, seed)
            if (known := int((~values.isnan()).sum())) < ENOUGH:
                low = high = float("nan")
            elif column in SHARES and bool(((values == 0) | (values == 1) | values.isnan()).all()):
                low, high = wilson(mean, known)
            rows.append(
                {
                    **dict(zip(by, names, strict=True)),
                    "statistic": column,
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "known": known,
                }
            )
    return pd.DataFrame(rows)


def foreseen(table: pd.DataFrame, by: list[str], seed: int) -> pd.DataFrame:
    """Spearman over queries of a set's pull, first order against retraining without it, with its 95 % interval.

    The k units that are most alike in pixels are the k nearest.
    """
    rows = []
    for names, part in table.groupby(by, sort=False):
        pulls = part[["pull_first_order", "pull_retraining"]].to_numpy(copy=True)
        first, truth = torch.from_numpy(pulls)[:, None].unbind(2)
        low, high = percentiles(joint_resamples(first, truth, seed)) if len(part) >= ENOUGH else (float("nan"),) * 2
        rows.append(
            {
                **dict(zip(by, names, strict=True)),
                "statistic": "spearman_of_pull",
                "mean": agreement.spearman(first, truth).item(),
                "low": low,
                "high": high,
                "known": len(part),
            }
        )
    return pd.DataFrame(rows)


def wilson(share: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share of `count` independent cases.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    z = stats.norm.ppf((1 + level) / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def pair(name: str, tables: Pair) -> Iterator[tuple[str, pd.DataFrame]]:
    """A table and its summary, by the names of their files."""
    yield name, tables[0]
    yield f"{name}_summary", tables[1]
