"""Sets that units fall into, kind by kind: made when they are asked for, and then kept. Clusters are dear."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from jaxtyping import Int
from torch import Tensor


class Partitions(Mapping[str, Tensor]):
    """By kind of set (`label`, `cluster`, a column) the number of every unit's set, (units,).

    Args:
        kinds: that there are, in order.
        make: a kind's, asked once.
    """

    def __init__(self, kinds: Iterable[str], make: Callable[[str], Int[Tensor, "units"]]):
        self._kinds = tuple(kinds)
        self._make = make
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, kind: str) -> Tensor:
        if kind not in self._kinds:
            raise KeyError(kind)
        if kind not in self._made:
            self._made[kind] = self._make(kind)
        return self._made[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self._kinds

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)
