"""What a picture owes itself to: the surest that passes a test, a unit, a set of units or what looks like it."""

from typing import NamedTuple

import pandas as pd

from ddattr.attribution.methods import SUPPORT
from ddattr.tracking.page.answers import Answers

NEAREST = "nearest"


class Owed(NamedTuple):
    """A unit or a set, as the explorer calls it, and its test.

    Args:
        kind: what it is one of: a unit's kind, a set's, or `nearest`.
        item: a unit's number or a set's name.
        units: its units, as far as they are known.
        tried: how many of the kind were tested for this picture.
        passes: whether q is at most the level; else this is the unit of smallest p.
        order: of pictures by how sure theirs is: units come before sets, these before neighbourhoods, then q.
    """

    kind: str
    item: str
    units: list[int]
    p: float
    q: float
    tried: int
    passes: bool
    order: tuple[int, float, float]

    @property
    def unit(self) -> int | None:
        """Its number, where it is no set."""
        return None if ":" in self.item else int(self.item)


def owed(answers: Answers, query: int, kind: str, table: pd.DataFrame | None, similar: pd.Index) -> Owed:
    """Of the units that pass the surest (smallest q, then largest support); where none does, of the sets by label,
    cluster or column (then largest z); else the smallest neighbourhood that matters; else the unit of smallest p.

    Args:
        kind: of the units.
        table: units.parquet by unit; None in a run without it.
        similar: units by likeness to the picture, as neighbourhoods are.
    """
    tests = answers.tests(query).assign(support=answers.scores(query)[SUPPORT])
    units = tests.sort_values(["q", "support"], ascending=[True, False], kind="stable")
    if (units.q <= answers.level).any():
        return _unit(units, kind, passes=True)
    sets = answers.sets(query).assign(kind=lambda rows: rows.set.str.partition(":")[0])
    named = sets[sets.kind != NEAREST].sort_values(["q", "z"], ascending=[True, False], kind="stable")
    if (named.q <= answers.level).any():
        equal = named[named.q == named.q.iloc[0]]  # a label may be a column by another name, which says more
        return _set(equal.loc[(equal.kind == "label").sort_values(kind="stable").index], sets, table, similar, 1)
    reached = answers.radius.loc[query].get("resolution", -1)
    if reached > 0:
        return _set(sets[sets.set == f"{NEAREST}:{reached:.0f}"], sets, table, similar, 2)
    return _unit(tests.sort_values("p", kind="stable"), kind, passes=False)


def units_of(name: str, table: pd.DataFrame | None, similar: pd.Index) -> pd.Index:
    """The units of a set, in the order of `similar`; none where nothing says which they are."""
    kind, _, of = name.partition(":")
    if kind == NEAREST:
        return similar[: int(of)]
    if table is None or kind not in table:
        return similar[:0]
    return similar[similar.isin(table.index[table[kind].astype(str) == of])]


def _unit(rows: pd.DataFrame, kind: str, passes: bool) -> Owed:
    best, unit = rows.iloc[0], int(rows.index[0])
    order = (0 if passes else 3, best.q if best.q == best.q else 1.0, -best.support)
    return Owed(kind, str(unit), [unit], best.p, best.q, int(rows.p.count()), passes, order)


def _set(rows: pd.DataFrame, sets: pd.DataFrame, table: pd.DataFrame | None, similar: pd.Index, tier: int) -> Owed:
    best = rows.iloc[0]
    tried = int(sets.p[sets.kind == best.kind].count())
    units = units_of(best.set, table, similar).tolist()
    return Owed(best.kind, best.set, units, best.p, best.q, tried, True, (tier, best.q, -best.z))
