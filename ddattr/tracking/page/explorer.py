"""What the script of the page draws, as plain containers: query sets, their queries, and the units listed of each."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from torch import Tensor

from ddattr.attribution.methods import label_of
from ddattr.codebook import RANDOM, Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.files import load_json, load_table
from ddattr.tracking.page import listed, pictures
from ddattr.tracking.page.answers import Answers
from ddattr.tracking.page.card import Card, surest
from ddattr.tracking.page.listed import ROOMS, Nearest, Room
from ddattr.tracking.page.owed import units_of


def explorer(
    root: Path,
    name: str,
    data: UnitDataModule,
    answers: Mapping[str, Answers],
    cards: Mapping[str, list[Card]],
    room: int,
) -> Markup:
    """JSON of all query sets, in at most `room` bytes: units are left out until it fits, the weakest first.

    Nothing in it can end the element that it stands in: `<`, `>`, `&` and `'` are escaped.
    """
    code = load_json(root / "codebook" / "codebook.json") or {}
    for sizes in ROOMS:
        found = _Gathered(root, data, sizes)
        content = {
            "run": name,
            "unit": code["unit"],
            "units": code["N"],
            "members": code["n"],
            **({} if code.get("design", RANDOM) == RANDOM else {"p_by": Codebook.of_record(code).p_by}),
            "shape": list(data.shape),
            "sizes": sizes._asdict(),
            "sets": [found.query_set(key, given, cards[key]) for key, given in answers.items()],
            "named": found.named,
            "pictures": found.pictures(),
        }
        text = htmlsafe_json_dumps(content, separators=(",", ":"), allow_nan=False)
        if len(text) <= room:
            break
    return text


class _Gathered:
    """The units and the training pictures that were listed so far, each once."""

    def __init__(self, root: Path, data: UnitDataModule, room: Room):
        path = root / "units.parquet"
        self.table = load_table(path).set_index("unit") if path.exists() else None
        self.room = room
        self.images = data.images
        self.unit_of = data.unit_of
        self.distance = data.distance
        self.nearest = Nearest(data)
        self.named: dict[int, dict[str, Any]] = {}
        self.places: dict[int, int] = {}  # of rows of the data, among the pictures that are shown
        self.files: list[str | None] = []

    def query_set(self, name: str, answers: Answers, cards: list[Card]) -> dict[str, Any]:
        """A query set: how it was asked, its queries and their pictures."""
        near = self.distance(answers.factual).argsort(dim=0, stable=True)  # as neighbourhoods are
        queries = [self._query(answers, place, near[:, place], card) for place, card in enumerate(cards)]
        return {
            "name": name,
            "arguments": _arguments(answers.manifest.get("command") or ""),
            "level": answers.level,
            "first": surest(cards),
            "methods": [{"key": method, "label": label_of(method)} for method in answers.methods],
            "queries": queries,
            "factual": pictures.fine(answers.factual),
        }

    def pictures(self) -> dict[str, Any]:
        """Every training picture that is shown, packed, and its file where it has one."""
        shown = pictures.small(self.images[torch.tensor(list(self.places))])
        return {"shape": list(shown.shape[1:]), "values": pictures.shades(shown), "files": self.files}

    def _query(self, answers: Answers, place: int, near: Tensor, card: Card) -> dict[str, Any]:
        query = answers.names[place]
        scores, tests = answers.scores(query), answers.tests(query)
        units = listed.units(scores, tests, answers.level, self.room, card.owed.unit)
        ranks, known = scores.rank(ascending=False, method="first").loc[units], answers.known_ranks
        factual, similar = answers.factual[place], pd.Index(near.numpy())
        sets = listed.sets(answers.sets(query), answers.level, self.room)
        for unit in units:
            self._name(unit)
        return {
            "query": query,
            **_said(answers, query),
            "card": self._card(card),
            "passing": int((tests.q <= answers.level).sum()),
            "units": units,
            **{key: _numbers(tests.loc[units, key]) for key in ("p", "q", "z")},
            "scores": {method: _numbers(scores.loc[units, method]) for method in answers.methods},
            "ranks": {
                method: [int(rank) if known is None or rank <= known else None for rank in ranks[method]]
                for method in answers.methods
            },
            "pictures": [self._pictures(unit, factual, self.room.pictures) for unit in units],
            "nulls": [answers.null(query, unit) for unit in units],
            "sets": {
                "name": sets.set.tolist(),
                "size": sets["size"].tolist(),
                **{key: _numbers(sets[key]) for key in ("score", "p", "q", "z")},
                "pictures": [
                    [
                        shown
                        for unit in units_of(row.set, self.table, similar)[: self.room.pictures]
                        for shown in self._pictures(unit, factual, 1)
                    ]
                    for row in sets.itertuples()
                ],
            },
            **_moved(answers, place, units, self._moved(units, tests.q <= answers.level, card.owed.unit)),
        }

    def _card(self, card: Card) -> dict[str, Any]:
        """Its picture without a unit is among those that were moved; without a set it is nowhere else."""
        moved = None if card.owed.unit is not None or card.without is None else card.without.moved[None]
        return {
            "sure": card.owed.passes,
            "unit": card.owed.unit,
            "address": card.address,
            "how": None if card.without is None else card.without.how,
            "amplified": card.amplified,
            "pictures": [self._picture(row) for row in card.rows],
            "moved": None if moved is None else pictures.coarse(moved),
            "words": card.words,
        }

    def _moved(self, units: list[int], passing: pd.Series, first: int | None) -> list[int]:
        """Those that there is room for a displacement of: the card's, then what passes, then what does not."""
        return sorted(units, key=lambda unit: (unit != first, not passing[unit]))[: self.room.moved]

    def _name(self, unit: int) -> None:
        if unit not in self.named:
            row = self.table.loc[unit] if self.table is not None else {}
            label = row.get("label")
            self.named[unit] = {
                "name": str(row.get("name", f"unit {unit}")),
                "label": None if label is None else str(label),
                "of": len(self.nearest.rows(unit)),
            }

    def _pictures(self, unit: int, query: Tensor, count: int) -> list[int]:
        """Where the pictures of a unit nearest to a query are, among those shown."""
        rows = self.nearest.rows(unit)
        return [self._picture(row) for row in rows[self.nearest.of(unit, query, count)].tolist()]

    def _picture(self, row: int) -> int:
        """Where a picture of the data is, among those shown."""
        if row not in self.places:
            self.places[row] = len(self.places)
            self.files.append(self._file(row))
        return self.places[row]

    def _file(self, row: int) -> str | None:
        if self.table is None or "files" not in self.table:
            return None
        unit = int(self.unit_of[row])
        place = int((self.nearest.rows(unit) == row).nonzero()[0])
        return str(self.table["files"][unit][place])


def _arguments(command: str) -> list[str]:
    """What a command asked beside a run's own queries."""
    return [word for word in shlex.split(command) if word.startswith("queries.")]


def _said(answers: Answers, query: int) -> dict[str, Any]:
    """What the tables say of a query as a whole, as far as they do."""
    row = answers.queries.loc[query].to_dict() | answers.radius.loc[query].to_dict()
    known = {key: value for key, value in row.items() if value == value}
    return {
        "name": answers.called[query],
        "unlike": bool(known.get("unlike_data", False)),
        "label": None if known.get("label", -1) == -1 else known["label"],
        **{key: known.get(key) for key in ("jvp_error", "replay_error", "pull_spread", "resolution")},
    }


def _moved(answers: Answers, place: int, units: list[int], some: list[int]) -> dict[str, Any]:
    """Displacements of a query: to first order without some units, and exact without any that was replayed."""
    first = answers.first_order(place, answers.codebook.codewords(torch.tensor(some, dtype=torch.long)))
    exact = {unit: moved for unit, moved in answers.exact(place).items() if unit in units}
    stacked = torch.stack(list(exact.values())) if exact else None
    return {
        "first": None if first is None else {"units": some, **pictures.coarse(first)},
        "exact": None if stacked is None else {"units": list(exact), **pictures.coarse(stacked)},
    }


def _numbers(values: pd.Series) -> list[float | None]:
    """With seven digits; None where there is no number."""
    return [None if value != value else float(f"{value:.7g}") for value in values.tolist()]
