"""Sets of units that are scored after the fact: a label, a cluster, the k nearest. They are padded with -1."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sets_of(partition: Int[Tensor, "units"], queries: int) -> tuple[list[int], Int[Tensor, "sets q size"]]:
    """The sets of a partition by name, in increasing order: the same for all queries."""
    names, which, sizes = torch.unique(partition, return_inverse=True, return_counts=True)
    members = which.argsort(stable=True).split(sizes.tolist())
    padded = torch.nn.utils.rnn.pad_sequence(members, batch_first=True, padding_value=-1)
    return names.tolist(), padded[:, None].expand(-1, queries, -1)


def neighbourhoods(
    similarity: Float[Tensor, "units q"], wanted: Sequence[int]
) -> tuple[list[int], Int[Tensor, "sets q size"]]:
    """The k units most similar to every query, for every k wanted that there are units for; and these k."""
    sizes = [size for size in wanted if size <= len(similarity)]
    nearest = similarity.argsort(0, descending=True)[: max(sizes)].T
    return sizes, torch.stack([torch.where(torch.arange(max(sizes)) < size, nearest, -1) for size in sizes])
