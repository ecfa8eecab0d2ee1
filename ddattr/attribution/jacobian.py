"""The centred Jacobian of the pictures with respect to the ensemble weights, in forward mode through the replay."""

from typing import Annotated

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from ddattr.diffusion.process import ReverseStep
from ddattr.diffusion.sampler import check_tape
from ddattr.diffusion.tangents import pushed
from ddattr.ensemble.ensemble import Ensemble


def jacobian(
    ensemble: Ensemble,
    tape: Float[Tensor, "tape q c h w"],
    reverse: list[ReverseStep],
    members_per_step: Annotated[int, Ge(1)] | None = None,
    tangents: Annotated[int, Ge(1)] | None = None,
) -> tuple[Float[Tensor, "q c h w"], Float[Tensor, "n q c h w"]]:
    """Factual pictures and their derivative in every ensemble weight at u_0, centred: it sums to 0 over members.

    With x the ensemble's own trajectory and s_k the tangent of weight k, one reverse step is

        s_k <- a s_k + b (f_k - f_mean + mean_j J_j s_k),    J_j = d f_j / d x,

    which is dy/dv of eq. 10 of the slides less its mean over k: the response to the total weight, which no contrast
    sees. All n tangents share one evaluation of every member. The propagated term is an average of n near-equal
    operators; with `members_per_step` = m it is taken over m of them, another m at every step (the rotating Jacobian).
    The exact one does not depend on the order of the members. The rotating one does, as turns go by their places: with
    members in another order it differed by 7.6 % of its norm.

    Args:
        members_per_step: m; None takes all n, which is exact.
        tangents: directions differentiated together; None takes as many as keep directions x queries within
            `ensemble.batch`, the most pictures in one call of a network. Bounds memory, changes nothing else.
    Raises:
        ValueError: the tape does not fit the steps, or m is not in 1 .. n.
    Source: Dai & Gifford 2023, arXiv 2306.02174; eq. 10 of the slides. Centring and rotation are ours.
    """
    n = len(ensemble)
    m = n if members_per_step is None else members_per_step
    check_turns(m, n)
    check_tape(tape, reverse)
    x = tape[0]
    tangents = tangents or max(1, ensemble.batch // max(1, len(x)))
    s = x.new_zeros(n, *x.shape)
    with torch.no_grad():
        for i, (step, z) in enumerate(zip(reverse, tape[1:], strict=True)):
            turn = {(i * m + j) % n for j in range(m)} if i else set()  # the first tangents are 0
            outputs, propagated = [], torch.zeros_like(s)
            for k in range(n):
                if k in turn:
                    output, derivative = propagate(ensemble, k, x, step.t, s, tangents)
                    propagated += derivative / m
                else:
                    output = ensemble.member(k, x, step.t)
                outputs.append(output)
            f = torch.stack(outputs)
            mean = f.mean(0)
            s = step.a * s + step.b * (f - mean + propagated)
            x = step.a * x + step.b * mean + step.c * z
    return x, s - s.mean(0)  # the mean is rounding


def check_turns(members_per_step: int | None, n: int) -> None:
    """Raises ValueError unless so many of n members can be differentiated at every step."""
    if members_per_step is not None and not 1 <= members_per_step <= n:
        raise ValueError(
            f"jacobian: members_per_step={members_per_step}, expected 1 to {n}, or null for the exact one. "
            "Set attribution.jacobian.members_per_step."
        )


def propagate(ensemble: Ensemble, k: int, x: Tensor, t: int, s: Tensor, tangents: int) -> tuple[Tensor, Tensor]:
    """f_k(x, t) and J_k s for all tangents s, from one primal pass per chunk of tangents."""
    parts = [pushed(lambda y: ensemble.member(k, y, t), x, part) for part in s.split(tangents)]
    return parts[0][0], torch.cat([derivative for _, derivative in parts])


def first_order(
    response: Float[Tensor, "n q *image"], weights: Float[Tensor, "units n"]
) -> Float[Tensor, "units q *image"]:
    """Displacements of every query for changes of the ensemble weights, to first order: eq. 11 of the slides.

    Exact when the picture is linear in the weights (a one-step sampler).

    Raises:
        ValueError: the response has another number of members than the weights.
    """
    if response.shape[0] != weights.shape[1]:
        raise ValueError(f"first_order: weights for {weights.shape[1]} members, a response of {response.shape[0]}.")
    return torch.einsum("un,n...->u...", weights.to(response), response)


def instability(response: Float[Tensor, "n q *image"]) -> Float[Tensor, "q"]:
    """Frobenius norm of every query's centred Jacobian: it predicts which queries the first order misses."""
    return response.flatten(2).square().sum((0, 2)).sqrt()
