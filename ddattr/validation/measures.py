"""Measures of what removing a unit changes, as members' answers along directions: all of them are tested alike."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import jvp

from ddattr.attribution.denoising import distinctive
from ddattr.attribution.influence import projections


def measures_of_displacement(
    response: Float[Tensor, "n q *image"],
    factual: Float[Tensor, "q *image"],
    unit_images: Float[Tensor, "units *image"],
    extractor: nn.Module | None,
    distance: Float[Tensor, "units q"],
) -> dict[str, Float[Tensor, "n units q"]]:
    """What every member adds to each measure of where pictures on a tape move, to first order.

    `pixel` is the displacement along every unit's direction; `pixel_distinctive` along its distinctive one, as the
    denoising is tested; `feature` as `pixel` in the space of an extractor; `region` as `pixel` within the bright part
    of the picture.

    Args:
        extractor: None where members see latents, which have no features and no bright part: without these two.
        distance: of every unit to every query.
    """
    found = {
        "pixel": projections(response, factual, unit_images),
        "pixel_distinctive": distinctive(response, unit_images, distance),
    }
    if extractor is None:
        return found
    tangents = [jvp(extractor, (factual,), (column,))[1] for column in response]
    moved = torch.stack(tangents)[..., None, None]
    seen, units = (extractor(pictures)[..., None, None] for pictures in (factual, unit_images))
    region = [
        projections(response[:, [q]] * mask, (factual * mask)[[q]], unit_images * mask)
        for q, mask in enumerate(factual > 0)
    ]
    return found | {"feature": projections(moved, seen, units), "region": torch.cat(region, 2)}


def measures_of_any(
    denoised: Float[Tensor, "n q *image"],
    pictures: Float[Tensor, "q *image"],
    unit_images: Float[Tensor, "units *image"],
    loss: Float[Tensor, "n q"],
    distance: Float[Tensor, "units q"],
) -> dict[str, Float[Tensor, "n units q"]]:
    """What every member adds to each measure that needs no tape, on every unit's direction.

    `denoised` is what `attribute` tests; `denoised_toward` the same from the picture to the unit's image, which is
    blind to what the picture has of the unit; `loss` the change of the picture's loss, to first order, which has no
    direction.

    Args:
        distance: of every unit to every query.
    """
    return {
        "denoised": distinctive(denoised, unit_images, distance),
        "denoised_toward": projections(denoised, pictures, unit_images),
        "loss": loss.double()[:, None].expand(-1, len(unit_images), -1),
    }
