"""Influence of every unit on every query, from n numbers or an n x n matrix per query.

Every linear method is a response (n, Q, C, H, W): removing unit i displaces the picture by offset + w_i . response.
With codewords of constant weight all N scores follow from the response's Gram matrix (`norm`) or from its projections
on one direction a unit (`pull`), streamed in blocks of units. Of displacements that is d_i, from the picture to the
unit's image; of what is tested, `denoising.distinctive`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ddattr.codebook import contrast


class Response(NamedTuple):
    """A linear method: displacement_i = offset + w_i . members, w_i the contrast of unit i.

    Shapes: members (n, Q, C, H, W), offset (Q, C, H, W) or None for 0.
    """

    members: Tensor
    offset: Tensor | None = None

    def displacement(self, codewords: Bool[Tensor, "units n"]) -> Float[Tensor, "units q *image"]:
        """Displacement of every query when each unit is removed."""
        moved = torch.einsum("un,n...->u...", contrast(codewords).to(self.members), self.members)
        return moved if self.offset is None else moved + self.offset


def directions(
    factual: Float[Tensor, "q *image"], units: Float[Tensor, "units *image"]
) -> Float[Tensor, "units q pixels"]:
    """Unit directions d_i from each factual picture to each unit's (mean) image."""
    difference = units.flatten(1)[:, None] - factual.flatten(1)
    return torch.nn.functional.normalize(difference, dim=-1)


def projections(
    response: Float[Tensor, "n q *image"], factual: Float[Tensor, "q *image"], units: Float[Tensor, "units *image"]
) -> Float[Tensor, "n units q"]:
    """a = J d_i: the response of every member along the direction of every unit.

    Formed from J.image and J.picture, so that no (units, q, pixels) array exists. In double precision: `pull` is
    compared with its own phantoms, and ties must stay ties.
    """
    j, picture, image = response.flatten(2).double(), factual.flatten(1).double(), units.flatten(1).double()
    length = torch.cdist(image, picture, compute_mode="donot_use_mm_for_euclid_dist")
    along = torch.einsum("nqp,up->nuq", j, image) - torch.einsum("nqp,qp->nq", j, picture)[:, None]
    return torch.where(length > 0, along / length, 0)  # a unit whose image is the picture has no direction


def pull(
    projected: Float[Tensor, "n units q"],
    codewords: Bool[Tensor, "units n"],
    offset: Float[Tensor, "units q"] | None = None,
) -> Float[Tensor, "units q"]:
    """Minus the displacement along each unit's direction: positive when removing the unit moves the picture away.

    Args:
        projected: of the members' responses, on d_i or any other direction that no codeword has a part in.
        offset: projected likewise, if there is one.
    """
    moved = torch.einsum("un,nuq->uq", contrast(codewords).to(projected), projected)
    return -moved if offset is None else -moved - offset


def pixel_distance(
    pictures: Float[Tensor, "q *image"], unit_images: Float[Tensor, "units *image"]
) -> Float[Tensor, "units q"]:
    """L2 distance between every clipped picture and every unit's (mean) image."""
    clipped = pictures.clamp(-1, 1).flatten(1)
    exact = "donot_use_mm_for_euclid_dist"  # duplicates must have a distance of 0
    return torch.cdist(unit_images.flatten(1), clipped, compute_mode=exact)


def similarity(distance: Float[Tensor, "units q"], scale: float = 0.7) -> Float[Tensor, "units q"]:
    """exp(-d^2 / (2 (scale m)^2)), m the query's median distance to all units: what a unit counts for within a set.

    Units of a set that are nothing like the picture add noise to its sum, and little else. The scale is the best of
    four on queries 16 to 63 of digits, of 1,600 steps, for the displacement: 39 of 48 owe something to a label, 35 when
    all count the same. In double precision, where no two distances become ties.
    """
    distance = distance.double()
    return torch.exp(-0.5 * (distance / (scale * distance.median(0).values).clamp_min(1e-12)).square())


def gram(response: Float[Tensor, "n q *image"]) -> Float[Tensor, "q n n"]:
    """Inner products of the members' responses, per query."""
    j = response.flatten(2).transpose(0, 1).double()
    return j @ j.mT


def norm(
    gram: Float[Tensor, "q n n"],
    codewords: Bool[Tensor, "units n"],
    cross: Float[Tensor, "q n"] | None = None,
    offset: Float[Tensor, "q"] | None = None,
) -> Float[Tensor, "units q"]:
    """Length of the displacement: the paper's influence; it has no sign.

    Args:
        cross: inner products of the members' responses with the offset, and `offset` its squared length, if any.
    Source: Dai & Gifford 2023, arXiv 2306.02174, section 5.
    """
    block, squares = max(1, (1 << 23) // gram[..., 0].numel()), []  # units together: 64 MB between the two products
    for part in codewords.split(block):
        w = contrast(part).to(gram)
        square = torch.einsum("un,qnm,um->uq", w, gram, w)
        squares.append(square if cross is None else square + 2 * w @ cross.T + (0 if offset is None else offset))
    return torch.cat(squares).clamp_min(0).sqrt()


def scores(
    response: Response,
    factual: Float[Tensor, "q *image"],
    units: Float[Tensor, "units *image"],
    codewords: Bool[Tensor, "units n"],
) -> dict[str, Float[Tensor, "units q"]]:
    """`pull` and `norm` of a block of units under one linear method."""
    members, offset = response
    projected = projections(members, factual, units)
    if offset is None:
        return {"pull": pull(projected, codewords), "norm": norm(gram(members), codewords)}
    flat = offset.flatten(1).double()
    cross = torch.einsum("nqp,qp->qn", members.flatten(2).double(), flat)
    along = projections(offset[None], factual, units)[0]
    return {
        "pull": pull(projected, codewords, along),
        "norm": norm(gram(members), codewords, cross, flat.square().sum(1)),
    }


def displacement_scores(
    displacement: Float[Tensor, "units q *image"],
    factual: Float[Tensor, "q *image"],
    units: Float[Tensor, "units *image"],
) -> dict[str, Float[Tensor, "units q"]]:
    """`pull` and `norm` of displacements that are known outright: exact ablation, retraining."""
    flat = displacement.flatten(2).double()
    toward = directions(factual.double(), units.double())
    return {"pull": -(flat * toward).sum(-1), "norm": flat.norm(dim=-1)}
