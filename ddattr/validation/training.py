"""A model of the ground truth, and the units that it lacks."""

import hashlib
from typing import NamedTuple

from jaxtyping import Bool
from torch import Tensor


class Training(NamedTuple):
    """A model of the ground truth. `units` (N,) are those it may see; `member` names whose draws, None the common."""

    name: str
    units: Tensor
    member: int | None = None
    replicate: int = 0


def digest(removed: Bool[Tensor, "units"]) -> str:
    """A name for a set of units: how many, and a digest of which."""
    return f"{int(removed.sum()):04d}-{hashlib.sha256(removed.numpy().tobytes()).hexdigest()[:12]}"
