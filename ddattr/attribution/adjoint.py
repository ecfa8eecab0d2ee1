"""One number of every picture, and its derivative in all ensemble weights, by one reverse pass through the replay."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.diffusion.process import ReverseStep
from ddattr.diffusion.sampler import trajectory
from ddattr.ensemble.ensemble import Ensemble

Functional = Callable[[Tensor], Tensor]  # pictures (q, *image) -> a number of each alone, (q,)


class Adjoint(NamedTuple):
    """A functional of every query, and its derivative in every weight, centred: it sums to 0 over members.

    Shapes: value (q,), response (n, q), this in double precision.
    """

    value: Tensor
    response: Tensor


def adjoint(
    ensemble: Ensemble, tape: Float[Tensor, "tape q c h w"], reverse: list[ReverseStep], functional: Functional
) -> Adjoint:
    """The functional of the factual pictures, and its derivative in all n weights at u_0.

    With l the derivative of the functional in x_{t-1}, a step adds b <l, f_k(x_t)> to that in weight k, and

        l <- a l + (b / n) sum_j J_j^T l,    J_j = d f_j / d x,

    the transpose of what `jacobian` passes on: the result is <l, exact Jacobian> to rounding. It takes two forwards and
    a backward of every member on the queries alone, where the Jacobian takes n tangents of each. What is kept of a step
    is its x_t; graphs are of one member at one step.

    Raises:
        ValueError: the tape does not fit the steps; as `differentiated`.
    Source: reverse accumulation with recomputation, Griewank & Walther 2008, chapters 3 and 12.
    """
    with torch.inference_mode(False), torch.no_grad():  # where Lightning predicts, nothing could be differentiated
        *states, picture = trajectory(lambda x, t: ensemble.outputs(x, t).mean(0), reverse, tape.clone())
        value, slope = differentiated(functional, picture)
        response = torch.zeros(len(ensemble), len(value), dtype=torch.float64, device=tape.device)
        for step, x in zip(reversed(reverse), reversed(states), strict=True):
            passed = torch.zeros_like(x)
            for k in range(len(ensemble)):
                output, pulled = _transposed(ensemble, k, x, step.t, slope)
                response[k] += step.b * (slope.double() * output.double()).flatten(1).sum(1)
                passed += pulled / len(ensemble)
            slope = step.a * slope + step.b * passed
    return Adjoint(value, response - response.mean(0))


def differentiated(
    functional: Functional, pictures: Float[Tensor, "q *image"]
) -> tuple[Float[Tensor, "q"], Float[Tensor, "q *image"]]:
    """The functional of every picture, and its derivative in that picture.

    Raises:
        ValueError: it is no finite number a picture, or torch cannot differentiate it.
    """
    with torch.enable_grad():
        pictures = pictures.detach().requires_grad_()
        value = functional(pictures)
        got, expected = getattr(value, "shape", type(value).__name__), (len(pictures),)
        if got != expected:
            got = got if isinstance(got, str) else tuple(got)
            raise ValueError(f"functional: {functional} gives {got}, expected a number a picture, {expected}. Mend it.")
        if not value.requires_grad:
            raise ValueError(f"functional: {functional} has no derivative, expected one that torch makes. Mend it.")
        (slope,) = torch.autograd.grad(value.sum(), pictures, allow_unused=True, materialize_grads=True)
    if not (value.isfinite().all() and slope.isfinite().all()):
        raise ValueError(f"functional: {functional} or its derivative is not finite, expected a number. Mend it.")
    return value.detach(), slope


def _transposed(ensemble: Ensemble, k: int, x: Tensor, t: int, slope: Tensor) -> tuple[Tensor, Tensor]:
    """f_k(x, t) and J_k^T slope."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        output = ensemble.member(k, x, t)
        (pulled,) = torch.autograd.grad(output, x, slope, allow_unused=True, materialize_grads=True)
    return output.detach(), pulled
