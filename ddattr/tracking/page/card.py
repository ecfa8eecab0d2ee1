"""The card of one picture: what it owes itself to, what it would be without, and how sure that is, in plain words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from ddattr.attribution.places import DEFAULT
from ddattr.codebook import RANDOM
from ddattr.data.datamodule import UnitDataModule
from ddattr.files import load_json, load_table
from ddattr.tracking.page.answers import Answers
from ddattr.tracking.page.listed import Nearest
from ddattr.tracking.page.owed import Owed, owed
from ddattr.tracking.page.pictures import drawn, small
from ddattr.tracking.page.plain import Told, name_of, words
from ddattr.tracking.page.without import Without, without

PICTURES = 6  # training pictures of a card, at most


class Card(NamedTuple):
    """What the page shows of a query before it shows numbers.

    Args:
        address: where the explorer has what it owes itself to.
        rows: training pictures, of the data.
        lucky: whether nothing was found, or such a thing for no more of the queries than luck would find it for.
        amplified: how many times as strong the change is where it is shown alone.
        words: text, by the element that shows it.
    """

    address: str
    owed: Owed
    rows: list[int]
    without: Without | None
    lucky: bool
    amplified: int
    words: dict[str, str]


class Drawn(NamedTuple):
    """A card's pictures as what an img shows."""

    picture: str
    pictures: list[str]
    without: str
    change: str


class Cards:
    """Cards of a run's queries, in `sets` by query set.

    Args:
        validated: whether the run has been compared with retraining.
    """

    def __init__(self, root: Path, data: UnitDataModule, answers: Mapping[str, Answers], validated: bool):
        path = root / "units.parquet"
        self._table = load_table(path).set_index("unit") if path.exists() else None
        self._kind: str = (load_json(root / "codebook" / "codebook.json") or {})["unit"]
        self._data, self._nearest, self._validated = data, Nearest(data), validated
        self.sets = {name: self._cards(name, given) for name, given in answers.items()}

    def first(self, answers: Answers, name: str = DEFAULT) -> tuple[Card, Drawn]:
        """The surest of a set, which is shown first, and its pictures, for a page that runs no script."""
        place = surest(self.sets[name])
        card, picture = self.sets[name][place], answers.factual[place]
        moved = torch.zeros_like(picture) if card.without is None else card.without.moved
        training = [drawn(one) for one in small(self._data.images[torch.tensor(card.rows, dtype=torch.long)])]
        return card, Drawn(drawn(picture), training, drawn(picture + moved), drawn(card.amplified * moved))

    def _cards(self, name: str, answers: Answers) -> list[Card]:
        near = self._data.distance(answers.factual).argsort(dim=0, stable=True)  # as neighbourhoods are
        return [self._card(name, answers, place, near[:, place]) for place in range(len(answers.names))]

    def _card(self, name: str, answers: Answers, place: int, near: Int[Tensor, "units"]) -> Card:
        query = answers.names[place]
        found = owed(answers, query, self._kind, self._table, pd.Index(near.numpy()))
        rows = self._rows(found.units if found.passes else near[:PICTURES].tolist())
        shown = rows[self._nearest.among(rows, answers.factual[place], PICTURES)].tolist()
        moved = without(answers, place, found.units) if found.passes else None
        amplified = 1 if moved is None else _amplified(moved.moved)
        row, codebook = answers.queries.loc[query], answers.codebook
        told = Told(
            query=answers.called[query],
            origin="given" if "jvp_error" not in row else "again" if "replay_error" in row else "drawn",
            unlike=bool(row.get("unlike_data", False)),
            name=self._name(found),
            pictures=len(rows),
            shown=len(shown),
            kinds=answers.sets(query).set.str.partition(":")[0].unique().tolist(),
            members=codebook.members,
            unseen=codebook.members - codebook.weight,
            level=answers.level,
            found=answers.found(found.kind if found.unit is None else None),
            asked=len(answers.names),
            validated=self._validated,
            p_by="" if codebook.design == RANDOM else codebook.p_by,
        )
        address = f"#/{name}/{query}/{found.item}"
        return Card(
            address,
            found,
            shown,
            moved,
            told.lucky or not found.passes,
            amplified,
            words(found, told, moved, amplified),
        )

    def _rows(self, units: list[int]) -> Int[Tensor, "rows"]:
        return torch.cat([self._nearest.rows(unit) for unit in units] or [torch.zeros(0, dtype=torch.long)])

    def _name(self, found: Owed) -> str:
        named = None if self._table is None or found.unit is None else str(self._table["name"][found.unit])
        return name_of(found, named, self._kind)


def surest(cards: Sequence[Card]) -> int:
    """The place of the card that is shown first: the surest of those that luck would not find as often, if any are."""
    return min(range(len(cards)), key=lambda place: (cards[place].lucky, cards[place].owed.order))


def _amplified(moved: Tensor) -> int:
    """The largest power of two, up to 64, that leaves all but a fiftieth of it within what can be shown."""
    most = float(np.quantile(moved.abs().numpy(), 0.98))
    return next(times for times in (64, 32, 16, 8, 4, 2, 1) if times * most <= 1 or times == 1)
