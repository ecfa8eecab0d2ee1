"""Numbers of a table in a line of text."""

from collections.abc import Iterable

import pandas as pd

from ddattr.attribution.methods import ordered, shown


def worth_showing(names: Iterable[str]) -> list[str]:
    """Methods of a table that are shown, or its first eight where none of these is there."""
    names = list(names)
    return shown(names) or ordered(names)[:8]


def pictures(queries: str) -> str:
    """What the queries of a table are, whose word for pictures that no member saw is `real`."""
    return "held-out pictures" if queries == "real" else f"{queries} pictures"


def means(rows: pd.DataFrame) -> str:
    """Means of the methods that are shown with their intervals, the largest first."""
    table = rows.set_index("method")
    found = table.loc[worth_showing(table.index)].sort_values("mean", ascending=False, kind="stable").itertuples()
    return ", ".join(f"{row.Index} {row.mean:.2f}{interval(row.low, row.high)}" for row in found)


def interval(low: float, high: float) -> str:
    """An interval behind its mean; nothing where there is none."""
    return f" [{low:.2f}, {high:.2f}]" if low == low else ""


def noise(rows: pd.DataFrame) -> str:
    """What the truth's own seeds leave to be reached."""
    return f"ceiling {rows.ceiling.iloc[0]:.2f}, split-half reliability {rows.reliability.iloc[0]:.2f}"


def q_of(value: float) -> str:
    """A q-value, which is not told apart from others below 0.001."""
    return f"q = {value:.2g}" if value >= 0.001 else "q < 0.001"
