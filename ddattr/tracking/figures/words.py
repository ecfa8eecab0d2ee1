"""Numbers of a table in a line of text."""

from collections.abc import Iterable

import pandas as pd

from ddattr.attribution.methods import ordered, shown


def worth_showing(names: Iterable[str]) -> list[str]:
    """At most eight methods of a table: those that are shown, or the first ones where none of these is there."""
    names = list(names)
    return shown(names) or ordered(names)[:8]


def means(rows: pd.DataFrame) -> str:
    """Means of the methods that are shown with their intervals, the largest first; another training seed's last."""
    table = rows.set_index("method")
    names = [name for name in worth_showing(table.index) if name != "another_seed"]
    found = table.loc[names].sort_values("mean", ascending=False, kind="stable").itertuples()
    words = [f"{row.Index} {row.mean:.2f}{interval(row.low, row.high)}" for row in found]
    limit = f"; another training seed {table.loc['another_seed', 'mean']:.2f}" if "another_seed" in table.index else ""
    return ", ".join(words) + limit


def interval(low: float, high: float) -> str:
    """An interval behind its mean; nothing where there is none."""
    return f" [{low:.2f}, {high:.2f}]" if low == low else ""


def noise(rows: pd.DataFrame) -> str:
    """What the truth's own seeds leave to be reached."""
    return f"ceiling {rows.ceiling.iloc[0]:.2f}, split-half reliability {rows.reliability.iloc[0]:.2f}"


def q_of(value: float) -> str:
    """A q-value, which is not told apart from others below 0.001."""
    return f"q = {value:.2g}" if value >= 0.001 else "q < 0.001"
