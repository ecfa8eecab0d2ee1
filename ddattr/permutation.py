"""A seeded permutation of any range, evaluated at any index, and the words of a weight in their order.

Together they give unit i its codeword, without a table: the word whose rank is permutation(i). All is of integers, and
exact; beyond 64 bits Python's own take over.
"""

from hashlib import blake2b
from math import comb

import numpy as np


def permute(index: np.ndarray, size: int, key: int | np.ndarray) -> np.ndarray:
    """Pseudo-random permutation of range(size) chosen by `key`, evaluated at any index; broadcasts index and key.

    A Feistel network of 8 rounds on the next even number of bits; values past `size` are permuted again until they
    fall inside (cycle walking), under 4 rounds on average.
    Source: Black & Rogaway 2002, Ciphers with arbitrary finite domains.
    """
    bits = max(1, ((size - 1).bit_length() + 1) // 2)
    if integers(size) is object:
        walk = np.frompyfunc(lambda index, key: _walk(index, key, size, bits), 2, 1)
        return np.array(walk(index, np.asarray(key, np.uint64)), object)
    half = np.uint64(bits)
    index, key = np.broadcast_arrays(np.asarray(index, np.uint64), np.asarray(key, np.uint64))
    keys = key.reshape(-1)  # an array without dimensions would turn into a scalar
    value = _feistel(index.reshape(-1), keys, half)
    while (outside := value >= size).any():
        value[outside] = _feistel(value[outside], keys[outside], half)
    return value.reshape(index.shape)


def unrank(rank: np.ndarray, members: int, weight: int) -> np.ndarray:
    """Bits (*rank, members) of the words with `weight` ones, in increasing order of their value sum_k bit_k 2^k.

    The inverse of the combinatorial number system: of the words with c ones in the bits up to k, the first C(k, c) have
    a 0 at bit k.
    """
    kind = integers(comb(members, members // 2))
    shape, rank = rank.shape, rank.astype(kind).reshape(-1)  # a copy
    left, ones = np.full(rank.shape, weight), np.arange(weight + 1)
    binomials = np.array([comb(members, k) for k in ones.tolist()], object)
    bits = np.empty((members, len(rank)), bool)
    for bit in reversed(range(members)):
        binomials = binomials * (bit + 1 - ones) // (bit + 1)  # C(bit, k) from C(bit + 1, k)
        below = binomials.astype(kind)[left]
        bits[bit] = take = rank >= below
        rank -= below * take
        left -= take
    return np.ascontiguousarray(bits.T).reshape(*shape, members)


def integers(size: int) -> type:
    """What counts to `size` exactly: 64-bit words, signed or not, as long as they can; else Python's integers."""
    return np.uint64 if size <= 2**63 else object


def mix(word: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014): every bit of the input moves every bit of the output."""
    word = (word ^ word >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ word >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return word ^ word >> np.uint64(31)


def _feistel(value: np.ndarray, keys: np.ndarray, half: np.uint64) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    keys = mix(keys)
    for _ in range(8):
        keys = keys + np.uint64(0x9E3779B97F4A7C15)
        left, right = right, left ^ (mix(keys ^ (right * np.uint64(0xD6E8FEB86659FD93))) & mask)
    return left << half | right


def _walk(value: int, key: int, size: int, half: int) -> int:
    """`permute` of one index beyond 64 bits: the same network, with a hash for `mix`."""
    mask, rounds = (1 << half) - 1, [key.to_bytes(8, "little") + bytes([r]) for r in range(8)]
    while True:
        left, right = value >> half, value & mask
        for suffix in rounds:
            mixed = blake2b(right.to_bytes(64, "little") + suffix).digest()
            left, right = right, left ^ (int.from_bytes(mixed, "little") & mask)
        value = left << half | right
        if value < size:
            return value
