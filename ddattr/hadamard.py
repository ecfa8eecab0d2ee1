"""Hadamard matrices: square, of 1 and -1, every two rows orthogonal. The words of a weighing design.

By Sylvester for powers of two, by Paley's two constructions over a prime q, and by doubling. Up to 1,024 that is most
multiples of four; 52, 92 and 100 are among those that take prime powers or a search, and are left out.
Source: Paley 1933, On orthogonal matrices; Hotelling 1944, Some improvements in weighing and other experimental
techniques.
"""

from functools import cache

import numpy as np
from jaxtyping import Int


def exists(order: int) -> bool:
    """Whether `hadamard` makes one of that order."""
    return order in (1, 2) or (
        order >= 4 and order % 4 == 0 and (_of_one(order) or _of_two(order) or exists(order // 2))
    )


def hadamard(order: int) -> Int[np.ndarray, "order order"]:
    """A Hadamard matrix whose first row and column are ones: every other row has as many 1 as -1.

    Raises:
        ValueError: no construction here has that order.
    """
    if not exists(order):
        raise ValueError(f"hadamard: order={order}, expected 1, 2, or a multiple of 4 that is made here.")
    found = _made(order)
    found = found * found[0]
    return found * found[:, :1]


def _made(order: int) -> np.ndarray:
    from scipy.linalg import hadamard as sylvester  # slow to import, and little needs it

    if order & (order - 1) == 0:
        return sylvester(order)
    if _of_one(order):
        jacobsthal = _jacobsthal(order - 1)
        skew = np.block(
            [[np.zeros((1, 1), int), np.ones((1, order - 1), int)], [-np.ones((order - 1, 1), int), jacobsthal]]
        )
        return skew + np.eye(order, dtype=int)
    if _of_two(order):
        half = order // 2
        ones = np.ones((half - 1, 1), int)
        conference = np.block([[np.zeros((1, 1), int), ones.T], [ones, _jacobsthal(half - 1)]])
        return np.kron(conference, [[1, 1], [1, -1]]) + np.kron(np.eye(half, dtype=int), [[1, -1], [-1, -1]])
    return np.kron([[1, 1], [1, -1]], _made(order // 2))


def _jacobsthal(prime: int) -> np.ndarray:
    """Quadratic characters of differences: 0 on the diagonal, 1 where i - j is a square, else -1."""
    character = np.full(prime, -1)
    character[np.arange(prime) ** 2 % prime] = 1
    character[0] = 0
    return character[np.subtract.outer(np.arange(prime), np.arange(prime)) % prime]


def _of_one(order: int) -> bool:
    """Paley's first: q + 1, q = 3 mod 4."""
    return order % 4 == 0 and _prime(order - 1)


def _of_two(order: int) -> bool:
    """Paley's second: 2 (q + 1), q = 1 mod 4."""
    return order % 4 == 0 and (order // 2 - 1) % 4 == 1 and _prime(order // 2 - 1)


@cache
def _prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))
