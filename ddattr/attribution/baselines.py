"""The cheaper answers that the Jacobian is held against: each is a linear response, or a score of its own."""

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.attribution.influence import Response, pixel_distance
from ddattr.diffusion.noise import Stream, generator
from ddattr.diffusion.process import ReverseStep
from ddattr.diffusion.sampler import trajectory
from ddattr.ensemble.ensemble import Ensemble


@torch.no_grad()
def last_step(ensemble: Ensemble, tape: Float[Tensor, "tape q c h w"], reverse: list[ReverseStep]) -> Response:
    """At the last step only, the mean over the members that never saw the unit ("Last step predicted noise")."""
    before, _ = deque(trajectory(ensemble.weighted(ensemble.uniform[None]), reverse, tape), maxlen=2)
    outputs = ensemble.outputs(before.expand(1, *tape.shape[1:])[0], reverse[-1].t)
    return Response(reverse[-1].b * (outputs - outputs.mean(0)))


def individual_centred(members: Float[Tensor, "n q c h w"]) -> Response:
    """sum_k (w_i)_k y_k: the contrast applied to the pictures that the members make alone."""
    return Response(members - members.mean(0))


def individual(members: Float[Tensor, "n q c h w"], factual: Float[Tensor, "q c h w"], weight: int) -> Response:
    """-(1/n) sum over members k that saw i of (y_k - y_0): the slides' "Individual models".

    As y_k is centred by its own mean and not by y_0, it is `individual_centred` scaled, plus an offset that is the
    same for all units.
    """
    n = len(members)
    mean = members.mean(0)
    return Response((n - weight) / n * (members - mean), -weight / n * (mean - factual))


def responses(tensors: Mapping[str, Tensor], weight: int) -> dict[str, Response]:
    """Every method that says where a picture goes, and not only how far, from the tensors of an attribution.

    Args:
        tensors: factual (q, *image); jacobian, members and last_step (n, q, *image).
        weight: members that see a unit.
    """
    return {
        "jvp": Response(tensors["jacobian"]),
        "individual": individual(tensors["members"], tensors["factual"], weight),
        "individual_centred": individual_centred(tensors["members"]),
        "last_step": Response(tensors["last_step"]),
    }


def pixel(factual: Float[Tensor, "q *image"], units: Float[Tensor, "units *image"]) -> Float[Tensor, "units q"]:
    """Similarity of pixels: minus the distance between the clipped picture and the unit's (mean) image."""
    return -pixel_distance(factual, units)


def random(units: int, seeds: Sequence[int], seed: int) -> Float[Tensor, "units q"]:
    """Standard normal scores: what no information looks like."""
    draws = [generator(seed, Stream.RANDOM_BASELINE, step=s).standard_normal(units) for s in seeds]
    return torch.stack([torch.from_numpy(draw) for draw in draws], dim=1)
