"""What a validation says, in lines and in flat metrics, from its tables alone."""

from collections.abc import Callable, Iterator
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_float_dtype

from ddattr.files import load_table
from ddattr.tracking.figures import EVIDENCE, drawable


def findings(folder: Path) -> list[str]:
    """Lines of every figure that can be drawn and has some to say, and of the tables that have no figure."""
    lines = []
    for name, module in EVIDENCE.items():
        said: Callable[[Path], list[str]] | None = getattr(module, "findings", None)
        if said is not None and drawable(folder.parent, name):
            lines += said(folder.parent)
    if (table := _table(folder, "discoveries_summary")) is not None:
        mean = table.set_index("statistic")["mean"]
        lines.append(
            f"of the units left out {mean.units_found:.2g} pass a query: their mean pull by retraining is "
            f"{mean.pull_found:.3f} (above 0 for {mean.above_0_found:.0%}), others' {mean.pull_others:.3f} "
            f"({mean.above_0_others:.0%})"
        )
    if (table := _table(folder, "calibration_summary")) is not None:
        rates = ", ".join(f"{row.test} {row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in table.itertuples())
        lines.append(f"false positives at {table.level.iloc[0]:g} among pictures that no member saw: {rates}")
    return lines


def metrics(folder: Path) -> dict[str, float]:
    """Flat metrics for W&B: one of every row of every summary of a validation, by one rule.

    Of X_summary.csv the key is X/..., then the row's columns before `statistic` that are text or whole numbers, then
    its statistic: `removal/dtrak/20/l2`. The paper's measure `norm`, and the statistic of the same name as its table,
    are left out of it: `lds/transfer/loss/real/dtrak`. The value is the column `mean`, or `value` where there is none.
    """
    return {key: float(row["mean" if "mean" in row else "value"]) for key, row in _rows(folder)}


def intervals(folder: Path) -> dict[str, tuple[float, float]]:
    """95 % intervals of those of `metrics` that have one."""
    found = {key: (float(row.get("low", nan)), float(row.get("high", nan))) for key, row in _rows(folder)}
    return {key: (low, high) for key, (low, high) in found.items() if low <= high}


def _rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of every summary, by its key."""
    for path in sorted(folder.glob("*_summary.csv")):
        name, table = path.name.removesuffix("_summary.csv"), load_table(path)
        names = list(table.columns[: list(table.columns).index("statistic")])
        names = [column for column in names if not is_float_dtype(table[column])]
        for row in table.to_dict("records"):
            parts = [str(row[column]) for column in names if (column, row[column]) != ("measure", "norm")]
            parts += [row["statistic"]] if row["statistic"] != name else []
            yield "/".join([name, *parts]), row


def _table(folder: Path, name: str) -> pd.DataFrame | None:
    path = folder / f"{name}.csv"
    return load_table(path) if path.exists() else None
