"""Figures of a run: one figure, one module, which is found by its being in this folder and named as what it writes.

A module has `CAPTION`, for the page; `NEEDS`, the tables that it reads, as paths below the run's folder, where
attribution/ is that of the run's own query set: it is drawn when all of them exist; `draw(root)`, the figure and the
numbers behind it; and, if its tables have something to say in a line, `findings(root)`. A new figure is one new file.
"""

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ddattr.attribution.places import located
from ddattr.files import save_table
from ddattr.tracking.figures.style import STYLE, save_figure


@runtime_checkable
class FigureModule(Protocol):
    """What a module of this folder has."""

    CAPTION: str
    NEEDS: tuple[str, ...]

    def draw(self, root: Path) -> tuple[Figure, pd.DataFrame]:
        """The figure of a run, and the table behind it."""
        ...


def _found() -> dict[str, FigureModule]:
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name.startswith("fig")]
    names.sort(key=lambda name: int(name.partition("_")[0].removeprefix("fig")))
    return {name: cast(FigureModule, import_module(f"{__name__}.{name}")) for name in names}


ALL = _found()  # by name, in the order of their numbers


def folder_of(name: str) -> str:
    """Where a figure is written, below the run's folder: beside the stage whose tables it shows."""
    stages = {need.partition("/")[0] for need in ALL[name].NEEDS}
    if "validation" in stages:
        return "validation/figures"
    return next((stage for stage in ("comparison", "sizes") if stage in stages), "figures")


FIGURES = {name: module for name, module in ALL.items() if folder_of(name) == "figures"}
EVIDENCE = {name: module for name, module in ALL.items() if folder_of(name) == "validation/figures"}


def drawable(root: Path, name: str) -> bool:
    """Whether every table that a figure needs is there."""
    return all(located(root, need).exists() for need in ALL[name].NEEDS)


def draw_all(root: Path, names: Iterable[str] | None = None) -> None:
    """Figures whose tables are there, each as .png, .pdf and .csv: those that are named, or all of `report`."""
    for name in FIGURES if names is None else names:
        if drawable(root, name):
            path = root / folder_of(name) / name
            with plt.rc_context(STYLE):
                figure, table = ALL[name].draw(root)
                save_figure(figure, path)
            save_table(path.with_name(f"{name}.csv"), table)


def draw_evidence(folder: Path) -> None:
    """Every figure of a validation into validation/figures."""
    draw_all(folder.parent, EVIDENCE)
