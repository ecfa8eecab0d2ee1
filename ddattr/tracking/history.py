"""metrics.csv of a training run, whose history outlives an interruption."""

from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from ddattr.files import load_table, save_table


class History(Logger):
    """Lightning logger that keeps one CSV: a row a step, whole on disk after every epoch.

    A run that resumes at step s drops the rows past s, so that a curve never folds back.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, float]] = {}
        if path.exists():
            table = load_table(path)
            self.rows = {
                int(row["step"]): {k: v for k, v in row.items() if k != "step" and v == v}
                for row in table.to_dict("records")
            }

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> int:
        return 0

    def resume(self, step: int) -> None:
        """Forgets what was logged after a step."""
        self.rows = {at: row for at, row in self.rows.items() if at <= step}

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The manifest holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.setdefault(step or 0, {}).update(metrics)

    @rank_zero_only
    def save(self) -> None:
        if self.rows:
            save_table(self.path, pd.DataFrame([{"step": step, **row} for step, row in sorted(self.rows.items())]))
