"""The tables of a functional: who supports one number of every picture, and how sure that is.

The answers of an ensemble are the functional's derivatives in its weights, the same along all units: a unit's score is
minus the first-order change of the functional when it is removed. It is linear in the codeword, so that it is tested as
the denoising is, and its null is as exact. How far units are thought to move it goes by how near they are to the
picture.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ddattr.attribution.adjoint import Functional
from ddattr.attribution.agreement import relative_error
from ddattr.attribution.scored import Scored
from ddattr.attribution.tables import Tables, named, of_answers
from ddattr.codebook import Codebook, contrast

METHOD = "functional"  # with METHOD_gls, which is tested, and METHOD_posterior, which ranks


def tabulate(
    scored: Scored,
    functional: Functional,
    value: Float[Tensor, "q"],
    response: Float[Tensor, "n q"],
    error: Float[Tensor, "q"],
    names: Sequence[str] | None,
    kept: int | None = None,
) -> Tables:
    """All tables that a query set has, but those of its pictures as a whole; `queries` has the functional.

    Args:
        scored: of the queries; nothing was scored yet.
        value, response: of an `Adjoint`.
        error: as `first_order_error` defines it.
        names: of the queries, in words; None for those of seeds.
        kept: as `tables.tabulate` takes it.
    """
    tables = of_answers(scored, METHOD, lambda units: response[:, None].expand(-1, len(units), -1), names, kept)
    found = {"functional": str(functional), "value": value.numpy(), "first_order_error": error.numpy()}
    return named(tables._replace(queries=tables.queries.assign(**found)), scored.codebook)


def first_order_error(
    functional: Functional, codebook: Codebook, stored: dict[str, Tensor], response: Float[Tensor, "n q"]
) -> Float[Tensor, "q"]:
    """How far first-order changes are from those of units that were ablated exactly, as `relative_error` has it.

    Args:
        stored: refined_units (k, q) and refined (k, q, *image), of each query its own, and factual (q, *image).
    """
    units, moved = stored["refined_units"], stored["refined"]
    weights = contrast(codebook.codewords(units.flatten())).unflatten(0, units.shape)
    with torch.no_grad():
        exact = torch.stack([functional(pictures) for pictures in moved]) - functional(stored["factual"])
    return relative_error(torch.einsum("kqn,nq->kq", weights.to(response), response), exact.to(response))
