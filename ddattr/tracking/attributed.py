"""Whose pictures: the units that pass, by name, from attributions.parquet; for the summary and the page."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ddattr.attribution.places import default_folder, functionals, query_sets, shown_in
from ddattr.files import load_table, load_tensors
from ddattr.tracking.figures.words import q_of
from ddattr.tracking.page.pictures import drawn
from ddattr.tracking.units import unit_names

NO_SHARES = (
    "Why no shares that sum to 100 %? Effects of units do not add up: removing two near-duplicates together does what "
    "neither does alone. A picture owes much to all units together that no single one can be charged with, and the "
    "effects of most single units are below the noise of one training seed. A normalised score hides all of that. So "
    "ddattr says which units pass a test, how sure that is, and in which order to rank them."
)
_TABLE = "attributions.parquet"
_COLUMNS = ("query", "unit", "rank", "p_value", "q_value", "z", "support")


class Owing(NamedTuple):
    """A query, its picture as what an img shows, and its units: name, and rank, q and z in words."""

    query: str
    picture: str
    units: list[tuple[str, str]]


class Attributed(NamedTuple):
    """A query set, or a functional of one: its queries with units that pass, and a sentence on the others."""

    name: str
    level: float
    owing: list[Owing]
    others: str


def attributed(root: Path) -> list[Attributed]:
    """Every query set that has the table, and behind it the functionals that it was asked."""
    found = []
    for name, folder in query_sets(root).items():
        if (folder / _TABLE).exists():
            found.append(_attributed(root, name, folder, folder))
        for asked in functionals(folder):
            of = f"{name}, {load_table(asked / 'queries.csv').functional[0]}"
            found.append(_attributed(root, of, asked, folder))
    return found


def _attributed(root: Path, name: str, folder: Path, of: Path) -> Attributed:
    """What lies in a folder, of the queries of the set in `of`."""
    table, unit, called = passing(folder), unit_names(root), query_names(folder)
    stored = load_tensors(shown_in(of))
    pictures = dict(zip(stored["seeds"].tolist(), stored["factual"], strict=True))
    owing = [
        Owing(called[query], drawn(pictures[query]), [(unit(row.unit), _said(row)) for row in rows.itertuples()])
        for query, rows in table.sort_values(["query", "rank"]).groupby("query")
    ]
    none = [str(query) for query in pictures if query not in set(table["query"])]
    level = load_table(folder / "radius.csv").level.iloc[0]
    return Attributed(name, level, owing, _none(none, len(pictures)))


def passing(folder: Path) -> pd.DataFrame:
    """The units that pass, of a query set's folder; an empty table in a run without it."""
    path = folder / _TABLE
    return load_table(path) if path.exists() else pd.DataFrame(columns=_COLUMNS)


def query_names(folder: Path) -> dict[int, str]:
    """What a query set's queries are called: their files or, without a column of names, their seeds."""
    table = load_table(folder / "queries.csv")
    named = table["name"] if "name" in table else [f"seed {query}" for query in table["query"]]
    return dict(zip(table["query"].tolist(), map(str, named), strict=True))


def surest(root: Path) -> str:
    """The query and unit of smallest q among those that pass; nothing where none does, or without the table."""
    table = passing(default_folder(root))
    if table.empty:
        return ""
    row = table.sort_values(["q_value", "rank"]).iloc[0]
    return f" (surest: query {row['query']:.0f} to {unit_names(root)(int(row.unit))}, {q_of(row.q_value)})"


def _none(queries: list[str], count: int) -> str:
    """Queries without any unit that passes, in a sentence."""
    if not queries:
        return f"Each of the {count} queries has one."
    if len(queries) == count:
        return f"No single unit passes for any of the {count} queries."
    return f"No single unit passes for {len(queries)} of {count} queries: {', '.join(queries)}."


def _said(row) -> str:
    return f"rank {row.rank}, {q_of(row.q_value)}, z = {row.z:.1f}"
