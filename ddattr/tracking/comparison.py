"""Finished runs beside one another: the table that figure 14 shows."""

from pathlib import Path

import pandas as pd

from ddattr.files import load_json, load_table, save_table
from ddattr.tracking.figures import draw_all
from ddattr.tracking.figures.fig14_comparison import ESTIMATES, best_estimate

__all__ = ["COLUMNS", "ESTIMATES", "best_estimate", "compare", "growth"]
COLUMNS = ["run", "units", "forked", "members", "order", "training_steps", "statistic", "value"]


def compare(table: pd.DataFrame, folder: Path) -> None:
    """Writes comparison.csv and fig14_comparison into a run's folder `comparison`.

    Args:
        table: that of `growth` of several runs, one below the other.
    """
    save_table(folder / "comparison.csv", table)
    draw_all(folder.parent, ["fig14_comparison"])


def growth(root: Path) -> pd.DataFrame:
    """members.csv and power_by_members.csv of a run's validation, and what they stand for: units, and optimiser steps
    of all members.

    Raises:
        FileNotFoundError, ValueError: the run has no curve against its members; it is damaged.
    """
    paths = [root / "validation" / f"{name}.csv" for name in ("members", "power_by_members")]
    member = root / "members" / "000" / "manifest.json"
    for needed in (root / "validation" / "manifest.json", *paths, root / "codebook" / "codebook.json", member):
        if not needed.is_file():
            raise FileNotFoundError(
                f"compare: {needed} is missing: a run that is validated, with validation.retrained_units and "
                "validation.lds_subsets, has it. Make it: ddattr validate, with that run's overrides"
            )
    code, made = load_json(root / "codebook" / "codebook.json") or {}, load_json(member) or {}
    training = made.get("config", {}).get("training")
    if training is None or "N" not in code:
        raise ValueError(f"compare: {member} or the codebook beside it is damaged. Train the member again.")
    fork = training.get("fork")
    each, base = (training["steps"], 0) if fork is None else (fork["steps"], training["steps"])
    table = pd.concat([load_table(path) for path in paths], ignore_index=True)
    if lacking := {"spearman_jvp", "lds_loss_loss", "law_loss", "z_nearest"} - set(table.statistic):
        folder = root / "validation"
        raise ValueError(f"compare: {folder} has no {min(lacking)}. Delete its manifest.json and validate again.")
    table = table.assign(run=root.resolve().name, units=code["N"], forked=fork is not None)
    return table.assign(training_steps=base + each * table.members)[COLUMNS]
