"""Means with intervals: of shares, of paired differences, and of correlations over queries and rows at once."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from ddattr.attribution.agreement import ENOUGH, bootstrap_mean, spearman
from ddattr.attribution.methods import METHODS
from ddattr.diffusion.noise import Stream, generator

REFERENCES = [method.key for method in METHODS if method.reference]
SHARES = ("top1", "unchanged")  # statistics that are right or wrong; their differences are neither
NONE = (float("nan"), float("nan"))  # the interval of too few values
_TOGETHER = 2**20  # values of resamples that are correlated at once


def compared(table: pd.DataFrame, by: list[str], columns: list[str], seed: int) -> pd.DataFrame:
    """Means, and beside them those of every method less a reference, query by query, as `COLUMN_less_REFERENCE`.

    Queries differ more than methods do: differences have the narrower intervals.
    """
    found = [means(table, by, columns, seed)]
    found += [means(pairs, by, names, seed) for pairs, names in differences(table, by, columns)]
    return pd.concat(found, ignore_index=True)


def differences(table: pd.DataFrame, by: list[str], columns: list[str]) -> Iterator[tuple[pd.DataFrame, list[str]]]:
    """For every reference, a row a query and other method with `COLUMN_less_REFERENCE`, and these columns' names."""
    keys = [name for name in [*by, "query"] if name != "method"]
    for other in REFERENCES:
        pairs = table[table.method != other].merge(table[table.method == other], on=keys, suffixes=("", "_other"))
        less = {f"{column}_less_{other}": pairs[column] - pairs[f"{column}_other"] for column in columns}
        yield pairs.assign(**less), list(less)


def means(table: pd.DataFrame, by: list[str], columns: list[str], seed: int) -> pd.DataFrame:
    """Mean over rows of every column within groups, with its 95 % interval; none of fewer than 5 values.

    By bootstrap, and Wilson's for shares, as far as every value is 0 or 1: at a bound they would have one of no width.
    """
    rows = []
    for names, part in table.groupby(by, sort=False):
        for column in columns:
            values = torch.tensor(part[column].tolist(), dtype=torch.float64)
            mean, low, high = bootstrap_mean(values, seed)
            if (known := int((~values.isnan()).sum())) < ENOUGH:
                low, high = NONE
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


def wilson(share: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share of `count` independent cases.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    z = stats.norm.ppf((1 + level) / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def lds_resamples(
    scores: Float[Tensor, "units q"],
    targets: Float[Tensor, "subsets q"],
    subsets: Bool[Tensor, "subsets units"],
    seed: int = 0,
    resamples: int = 500,
) -> Float[Tensor, "resamples"]:
    """Means over queries of the LDS, resampled: bootstrap over queries and over subsets at once, as `joint_resamples`.

    Raises:
        ValueError: too few subsets for an interval.
    """
    if len(targets) < ENOUGH:
        raise ValueError(
            f"lds: {len(targets)} subsets, expected at least {ENOUGH} for an interval. "
            "Set validation.lds_subsets higher."
        )
    return joint_resamples(subsets.to(scores) @ scores, targets, seed, resamples)


def joint_resamples(
    predicted: Float[Tensor, "rows q"],
    targets: Float[Tensor, "rows q"],
    seed: int = 0,
    resamples: int = 500,
    correlation: Callable[[Tensor, Tensor], Tensor] = spearman,
) -> Float[Tensor, "resamples"]:
    """Means over queries of a correlation over rows, bootstrapped over queries and rows at once.

    Rows, be they units or subsets, are shared by all queries: an interval over queries alone would be far too narrow.
    It is one of the correlation to be expected at this number of rows, and lies 0.01 to 0.03 low when correlations are
    high: rows drawn twice are ties. Resamples of one seed and shape are paired: their differences are those of a
    difference.
    """
    count, queries = targets.shape
    draw, means = generator(seed, Stream.BOOTSTRAP, step=1), []
    drawn = [(draw.integers(0, count, (count, 1)), draw.integers(0, queries, queries)) for _ in range(resamples)]
    together = max(1, _TOGETHER // targets.numel())
    for first in range(0, resamples, together):
        some = drawn[first : first + together]
        rows, columns = (torch.from_numpy(np.stack(part)) for part in zip(*some, strict=True))
        places = rows, columns[:, None]  # (resamples, rows, q); to a correlation every column is a query
        sides = (side[places].transpose(0, 1).flatten(1) for side in (predicted, targets))
        means.append(correlation(*sides).reshape(-1, queries).nanmean(1))
    return torch.cat(means).double()


def percentiles(resampled: Float[Tensor, "resamples"], level: float = 0.95) -> tuple[float, float]:
    """The interval of a percentile bootstrap."""
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = resampled.nanquantile(tail).tolist()
    return low, high


def bounds(resampled: Float[Tensor, "resamples"], rows: int) -> tuple[float, float]:
    """The same; none of fewer than 5 rows."""
    return percentiles(resampled) if rows >= ENOUGH else NONE


def difference(resampled: Mapping[Any, Tensor], key: Any, other: Any) -> Float[Tensor, "resamples"]:
    """Resamples of a method, less those of another if one is named."""
    return resampled[key] if other is None else resampled[key] - resampled[other]


def pull_predicted(
    first_order: Float[Tensor, "rows q"], retraining: Float[Tensor, "rows q"], seed: int
) -> dict[str, float]:
    """Spearman over rows of sets' pull, first order against retraining without them, with its 95 % interval."""
    low, high = bounds(joint_resamples(first_order, retraining, seed), len(first_order))
    return {"mean": spearman(first_order, retraining).nanmean().item(), "low": low, "high": high}
