"""Shards of a query set: what a batch of queries costs, in a file, so that what is killed goes on where it stopped.

Processes, on one machine or many, share them: each takes the next that is not there, and that nobody holds.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from ddattr.files import load_tensors, save_tensors
from ddattr.locks import locked

_PER_QUERY = (
    "seeds",
    "factual",
    "rotating_error",
    "pull_spread",
    "replay_error",
    "precision_error",
    "precision_error_exact",
)
_QUERY_DIMENSION = dict.fromkeys(_PER_QUERY, 0)


@dataclass(frozen=True)
class Shards:
    """Files of tensors, a batch of queries each, named by the first of them.

    Args:
        folder: where they lie.
        part: whether this process is one of several: it leaves alone what another holds, and merges nothing itself.
        done: whether somebody has merged them meanwhile: they are gone then, and are not made again.
    """

    folder: Path
    part: bool = False
    done: Callable[[], bool] = lambda: False

    def make(self, numbers: Int[Tensor, "q"], answers: Callable[[], dict[str, Tensor]]) -> bool:
        """Makes the shard of these queries, unless it is there; False of one that another part is making."""
        path = self._path(numbers)
        with ExitStack() as held:
            if path.exists():
                return True
            try:
                held.enter_context(locked(path.with_suffix(""), wait=not self.part))
            except BlockingIOError:
                return False
            if not path.exists() and not self.done():
                save_tensors(path, answers())
        return True

    def missing(self, batches: Sequence[Int[Tensor, "_"]]) -> int:
        """How many of these batches have no shard."""
        return sum(not self._path(numbers).exists() for numbers in batches)

    def merged(self, batches: Sequence[Int[Tensor, "_"]]) -> dict[str, Tensor]:
        """Those of these batches, joined over queries in the order of their seeds.

        Raises:
            FileNotFoundError: one is not there: fewer queries would count as all.
        """
        return merge([load_tensors(self._path(numbers)) for numbers in batches])

    def _path(self, numbers: Int[Tensor, "q"]) -> Path:
        return self.folder / f"shard-{int(numbers[0]):08d}.safetensors"


def merge(shards: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Shards joined over queries, in the order of their seeds."""
    order = torch.cat([shard["seeds"] for shard in shards]).argsort()
    joined = {}
    for name in shards[0]:
        dimension = _QUERY_DIMENSION.get(name, 1)
        joined[name] = torch.cat([shard[name] for shard in shards], dimension).index_select(dimension, order)
    return joined
