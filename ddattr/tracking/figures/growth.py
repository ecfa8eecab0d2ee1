"""Curves against the number of members, of members.csv and power_by_members.csv: means over orders, their deviation."""

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from ddattr.attribution.methods import label_of
from ddattr.tracking.figures.style import colour_of, marks_of, members_axis


class Curve(NamedTuple):
    """A statistic of such a table, and how it is drawn."""

    statistic: str
    colour: str
    name: str
    line: str = "o-"


def curves_of(prefix: str, methods: Iterable[str]) -> list[Curve]:
    """Of the same statistic of several methods: colours are families, and marks tell apart those of one."""
    dashes = {"o": "-", "s": "--"}
    return [
        Curve(f"{prefix}_{method}", colour_of(method), label_of(method), mark + dashes.get(mark, ":"))
        for method, mark in marks_of(methods).items()
    ]


def draw_growth(axis, curve: pd.DataFrame, lines: Iterable[Curve], label: str, columns: int = 1) -> None:
    """Those of the curves that the table has, with their names above the panel."""
    known = set(curve.statistic)
    for line in lines:
        if line.statistic in known:
            over_orders(axis, curve, "members", line.statistic, line.line, color=line.colour, label=line.name)
    members_axis(axis, curve.members, "members n")
    axis.set_ylabel(label)
    legend_above(axis, columns)


def legend_above(axis, columns: int = 1) -> None:
    """The legend over nothing that is drawn."""
    axis.legend(loc="lower left", bbox_to_anchor=(-0.04, 1.0), ncols=columns, borderaxespad=0.2, columnspacing=1)


def over_orders(axis, curve: pd.DataFrame, x: str, statistic: str, line: str = "o-", markersize: int = 4, **options):
    """A statistic's mean over orders, with their deviation."""
    part = curve[curve.statistic == statistic].groupby(x)["value"]
    axis.errorbar(
        part.mean().index,
        part.mean(),
        part.std().fillna(0),
        fmt=line,
        markersize=markersize,
        capsize=2,
        linewidth=1.2,
        **options,
    )
