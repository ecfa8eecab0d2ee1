"""The encoded ensemble: n denoisers, mixed by weights."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddattr.diffusion.conditions import Given
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.process import Denoiser, ReverseStep
from ddattr.diffusion.sampler import trajectory


class Ensemble(nn.Module):
    """n networks under one roof; `network(x, t)` takes (batch, *image) and one timestep, and, under conditions, these.

    Args:
        members: the networks, in the codebook's order; they are put into evaluation mode.
        batch: most pictures in one call of a network. Bounds memory; changes no result beyond rounding.
    """

    def __init__(self, members: Sequence[nn.Module], batch: int = 512):
        super().__init__()
        self.members = nn.ModuleList(members).eval().requires_grad_(False)
        self.batch = batch
        self.under: Given | None = None
        self.precision = torch.float32

    def given(self, under: Given | None) -> "Ensemble":
        """The same members, asked under conditions, a row a query: whatever takes an ensemble takes this one.

        The last axis of rows is the queries' from here on. None, of an ensemble without conditions, changes nothing.
        """
        ensemble = copy(self)
        ensemble.under = under
        return ensemble

    def rounded(self, precision: torch.dtype) -> "Ensemble":
        """The same members, whose networks multiply in bfloat16 (torch's autocast), or, as it is, in float32.

        What they say is of the pictures' own type: steps, guidance, sums over members and of tangents are not rounded.
        """
        ensemble = copy(self)
        ensemble.precision = precision
        return ensemble

    def at(self, queries: Tensor) -> "Ensemble":
        """The ensemble for some of its queries, by a mask or their places; without conditions itself."""
        return self if self.under is None else self.given(self.under.at(queries))

    def __len__(self) -> int:
        return len(self.members)

    @property
    def uniform(self) -> Float[Tensor, "n"]:
        """Weights u_0 = 1/n of the whole ensemble (eq. 8 of the slides)."""
        return torch.full((len(self),), 1 / len(self))

    def member(
        self, k: int, x: Float[Tensor, "*rows c h w"], t: int, queries: Tensor | None = None
    ) -> Float[Tensor, "*rows c h w"]:
        """What member k alone predicts.

        Args:
            queries: under conditions, the place of every picture's; None: the last of the rows are all, in order.
        Raises:
            ValueError: there are conditions for another number of queries.
        """
        flat, network = x.reshape(-1, *x.shape[-3:]), partial(self._said, k)
        with _precision(x.device.type, self.precision):
            if self.under is None:
                made = [network(part, t) for part in flat.split(self.batch)]
            else:
                places = (self._queries(x) if queries is None else queries).split(self.batch)
                parts = zip(flat.split(self.batch), places, strict=True)
                made = [self.under.at(place).estimate(network, part, t) for part, place in parts]
            return torch.cat(made).reshape(x.shape)

    def _said(self, k: int, x: Tensor, *given: Any) -> Tensor:
        """What a network says, in the type of its pictures."""
        said = self.members[k](x, *given)
        return said if said.dtype == x.dtype else said.to(x.dtype)

    def _queries(self, x: Tensor) -> Tensor:
        """Places of the queries of rows of pictures, whose conditions are on the CPU."""
        assert self.under is not None
        if x.shape[-4:-3] != (count := len(self.under),):
            raise ValueError(f"ensemble: conditions of {count} queries, but pictures of {tuple(x.shape[:-3])}.")
        return torch.arange(count).expand(x.shape[:-3]).flatten()

    def outputs(self, x: Float[Tensor, "*rows c h w"], t: int) -> Float[Tensor, "n *rows c h w"]:
        """What all members predict of the same pictures."""
        return torch.stack([self.member(k, x, t) for k in range(len(self))])

    def weighted(self, weights: Float[Tensor, "rows n"] | Float[Tensor, "rows q n"]) -> Denoiser:
        """Denoiser f_e . v of eq. 7 of the slides, one row of pictures for every row of weights.

        A row holds one weighting for all of its pictures, or one for each. A member is evaluated only on the pictures
        that give it weight; of pictures that rows share, as before the first step of a replay, once for all rows. The
        sum is of what members predict, and of the noise with weights that sum to 1: `Process`.

        Raises:
            ValueError: the weights are for another number of members.
        """
        if weights.shape[-1] != len(self):
            raise ValueError(f"ensemble: weights for {weights.shape[-1]} members, but it has {len(self)}.")
        weights = weights[:, None] if weights.dim() == 2 else weights
        return partial(self._weighted, weights)

    def _weighted(self, weights: Tensor, x: Tensor, t: int) -> Tensor:
        if x.dim() == 4:
            return self._shared(weights, x, t)
        x = x.expand(len(weights), *x.shape[-4:])
        flat, each = x.flatten(0, 1), weights.to(x).expand(*x.shape[:2], -1).flatten(0, 1)
        queries = None if self.under is None else self._queries(x)
        estimate = torch.zeros_like(flat)
        for k, column in enumerate(each.T):
            given = column.nonzero()[:, 0]
            if len(given):
                part = self.member(k, flat[given], t, None if queries is None else queries[given.cpu()])
                estimate.index_add_(0, given, column[given].reshape(-1, 1, 1, 1) * part)
        return estimate.reshape(x.shape)

    def _shared(
        self, weights: Float[Tensor, "rows #q n"], x: Float[Tensor, "q c h w"], t: int
    ) -> Float[Tensor, "rows q c h w"]:
        """The same of one row of pictures, for all rows of weights: of every member that some row gives weight to."""
        weights = weights.to(x).expand(-1, len(x), -1)
        queries = None if self.under is None else self._queries(x)
        estimate = x.new_zeros(len(weights), *x.shape)
        for k, column in enumerate(weights.unbind(-1)):
            given = column.any(0).nonzero()[:, 0]
            if len(given):
                part = self.member(k, x[given], t, None if queries is None else queries[given.cpu()])
                estimate.index_add_(1, given, column[:, given].reshape(-1, len(given), 1, 1, 1) * part)
        return estimate

    @torch.no_grad()
    def pictures(
        self,
        weights: Float[Tensor, "rows n"] | Float[Tensor, "rows q n"],
        seeds: Sequence[int],
        reverse: list[ReverseStep],
        shape: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "rows q c h w"]:
        """Pictures of every row of weights on the tapes of seeds."""
        return self.replay(weights, noise_tape(seeds, len(reverse), shape).to(device), reverse)

    @torch.no_grad()
    def replay(
        self,
        weights: Float[Tensor, "rows n"] | Float[Tensor, "rows q n"],
        tape: Float[Tensor, "tape q c h w"],
        reverse: list[ReverseStep],
    ) -> Float[Tensor, "rows q c h w"]:
        """Pictures y(v, eps) of every row of weights on every query's tape: eq. 10's left side."""
        (picture,) = deque(trajectory(self.weighted(weights), reverse, tape), maxlen=1)
        return picture


@contextmanager
def _precision(device: str, precision: torch.dtype) -> Iterator[None]:
    """Autocast to bfloat16, where that is asked; else none, whatever surrounds it, and what is in float32 is in full.

    So no TF32, the default of CUDA's convolutions: its 10 bits make a picture depend on its batch.

    Nor what `set_float32_matmul_precision` may have allowed, on CPUs too.
    """
    cuda: list[Any] = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]  # type: ignore[attr-defined]
    cpu: list[Any] = [torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    knobs = [knob for knob in (cuda if device == "cuda" else cpu) if knob.fp32_precision not in ("ieee", "none")]
    before = [knob.fp32_precision for knob in knobs]
    for knob in knobs:
        knob.fp32_precision = "ieee"
    try:
        with torch.autocast(device, torch.bfloat16, enabled=precision == torch.bfloat16):
            yield
    finally:
        for knob, precision in zip(knobs, before, strict=True):
            knob.fp32_precision = precision
