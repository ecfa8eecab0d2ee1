"""Whose pictures: the page's first section, from attributions.parquet: per query the units that pass, with names."""

import base64
import html
import io
from pathlib import Path

import matplotlib.image
import pandas as pd
from torch import Tensor

from ddattr.artifacts import load_table, load_tensors
from ddattr.attribution.queries import default_folder
from ddattr.tracking.figures.words import q_of
from ddattr.tracking.units import unit_names

NO_SHARES = (
    "Why no shares that sum to 100 %? Effects of units do not add up: removing two near-duplicates together does what "
    "neither does alone. A picture owes much to all units together that no single one can be charged with, and the "
    "effects of most single units are below the noise of one training seed. A normalised score hides all of that. So "
    "ddattr says which units pass a test, how sure that is, and in which order to rank them."
)
_FIRST = 5  # units of a query that are seen before one clicks


def attributed(root: Path) -> str:
    """HTML of the section; nothing in a run without the table."""
    path = default_folder(root) / "attributions.parquet"
    if not path.exists():
        return ""
    table, name = load_table(path), unit_names(root)
    level = load_table(default_folder(root) / "radius.csv").level.iloc[0]
    stored = load_tensors(default_folder(root) / "queries.safetensors")
    pictures = dict(zip(stored["seeds"].tolist(), stored["factual"], strict=True))
    lines = []
    for query, rows in table.sort_values(["query", "rank"]).groupby("query"):
        units = [_unit(name(row.unit), row) for row in rows.itertuples()]
        lines.append(f"<tr><td>{_picture(pictures[query])}</td><td>query {query}</td><td>{_folded(units)}</td></tr>")
    none = [query for query in pictures if query not in set(table["query"])]
    found = f"<table class='whose'>{''.join(lines)}</table>" if lines else ""
    return (
        f'<h2 id="whose">Whose pictures</h2><p>Units that pass the test at q ≤ {level:g}, by rank among all units. '
        f"{html.escape(_none(none, len(pictures)))}</p>{found}<p class='note'>{html.escape(NO_SHARES)}</p>"
    )


def surest(root: Path) -> str:
    """The query and unit of smallest q among those that pass; nothing where none does, or without the table."""
    path = default_folder(root) / "attributions.parquet"
    table = load_table(path) if path.exists() else pd.DataFrame()
    if table.empty:
        return ""
    row = table.sort_values(["q_value", "rank"]).iloc[0]
    return f" (surest: query {row['query']:.0f} to {unit_names(root)(int(row.unit))}, {q_of(row.q_value)})"


def _none(queries: list[int], count: int) -> str:
    """Queries without any unit that passes, in a sentence."""
    if not queries:
        return f"Each of the {count} queries has one."
    if len(queries) == count:
        return f"No single unit passes for any of the {count} queries."
    return f"No single unit passes for {len(queries)} of {count} queries: {', '.join(map(str, queries))}."


def _unit(name: str, row) -> str:
    said = f"rank {row.rank}, {q_of(row.q_value)}, z = {row.z:.1f}"
    return f"<li>{html.escape(name)} <small>{html.escape(said)}</small></li>"


def _folded(units: list[str]) -> str:
    """The first units, and the others behind a click."""
    more = units[_FIRST:]
    rest = f"<details><summary>{len(more)} more</summary><ul>{''.join(more)}</ul></details>" if more else ""
    return f"<ul>{''.join(units[:_FIRST])}</ul>{rest}"


def _picture(picture: Tensor) -> str:
    """A picture as an HTML image, a pixel a pixel; the page enlarges it."""
    pixels = ((picture.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).expand(-1, -1, 3).numpy()
    with io.BytesIO() as file:
        matplotlib.image.imsave(file, pixels, format="png")
        return f'<img alt="query" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
