"""Noise is data: every random number has an address (seed, stream, member, step, attempt).

Philox is keyed by (seed, stream and member) and counts from (step, attempt): a draw can be repeated alone, in any
order, on any machine. Draws are float32 on the CPU; the caller moves and casts them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Stream(IntEnum):
    """What a draw is for; draws of two streams are independent. The numbers are part of every address: append only."""

    TAPE = 1
    TRAINING_NOISE = 2
    TIMESTEP = 3
    IMAGE = 4
    INITIALISATION = 5
    MEMBER_ORDER = 6
    TRUTH_UNITS = 7
    EXTRACTOR = 8
    RANDOM_BASELINE = 9
    BOOTSTRAP = 10
    VERIFICATION = 11
    DROPOUT = 12
    SUBSETS = 13
    LOSS = 14
    LIKENESS = 15
    FLIP = 16
    INVERSION = 17
    ADAPTER = 18
    CONDITION = 19


class Subset(IntEnum):
    """What is drawn of the stream SUBSETS: the step of its addresses. Append only."""

    MEMBERS = 0
    UNITS = 1
    HALVES = 2
    GROUPS = 3
    TRIPLES = 4


class Check(IntEnum):
    """What is drawn of the stream VERIFICATION: the step of its addresses. Append only."""

    CODEWORDS = 0
    UNITS = 1
    SETS = 2
    KEPT = 3


def generator(seed: int, stream: Stream, member: int | None = None, step: int = 0, attempt: int = 0):
    """numpy Generator at an address; 15 microseconds. `member` None is the draw that all members share.

    Raises:
        ValueError: the seed is not in 0 .. 2^64 - 1.
    Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed={seed}, expected 0 to 2^64 - 1.")
    key = np.array([seed, stream | (0 if member is None else member + 1) << 8], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, attempt, step]))


def noise_tape(
    seeds: Sequence[int], steps: int, shape: Sequence[int], stream: Stream = Stream.TAPE, attempt: int = 0
) -> Float[Tensor, "tape q *image"]:
    """Exogenous noise (z_T, ..., z_0) of eq. 1 and 2 of the slides, for every query by its own seed only.

    Row 0 is the start x_T; row i + 1 is added by reverse step i, of `steps`. Another stream or attempt: other noise.
    """
    rows = [
        [generator(seed, stream, step=row, attempt=attempt).standard_normal(tuple(shape), np.float32) for seed in seeds]
        for row in range(steps + 1)
    ]
    return torch.from_numpy(np.array(rows, np.float32).reshape(steps + 1, len(seeds), *shape))


@contextmanager
def seeded_torch(seed: int, stream: Stream, member: int | None = None, step: int = 0) -> Iterator[None]:
    """torch's own generators at an address, for modules that draw by themselves; restored afterwards.

    `torch.manual_seed` keeps 32 bits, so that seeds 5 and 5 + 2^32 would be one stream: the whole state of the
    Mersenne twister (its 624 words, behind 3 of bookkeeping) is filled instead. CUDA's generator keeps all 64.
    """
    draw = generator(seed, stream, member, step)
    state = torch.Generator().manual_seed(0).get_state().numpy().copy()
    words = state.view(np.uint64) if state.size % 8 == 0 else state[: state.size // 8 * 8].view(np.uint64)
    words[3 : 3 + 624] = draw.integers(0, 2**32, 624, np.uint64)
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.set_rng_state(torch.from_numpy(state))
        if devices:
            torch.cuda.manual_seed(int(draw.integers(0, 2**63)))
        yield


@dataclass(frozen=True)
class TrainingDraws:
    """Images, timesteps and noise of every training step of one member.

    Every batch slot has an ordered list of candidate images, without end; the member takes the first that it owns.
    With `member` None the lists, noise and timesteps are common to all members, so that two members differ by what
    they saw and by nothing else; otherwise they are the member's own (r of eq. 5 of the slides).

    Raises:
        ValueError: the member owns no image.
    """

    seed: int
    owned: Bool[Tensor, "images"]
    batch: int
    timesteps: int
    shape: tuple[int, ...]
    member: int | None = None

    def __post_init__(self) -> None:
        if not self.owned.any():
            raise ValueError("a member owns no image: its subset is empty. Use more units or a larger codebook.weight.")

    def images(self, step: int) -> Int[Tensor, "batch"]:
        """Index of the image of every slot, all of them owned."""
        owned = self.owned.numpy()
        chosen = np.full(self.batch, -1)
        attempt = 0
        while (open_ := chosen < 0).any():
            draw = generator(self.seed, Stream.IMAGE, self.member, step, attempt).random(self.batch)
            candidate = (draw * len(owned)).astype(np.int64)
            chosen = np.where(open_ & owned[candidate], candidate, chosen)
            attempt += 1
        return torch.from_numpy(chosen)

    def flips(self, step: int) -> Bool[Tensor, "batch"]:
        """Whether the picture of every slot is mirrored: one half of them are."""
        draw = generator(self.seed, Stream.FLIP, self.member, step).random(self.batch)
        return torch.from_numpy(draw < 0.5)

    def dropped(self, step: int, share: float) -> Bool[Tensor, "batch"]:
        """Whether the picture of every slot is shown without its condition: a `share` of them are."""
        draw = generator(self.seed, Stream.CONDITION, self.member, step).random(self.batch)
        return torch.from_numpy(draw < share)

    def noise(self, step: int) -> Float[Tensor, "batch *image"]:
        """Standard normal noise of every slot."""
        draw = generator(self.seed, Stream.TRAINING_NOISE, self.member, step)
        return torch.from_numpy(draw.standard_normal((self.batch, *self.shape), np.float32))

    def times(self, step: int) -> Int[Tensor, "batch"]:
        """Timestep of every slot, uniform over 0 .. timesteps - 1."""
        draw = generator(self.seed, Stream.TIMESTEP, self.member, step).random(self.batch)
        return torch.from_numpy((draw * self.timesteps).astype(np.int64))
