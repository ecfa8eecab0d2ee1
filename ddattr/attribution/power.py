"""Power: what an ensemble of another size would resolve, from what one of n members has shown.

z of a unit or set grows as the root of the number of members, the weight growing with it: its signal is fixed, and the
noise of a difference of means falls. Over queries z at n is normal with mean m and variance 1 + t^2, the 1 being its
null's; at n' = r n it has mean m sqrt(r) and variance 1 + t^2 r.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.special import ndtr, ndtri


def expected_power(z: Float[Tensor, "q"], ratio: float, level: float = 0.05) -> float:
    """Share of queries that a one-sided test finds with `ratio` times the members that gave these z."""
    threshold = -ndtri(torch.tensor(level, dtype=torch.float64))
    mean, spread = z.double().mean(), (z.double().var(correction=min(1, len(z) - 1)) - 1).clamp_min(0)
    return ndtr((mean * ratio**0.5 - threshold) / (1 + spread * ratio).sqrt()).item()


def members_needed(z: Float[Tensor, "q"], members: int, level: float = 0.05, power: float = 0.8) -> float:
    """Fewest members n' at which a share `power` of the queries is found; inf where no number of members would do.

    With equal effects it is n ((z_level + z_power) / mean z)^2. Found by bisection: power grows with n' wherever it
    can reach 0.8 at all.

    Args:
        z: of the queries, at `members` members.
    """
    low, high = 0.0, 1e6
    if expected_power(z, high, level) < power:
        return float("inf")
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_power(z, middle, level) < power else (low, middle)
    return members * high
