"""Conditions: what pictures are to be of, and how strongly a denoiser heeds that (classifier-free guidance)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval
from jaxtyping import Bool, Int
from torch import Tensor

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, eq=False)
class Given:
    """The condition of every query, and how a network is asked under it.

    Args:
        condition: a row a query: class numbers (q,), or embeddings (q, tokens, d).
        null: the row of no condition; None where networks were not trained on any.
        guidance: g of null + g (conditional - null). At 1 the null is not asked: that is no guidance, to the bit.
    Raises:
        ValueError: guidance without a null.
    Source: Ho & Salimans 2022, arXiv 2207.12598, eq. 6 with g = 1 + w.
    """

    condition: Tensor
    null: Tensor | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.null is None and self.guidance != 1:
            raise ValueError(
                f"conditions: guidance={self.guidance:g} needs a null condition, and conditions.dropout=0 trains none. "
                "Set conditions.guidance=1, or conditions.dropout=0.1 and train anew."
            )

    def __len__(self) -> int:
        return len(self.condition)

    def at(self, queries: Tensor | slice) -> "Given":
        """That of some queries, by their places or a mask; a place may come more than once."""
        return Given(self.condition[queries], self.null, self.guidance)

    def estimate(self, network: Callable[..., Tensor], x: Tensor, t: int) -> Tensor:
        """What a network says of pictures, each under the condition of its row: affine in its two estimates."""
        condition = self.condition.to(x if self.condition.is_floating_point() else x.device)
        estimate = network(x, t, condition)
        if self.null is None or self.guidance == 1:
            return estimate
        without = network(x, t, self.null.to(condition).expand_as(condition))
        return without + self.guidance * (estimate - without)


class Classes:
    """Labels as conditions: every network has an embedding of each, and one of the null.

    Args:
        labels: of the training pictures; those that occur are the classes, in increasing order.
        named: a label in words.
        dropout: share of the pictures of a training step that are shown without their label, under the null.
        guidance: of sampling, and wherever members are asked: 1 is none, more exaggerates the label.
        queries: labels of the run's own queries, in turn, null for none; None: all, query after query.
    Raises:
        ValueError: pictures without labels, guidance without a null condition, or queries of no such label.
    """

    def __init__(
        self,
        labels: Int[Tensor, "images"] | None,
        named: Callable[[int], str],
        dropout: Annotated[float, Interval(ge=0, le=1)] = 0.1,
        guidance: Annotated[float, Ge(0)] = 1.0,
        queries: Sequence[str | int | None] | None = None,
    ):
        if labels is None or (labels < 0).any():
            few = "no picture" if labels is None else f"{int((labels >= 0).sum())} of {len(labels)} pictures"
            raise ValueError(
                f"conditions: {few} of the data has a label, expected all. Take data with labels, or leave out "
                "conditions."
            )
        self.values = labels.unique()
        self.names = [named(value) for value in self.values.tolist()]
        self.null = len(self.names)
        self.dropout = dropout
        self.guidance = guidance
        self.labels = self.of_labels(labels)
        self.queries = queries
        _ = self.given(self.labels[:0]), self.of_seeds([0], queries, "conditions.queries")

    def of_labels(self, labels: Int[Tensor, "some"]) -> Int[Tensor, "some"]:
        """Class numbers of labels; the null of those that no training picture has."""
        place = torch.searchsorted(self.values, labels).clamp_max(self.null - 1)
        return torch.where(self.values[place] == labels, place, self.null)

    def shown(self, images: Int[Tensor, "batch"], dropped: Bool[Tensor, "batch"]) -> Int[Tensor, "batch"]:
        """What training pictures are shown under."""
        return torch.where(dropped, self.null, self.labels[images])

    def like_data(self, count: int) -> Int[Tensor, "count"]:
        """Class numbers of pictures that compare with the data as a whole, each as often as there."""
        return self.labels[spread(count, len(self.labels))]

    def of_seeds(
        self, seeds: Sequence[int], wanted: Sequence[Any] | None = None, key: str = "queries.conditions"
    ) -> Int[Tensor, "q"]:
        """Class numbers of generated queries.

        Args:
            wanted: labels by name, taken in turn; None: that of a seed is its own number's, whatever else is asked.
            key: of the config, to name it when a label is unknown.
        """
        if wanted is None:
            return torch.tensor([seed % self.null for seed in seeds])
        return self.in_turn(wanted, len(seeds), key)

    def in_turn(self, wanted: Sequence[Any], count: int, key: str = "queries.conditions") -> Int[Tensor, "count"]:
        """Class numbers of labels by name, over and over; None is the null.

        Raises:
            ValueError: no such label, none at all, or a null that nothing was trained on.
        """
        group, _, name = key.partition(".")
        known = {label: number for number, label in enumerate(self.names)} | (
            {} if not self.dropout else {None: self.null}
        )
        if not wanted:
            raise ValueError(f"{group}: {name}=[], expected one label or more. Set {key}, or leave it out.")
        for one in wanted:
            if (one if one is None else str(one)) not in known:
                listed = [*self.names[:12], *(["..."] if len(self.names) > 12 else [])]
                null = "or null" if self.dropout else "and no null, which conditions.dropout=0 trains nothing on"
                said = "null" if one is None else one
                raise ValueError(
                    f"{group}: {name}={said}, expected labels of the training pictures, {', '.join(listed)}, {null}. "
                    f"Set {key}."
                )
        numbers = [known[one if one is None else str(one)] for one in wanted]
        return torch.tensor([numbers[place % len(numbers)] for place in range(count)])

    def given(self, numbers: Int[Tensor, "q"]) -> Given:
        """Class numbers as what networks are asked under."""
        return Given(numbers, torch.tensor(self.null) if self.dropout else None, self.guidance)

    def words(self, numbers: Int[Tensor, "q"]) -> list[str]:
        """Class numbers as tables have them; the null is `none`."""
        return [[*self.names, "none"][number] for number in numbers.tolist()]

    def unseen(self, owned: Iterable[Bool[Tensor, "images"]]) -> list[str]:
        """What to know of members that own no picture of a label: a line, or none.

        Args:
            owned: of every member, the pictures that it may see.
        """
        lacking = {}
        for member, mask in enumerate(owned):
            seen = set(self.labels[mask].tolist())
            if missing := [name for number, name in enumerate(self.names) if number not in seen]:
                lacking[member] = missing
        if not lacking:
            return []
        member, labels = next(iter(lacking.items()))
        many = ", ..." if len(labels) > 4 else ""
        return [
            f"{len(lacking)} members have no picture of a label that they are asked under (member {member} none of "
            f"{', '.join(labels[:4])}{many}): what they say there, no picture of theirs has taught them."
        ]


def spread(count: int, pictures: int) -> Int[Tensor, "count"]:
    """Places of pictures by multiples of the golden section: any stretch of them is spread over all."""
    return ((torch.arange(count, dtype=torch.float64) * _GOLDEN).frac() * pictures).long()
