"""Means with intervals: of shares, of paired differences, and of correlations over queries and rows at once."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ddattr.attribution.agreement import ENOUGH, mean_interval, share_interval, spearman
from ddattr.attribution.methods import METHODS
from ddattr.diffusion.noise import Stream, generator

REFERENCES = [method.key for method in METHODS if method.reference]
SHARES = ("top1", "unchanged", "rejected", "above_0_found", "above_0_others")  # differences of shares are none
NONE = (float("nan"), float("nan"))  # the interval of too few values
_TOGETHER = 2**20  # values of resamples that are correlated at once


def compared(table: pd.DataFrame, by: list[str], columns: list[str]) -> pd.DataFrame:
    """Means, and beside them those of every method less a reference, query by query, as `COLUMN_less_REFERENCE`.

    Queries differ more than methods do: differences have the narrower intervals.
    """
    found = [means(table, by, columns)]
    found += [means(pairs, by, names) for pairs, names in differences(table, by, columns)]
    return pd.concat(found, ignore_index=True)


def differences(table: pd.DataFrame, by: list[str], columns: list[str]) -> Iterator[tuple[pd.DataFrame, list[str]]]:
    """For every reference, a row a query and other method with `COLUMN_less_REFERENCE`, and these columns' names."""
    keys = [name for name in [*by, "query"] if name != "method"]
    for other in REFERENCES:
        pairs = table[table.method != other].merge(table[table.method == other], on=keys, suffixes=("", "_other"))
        less = {f"{column}_less_{other}": pairs[column] - pairs[f"{column}_other"] for column in columns}
        yield pairs.assign(**less), list(less)


def means(table: pd.DataFrame, by: list[str], columns: list[str]) -> pd.DataFrame:
    """Mean over rows of every column within groups, with its 95 % interval; none of fewer than 5 values.

    By `mean_interval`, and of shares by `share_interval`.
    """
    rows = []
    for names, part in table.groupby(by, sort=False):
        for column in columns:
            values = torch.tensor(part[column].tolist(), dtype=torch.float64)
            mean, low, high = (share_interval if column in SHARES else mean_interval)(values)
            if (known := int((~values.isnan()).sum())) < ENOUGH:
                low, high = NONE
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
    It is one of the correlation to be expected at this number of rows. Rows drawn twice are ties: it lies 0.01 to 0.03
    low when correlations are high. Resamples of one seed and shape are paired: their differences are those of a
    difference.

    In 300 simulations each (6, 10, 12 and 16 rows, 16 or 32 queries, correlations of 0.5 to 0.9, none to 0.8 of a row
    shared by all queries) a nominal 0.95 covers 0.91 to 1.00 of what is to be expected at this number of rows, the less
    the more is shared and the fewer the rows (6 rows 0.91 to 0.95), and as much of a difference of 0 between two
    methods. Of the correlation over infinitely many rows, which is higher by 0.03 to 0.08, it covers 0.76 to 0.98.
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
