"""Who trains on what: a constant-weight codeword for every unit, by unranking a seeded permutation.

Nothing is stored. Unit i holds the codeword whose rank is permutation(i); the ranks from N on belong to no unit:
they are the phantoms, the null of every influence score.

Where units are fewer than members, words may be orthogonal instead (`ORTHOGONAL`), a weighing design: rows of a
Hadamard matrix, so that what one unit does is in no other's contrast, and p is a t-test's
(`attribution/regression.py`), not randomisation's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import comb
from typing import Any, Final, Literal, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.hadamard import exists, hadamard
from ddattr.permutation import integers, mix, permute, unrank

MAX_MEMBERS = 1024  # a rank then has 1,024 bits, and `blake2b` gives half of that, as `permute` needs
RANDOM: Final = "random"
ORTHOGONAL: Final = "orthogonal"
Design = Literal["random", "orthogonal"]
FREEDOM = 8  # degrees that a t-test should be left: with 5 it finds less than random words do, with 7 more
_EXACT_DISTANCE = 20_000  # units up to which the minimum distance is exact


@dataclass(frozen=True)
class Codebook:
    """Codewords of `members` bits with `weight` ones for `units` units; member k trains on unit i iff bit (i, k) is 1.

    Orthogonal words are rows of a Hadamard matrix but its first: which rows, which columns are which members, and which
    of a row and its complement a unit holds, is drawn by seed. Their weight is n/2: every removal leaves n/2 members,
    and every contrast has a squared length of 1/n, 1.29 times that of 4/9 at n = 64, so that the ensemble linearises
    less well. No unit holds another's complement, and none ties with it under `norm`. The phantoms are the n - 1 - N
    rows that no unit holds: few, and free of units' effects.

    Args:
        design: `random` words, or `orthogonal` ones, of which there are n - 1.
    Raises:
        ValueError: the size, the weight or the number of units is impossible; says what would be possible.
    Source: Dai & Gifford 2023, arXiv 2306.02174, section 4; figure 1 of the slides. Orthogonal: Hotelling 1944.
    """

    units: int
    members: int
    weight: int
    seed: int = 0
    design: Design = RANDOM

    def __post_init__(self) -> None:
        if not 2 <= self.members <= MAX_MEMBERS:
            raise ValueError(f"codebook: members={self.members}, expected 2 to {MAX_MEMBERS}. Set codebook.members.")
        if not 0 < self.weight < self.members:
            raise ValueError(
                f"codebook: weight={self.weight}, expected 1 to {self.members - 1}: with 0 no member sees a unit, with "
                f"{self.members} none can be removed. Set codebook.weight."
            )
        if self.units < 1:
            raise ValueError(f"codebook: units={self.units}, expected at least 1. Check data.")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"codebook: seed={self.seed}, expected 0 to 2^64 - 1. Set codebook.seed.")
        if self.design == ORTHOGONAL:
            self._check_orthogonal()
        elif self.units > self.capacity:
            members = smallest(self.units)
            suffices = comb(members, self.weight) >= self.units
            remedy = f"{members} or more" if suffices else f"{members} and codebook.weight to {default_weight(members)}"
            raise ValueError(
                f"codebook: {self.units} units need {self.units} distinct codewords, but members={self.members} "
                f"weight={self.weight} allows {self.capacity}. Set codebook.members to {remedy}."
            )

    def _check_orthogonal(self) -> None:
        n, members = self.members, smallest_orthogonal(self.units)
        enough = "Set codebook.design=random." if members is None else f"Set codebook.members to {members} or more."
        if not (n > 2 and exists(n)):
            orders = [k for k in range(max(4, self.units + 2), MAX_MEMBERS + 1) if exists(k)]
            near = [str(k) for k in (*[k for k in orders if k < n][-1:], *[k for k in orders if k > n][:1])]
            if not near:
                near = [f"{RANDOM} words"]
            raise ValueError(
                f"codebook: members={n}, expected {' or '.join(near)} with design=orthogonal: no Hadamard matrix "
                f"of {n} is made here. Set codebook.members."
            )
        if 2 * self.weight != n:
            raise ValueError(
                f"codebook: weight={self.weight}, expected {n // 2} with design=orthogonal, half of members={n}. "
                "Set codebook.weight to null."
            )
        if self.freedom < 1:
            raise ValueError(
                f"codebook: {self.units} units, expected {n - 2} or fewer with design=orthogonal and members={n}: "
                f"their effects leave no degree of freedom to test them by. {enough}"
            )

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Codebook":
        """The codebook that codebook.json describes; an older one has random words, and says nothing of it."""
        if (design := record.get("design", RANDOM)) not in (RANDOM, ORTHOGONAL):
            raise ValueError(
                f"codebook.json: design={design}, expected {RANDOM} or {ORTHOGONAL}. Train the members again."
            )
        return cls(record["N"], record["n"], record["h"], record.get("seed", 0), design)

    @property
    def capacity(self) -> int:
        """Number of codewords: C(n, h) distinct ones, or n - 1 orthogonal ones."""
        return self.members - 1 if self.design == ORTHOGONAL else comb(self.members, self.weight)

    @property
    def freedom(self) -> int:
        """Degrees of freedom that the units' effects and a mean leave of n members: n - 1 - N."""
        return self.members - 1 - self.units

    @property
    def basis(self) -> Bool[Tensor, "units n"] | None:
        """Codewords of all units where they are orthogonal, and p is of their least squares; None where random."""
        return self.codewords(torch.arange(self.units)) if self.design == ORTHOGONAL else None

    @property
    def p_by(self) -> str:
        """What kind of a test p is of."""
        return f"t-test, {self.freedom} degrees of freedom" if self.design == ORTHOGONAL else "randomisation"

    @property
    def rank_by(self) -> str:
        """The same of a score whose null is what it is for words that no unit holds: a length, a loss."""
        return f"rank, {self.phantoms} unused words" if self.design == ORTHOGONAL else self.p_by

    @property
    def phantoms(self) -> int:
        """Number of codewords that no unit holds."""
        return self.capacity - self.units

    @property
    def contrast_variance(self) -> float:
        """Squared length of every contrast: the smaller, the better the ensemble linearises."""
        return contrast_variance(self.weight, self.members)

    def codewords(self, units: Int[Tensor, "*units"]) -> Bool[Tensor, "*units n"]:
        """Codewords of any units, O(n) each, in memory of the asked ones only."""
        index = units.numpy().astype(np.int64)
        if index.size and (index.min() < 0 or index.max() >= self.units):
            wrong = index[(index < 0) | (index >= self.units)][0]
            raise ValueError(f"unit {wrong} does not exist: units are 0 to {self.units - 1}.")
        return self._at(index)

    def phantom_codewords(self, phantoms: Int[Tensor, "*phantoms"]) -> Bool[Tensor, "*phantoms n"]:
        """Codewords of phantoms 0 .. `phantoms` - 1: the ranks past the last unit.

        Those past 2^63, if there are, have no index in a tensor; `sample_phantoms` draws them all the same.
        """
        index = phantoms.numpy().astype(np.int64)
        if index.size and (index.min() < 0 or int(index.max()) >= self.phantoms):
            raise ValueError(
                f"codebook: {self.phantoms} phantoms, too few to draw phantom {index.max()}. "
                f"Set codebook.members higher."
            )
        return self._at(index.astype(integers(self.capacity)) + self.units)

    def sample_phantoms(self, count: int, seed: int = 0) -> Bool[Tensor, "phantoms n"]:
        """All phantoms when there are at most `count`, else `count` distinct ones drawn by seed."""
        if self.phantoms <= count:
            return self.phantom_codewords(torch.arange(self.phantoms))
        return self._at(permute(np.arange(count), self.phantoms, seed) + self.units)

    def subset(self, member: int) -> Bool[Tensor, "units"]:
        """Units that a member trains on: its column."""
        self.check_member(member)
        return self.codewords(torch.arange(self.units))[:, member]

    def contains(self, unit: int, member: int) -> bool:
        """Whether a member trains on a unit."""
        self.check_member(member)
        return bool(self.codewords(torch.tensor([unit]))[0, member])

    def check_units(self, units: Iterable[int]) -> None:
        """Raises ValueError unless all of them are this codebook's: of numbers of any size, which tensors have not."""
        for unit in units:
            if not 0 <= unit < self.units:
                raise ValueError(f"unit {unit} does not exist: units are 0 to {self.units - 1}.")

    def check_member(self, member: Any) -> None:
        """Raises ValueError unless `member` is one of this codebook's."""
        if not (isinstance(member, int) and not isinstance(member, bool) and 0 <= member < self.members):
            raise ValueError(f"member={member} does not exist: members are 0 to {self.members - 1}. Set member.")

    def ablation(self, unit: int) -> Float[Tensor, "n"]:
        """Weights u_-i: uniform over the n - h members that never saw the unit (eq. 9 of the slides)."""
        return ablation(self.codewords(torch.tensor([unit])))[0]

    def contrast(self, unit: int) -> Float[Tensor, "n"]:
        """Weights' change u_-i - u_0 when the unit is removed; sums to 0."""
        return contrast(self.codewords(torch.tensor([unit])))[0]

    def survivors(self, units: Int[Tensor, "units"]) -> Bool[Tensor, "n"]:
        """Members that saw none of the units."""
        return ~self.codewords(units).any(0)

    @cached_property
    def balance(self) -> Int[Tensor, "n"]:
        """Units of every member."""
        blocks = torch.arange(self.units).split(1 << 16)
        return torch.stack([self.codewords(block).sum(0) for block in blocks]).sum(0)

    def distance(self) -> int:
        """Smallest Hamming distance between two codewords; over a sample of 20,000 units when there are more."""
        if self.units < 2:
            raise ValueError("codebook: a distance needs 2 units, this codebook has 1.")
        units = np.arange(self.units)
        if self.units > _EXACT_DISTANCE:
            units = permute(np.arange(_EXACT_DISTANCE), self.units, self.seed).astype(np.int64)
        bits = self.codewords(torch.from_numpy(units)).float()
        overlap = 0.0
        for start in range(0, len(bits), 2048):
            common = bits[start : start + 2048] @ bits.T
            common[torch.arange(len(common)), torch.arange(start, start + len(common))] = -1
            overlap = max(overlap, common.max().item())
        return int(2 * (self.weight - overlap))

    def smallest_q(self) -> float:
        """Smallest Benjamini-Hochberg q-value of a unit that is found alone: N / (1 + phantoms), no more than 1.

        A t-test has none: 0.
        """
        if self.design == ORTHOGONAL:
            return 0.0
        return min(1.0, self.units / (1 + self.phantoms))

    def _at(self, index: np.ndarray) -> Tensor:
        if self.design == ORTHOGONAL:
            return torch.from_numpy(self._rows[index.astype(np.int64)])
        return torch.from_numpy(unrank(permute(index, self.capacity, self.seed), self.members, self.weight))

    @cached_property
    def _rows(self) -> Bool[np.ndarray, "rows n"]:
        """The orthogonal words, of units and then of phantoms."""
        n, rows = self.members, self.members - 1
        keys = mix(mix(np.array([self.seed], np.uint64)) + np.arange(3, dtype=np.uint64))
        order, place = permute(np.arange(rows), rows, int(keys[0])), permute(np.arange(n), n, int(keys[1]))
        complement = mix(keys[2] ^ np.arange(rows, dtype=np.uint64)) & np.uint64(1) == 1
        return (hadamard(n)[1:] > 0)[order][:, place] ^ complement[:, None]


def ablation(codewords: Bool[Tensor, "*units n"]) -> Float[Tensor, "*units n"]:
    """Weights u_-i of codewords: eq. 6 of the slides, normalised by the probability of *not* having seen the unit.

    The slides print the probability of having seen it; only with this one do the weights sum to 1.
    """
    unseen = (~codewords).float()
    return unseen / unseen.sum(-1, keepdim=True)


def contrast(codewords: Bool[Tensor, "*units n"]) -> Float[Tensor, "*units n"]:
    """Contrasts w_i = u_-i - u_0 of codewords: the argument of eq. 11 of the slides."""
    return ablation(codewords) - 1 / codewords.shape[-1]


@overload
def contrast_variance(seen: int, members: int) -> float: ...
@overload
def contrast_variance(seen: Tensor, members: int) -> Tensor: ...
def contrast_variance(seen: int | Tensor, members: int) -> float | Tensor:
    """Squared length h / (n (n - h)) of the contrast of a unit that h of n members saw: the variance of a mean of the
    n - h that did not, over that of their answers."""
    return seen / (members * (members - seen))


def default_weight(members: int) -> int:
    """The weight nearest 4/9 of the members, below one half: there, complementary codewords tie under `norm`.

    Two members have no weight below one half; theirs is 1.
    """
    return max(1, min((members - 1) // 2, round(members * 4 / 9)))


def encode(units: int, members: int, weight: int | None = None, seed: int = 0, design: Design = RANDOM) -> Codebook:
    """Codebook of a weight that grows with the members, unless one is given; every member sees some unit.

    Args:
        weight: None for about 4/9 of the members, and for half of them where words are orthogonal.

    Raises:
        ValueError: as `Codebook` says, or a member would see no unit; says how many units it takes.
    """
    if design == ORTHOGONAL:
        code = Codebook(max(1, units), members, members // 2 if weight is None else weight, seed, design)
        if empty := int((code.balance == 0).sum()):
            raise ValueError(
                f"codebook: with {units} units {empty} of members={members} would train on nothing with "
                "design=orthogonal, expected some unit each. Set codebook.seed to another, or codebook.design=random."
            )
        return code
    code = Codebook(max(1, units), members, default_weight(members) if weight is None else weight, seed, design)
    if units < (fewest := fewest_units(code)):
        raise ValueError(
            f"codebook: with {units} units some of members={members} weight={code.weight} would train on nothing, "
            f"expected {fewest} units or more (identical pictures are one). Give it more data, or set codebook.members "
            "lower."
        )
    return code


def fewest_units(code: Codebook) -> int:
    """Fewest units of which every member sees one: codewords do not depend on how many units there are."""
    seen, start = torch.zeros(code.members, dtype=torch.bool), 0
    whole = Codebook(code.capacity, code.members, code.weight, code.seed)
    while True:
        block = torch.arange(start, min(start + code.members, whole.units))
        covered = (whole.codewords(block).long().cumsum(0) > 0) | seen
        if (full := covered.all(1).nonzero()[:, 0]).numel():
            return start + int(full[0]) + 1
        seen, start = covered[-1], start + len(block)


def smallest(units: int, level: float = 1.0) -> int:
    """Fewest members, at the default weight, whose codewords give `units` units a smallest q of `level`.

    Grows as O(log units), as the slides say. With level 1 it is the smallest capacity that suffices.

    Raises:
        ValueError: no codeword of 1,024 bits suffices.
    """
    for members in range(2, MAX_MEMBERS + 1):
        phantoms = comb(members, default_weight(members)) - units
        if phantoms >= 0 and (level >= 1 or units <= level * (1 + phantoms)):
            return members
    raise ValueError(f"codebook: {units} units at level {level} need more than {MAX_MEMBERS} members.")


def smallest_orthogonal(units: int, freedom: int = 1) -> int | None:
    """Fewest members whose orthogonal words leave that many degrees of freedom; None of more than 1,024."""
    return next((n for n in range(units + 1 + freedom, MAX_MEMBERS + 1) if n > 2 and exists(n)), None)
