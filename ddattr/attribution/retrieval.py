"""Is the source of a picture named of which it is known? Held-out pictures of a label, an artist, a folder.

The identical class test, for units and for every kind of set: the place of a picture's own among all of its kind, by
what ranks them, `support` of units and z of sets. It needs no retraining, and is no truth of what a picture owes: one
artist's picture may well owe itself to another's. Beside it stands what the nearest unit says, which takes no model.
Source: Hanawa et al. 2021, Evaluation of similarity-based explanations, arXiv 2006.04528.
"""

from collections.abc import Callable, Mapping

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.attribution.agreement import wilson
from ddattr.attribution.significance import benjamini_hochberg

COLUMNS = ["query", "kind", "own", "rank", "among", "z", "p_value", "q_value", "nearest"]


def retrieval(
    known: Mapping[str, Int[Tensor, "q"]],
    z: Float[Tensor, "units q"],
    p: Float[Tensor, "units q"],
    support: Float[Tensor, "units q"],
    queries: Int[Tensor, "q"],
    sets: pd.DataFrame,
    partitions: Mapping[str, Int[Tensor, "units"]],
    distance: Float[Tensor, "units q"],
    named: Callable[[str, int], str],
) -> pd.DataFrame:
    """A row a query and kind of which its own is known; `nearest` is whether the most similar unit is it, or of it.

    Args:
        known: by kind, `unit` or one of sets, the number of every query's own; -1 where it is not known.
        queries: their numbers.
        sets: set, query, z, p_value, q_value of all sets.
        partitions: by kind the set of every unit.
        distance: of units from pictures.
        named: a kind and a number in words, as `sets` has it behind `kind:`.
    """
    frames, nearest = [], distance.argmin(0)
    for kind, own in known.items():
        right = (nearest if kind == "unit" else partitions[kind][nearest]) == own
        if kind == "unit":
            table = of_units(own, z, p, support, queries)
        else:
            names = {q: named(kind, of) for q, of in zip(queries.tolist(), own.tolist(), strict=True) if of >= 0}
            table = of_sets(kind, names, sets)
        frames.append(table.assign(nearest=right[own >= 0].numpy()))
    return pd.concat(frames, ignore_index=True)


def of_units(
    own: Int[Tensor, "q"],
    z: Float[Tensor, "units q"],
    p: Float[Tensor, "units q"],
    support: Float[Tensor, "units q"],
    queries: Int[Tensor, "q"],
) -> pd.DataFrame:
    """A row a query whose unit is known: the place of its own by support, and its test.

    Args:
        own: unit of every query; -1 where it is not known.
        queries: their numbers.
    """
    known = (own >= 0).nonzero()[:, 0]
    place = own[known], known
    rank = 1 + (support[:, known] > support[place]).sum(0)
    columns = {"rank": rank, "z": z[place], "p_value": p[place], "q_value": benjamini_hochberg(p)[place]}
    return pd.DataFrame(
        {"query": queries[known].numpy(), "kind": "unit", "own": list(map(str, own[known].tolist()))}
        | {name: values.numpy() for name, values in columns.items()}
    ).assign(among=len(z))[COLUMNS[:-1]]


def of_sets(kind: str, own: Mapping[int, str], sets: pd.DataFrame) -> pd.DataFrame:
    """A row a query whose set of a kind is known: the place of its own by z, and its test.

    Args:
        own: by query the name of its set, as `sets` has it behind `kind:`.
        sets: set, query, z, p_value, q_value of all sets.
    """
    table = sets[sets.set.str.startswith(f"{kind}:") & sets["query"].isin(list(own))].copy()
    table["rank"] = table.groupby("query").z.rank(method="min", ascending=False).astype(int)
    table["among"] = table.groupby("query").z.transform("size")
    table["own"] = table["query"].map(own)
    mine = table[table.set == f"{kind}:" + table.own]
    return mine.assign(kind=kind)[COLUMNS[:-1]].sort_values("query", ignore_index=True)


def summarise(table: pd.DataFrame, level: float) -> pd.DataFrame:
    """A row a kind: how often the own comes first, with its 95 % interval; how often the nearest unit is of it, and how
    often it would be first by chance; how often it passes.

    Args:
        level: at which q passes.
    """
    rows = []
    for kind, part in table.groupby("kind", sort=False):
        first = (part["rank"] == 1).mean()
        low, high = wilson(first, len(part))
        rows.append(
            {"kind": kind, "queries": len(part), "first": first, "low": low, "high": high}
            | {
                "nearest": part.nearest.mean(),
                "chance": (1 / part.among).mean(),
                "passes": (part.q_value <= level).mean(),
            }
        )
    return pd.DataFrame(rows)


def said(summary: pd.DataFrame) -> list[str]:
    """The same in words, a line a kind."""
    return [
        f"the own {row.kind} comes first for {row.first * row.queries:.0f} of {row.queries} queries, "
        f"{row.first:.2f} [{row.low:.2f}, {row.high:.2f}] (by the nearest alone {row.nearest * row.queries:.0f}, by "
        f"chance {row.chance * row.queries:.1f}), and passes for {row.passes * row.queries:.0f}"
        for row in summary.itertuples()
    ]
