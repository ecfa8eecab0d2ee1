"""A long table, made some rows at a time: influence.parquet has a row a unit, query, method and measure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True, eq=False)
class Rows:
    """Frames of the same columns, which are made again whenever they are gone through, and none of which is held.

    Args:
        frames: makes them, in order.
    """

    frames: Callable[[], Iterator[pd.DataFrame]]

    def __iter__(self) -> Iterator[pd.DataFrame]:
        return self.frames()

    def whole(self) -> pd.DataFrame:
        """All rows as one table."""
        return pd.concat(list(self), ignore_index=True)

    def each(self, change: Callable[[pd.DataFrame], pd.DataFrame]) -> "Rows":
        """The same, changed frame by frame."""
        return Rows(lambda: map(change, self))

    def then(self, more: pd.DataFrame) -> "Rows":
        """The same, and behind them further rows."""

        def frames() -> Iterator[pd.DataFrame]:
            yield from self
            yield more

        return Rows(frames)
