"""What is asked of an ensemble: queries named by seeds, whose tapes make them, or pictures from elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.diffusion.inversion import exact_steps, inverted
from ddattr.diffusion.noise import Stream, noise_tape
from ddattr.diffusion.process import Process, ReverseStep
from ddattr.ensemble.ensemble import Ensemble


@dataclass(frozen=True, eq=False)
class Asked:
    """Queries that are attributed together.

    Args:
        numbers: seeds in increasing order, or the places of given pictures, 0 to Q - 1: what tables call the queries.
        names: in words; None for those of seeds.
        pictures: given ones, (Q, C, H, W) in [-1, 1]; None where seeds make them.
        inversions: tapes that are found for each given picture; without one it is attributed by its denoising alone.
        seed: of the noise that inversions are driven by.
        condition: class number of every query, where members are conditioned.
        known: by kind the unit and sets that pictures are of, -1 for none; None where that is not known.
    """

    numbers: Int[Tensor, "q"]
    names: Sequence[str] | None = None
    pictures: Float[Tensor, "q *image"] | None = None
    inversions: int = 0
    seed: int = 0
    condition: Int[Tensor, "q"] | None = None
    known: Mapping[str, Int[Tensor, "q"]] | None = None

    @property
    def replayed(self) -> bool:
        """Whether they have tapes."""
        return self.pictures is None or self.inversions > 0

    def given(self, numbers: Int[Tensor, "some"]) -> Float[Tensor, "some *image"] | None:
        """The given pictures of some queries, if there are any."""
        return None if self.pictures is None else self.pictures[numbers]

    def tapes(
        self,
        numbers: Int[Tensor, "some"],
        ensemble: Ensemble,
        process: Process,
        reverse: list[ReverseStep],
        shape: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> tuple[list[Float[Tensor, "tape some *image"]], list[ReverseStep]]:
        """Tapes of some queries, and the steps that read them: one tape for seeds, one an inversion for pictures.

        All pictures are noised by the same noise, so that a picture's tape depends on no other; an inversion's noise is
        another's from the second on.
        """
        pictures = self.given(numbers)
        if pictures is None:
            return [noise_tape(numbers.tolist(), len(reverse), shape).to(device)], reverse
        found = []
        for attempt in range(self.inversions):
            noise = noise_tape([self.seed], len(reverse), shape, Stream.INVERSION, attempt).to(device)
            found.append(
                inverted(
                    lambda x, t: ensemble.outputs(x, t).mean(0),
                    process,
                    reverse,
                    pictures.to(device),
                    noise.expand(-1, len(pictures), *shape),
                )
            )
        return found, exact_steps(reverse)
