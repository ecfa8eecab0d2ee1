"""The query sets of a run, side by side: a line each."""

from pathlib import Path

import pandas as pd

from ddattr.attribution.methods import FUNCTIONAL, TESTED
from ddattr.attribution.places import query_sets
from ddattr.attribution.retrieval import said as retrieved
from ddattr.files import load_table
from ddattr.tracking.figures.words import q_of


def compared(root: Path) -> list[str]:
    """A line for every query set, where there are several."""
    sets = query_sets(root)
    if len(sets) < 2:
        return []
    return [f"query set {name}: {line}" for name, folder in sets.items() for line in (_found(folder), *_named(folder))]


def said(folder: Path) -> list[str]:
    """What a set says: what it found, and how well inverted pictures are replayed."""
    queries = load_table(folder / "queries.csv")
    return [_found(folder), *_named(folder), *_inverted(queries)]


def said_of_functional(folder: Path) -> str:
    """What a functional says: its name, what it found, and how far its first order is from exact ablation."""
    queries = load_table(folder / "queries.csv")
    return (
        f"{queries.functional[0]}: {_found(folder, FUNCTIONAL)}; first order off by "
        f"{queries.first_order_error.median():.2f} of what exact ablation changes (median)"
    )


def _found(folder: Path, method: str = TESTED) -> str:
    """How many queries have a unit that passes, how sure the surest is, and which are like no training picture."""
    queries, radius = (load_table(folder / f"{name}.csv") for name in ("queries", "radius"))
    influence = load_table(folder / "influence.parquet")
    tested = influence[(influence.method == method) & (influence.measure == "pull")]
    unlike = queries.name[queries.unlike_data].tolist()
    many = ", ..." if len(unlike) > 4 else ""
    return (
        f"{len(queries)} queries, {int(radius.attributable.sum())} with a unit that passes at q <= "
        f"{radius.level.iloc[0]:g} (smallest {q_of(tested.q_value.min())}); {len(unlike)} unlike the data"
        + (f": {', '.join(unlike[:4])}{many}" if unlike else "")
    )


def _named(folder: Path) -> list[str]:
    """How often the source is named of pictures of which it is known."""
    path = folder / "retrieval_summary.csv"
    return retrieved(load_table(path)) if path.is_file() else []


def _inverted(queries: pd.DataFrame) -> list[str]:
    if "replay_error" not in queries:
        return []
    return [
        f"inverted: replayed to within {queries.replay_error.max():.1e} at every pixel (-1 to 1); between inversions "
        f"the first-order pull differs by {queries.pull_spread.median():.2f} of its size (median over queries)"
    ]
