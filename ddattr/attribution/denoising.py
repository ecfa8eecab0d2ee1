"""What the members denoise a picture to: an answer without a replay, exact in the weights, and for any picture.

The ensemble's noise estimate is the weighted sum of its members', so what it makes of a noised picture is linear in the
weights: w_i . response is the whole effect of removing unit i, and no first order of it. A replay passes on what a step
does to all later ones, which adds more noise than signal to the question whether a unit matters at all.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.attribution.influence import similarity
from ddattr.diffusion.process import Process
from ddattr.ensemble.ensemble import Ensemble

_SCALE = 0.35  # of similarity, half of a set's: from 0.18 to infinity 0.29 and 0.35 find most (results/power.md)


@torch.no_grad()
def denoised(
    ensemble: Ensemble,
    process: Process,
    pictures: Float[Tensor, "q *image"],
    times: Int[Tensor, "draws"],
    noise: Float[Tensor, "draws *image"],
) -> Float[Tensor, "n q *image"]:
    """Minus every member's mean noise estimate of the noised pictures, centred over members: a `Response`.

    Of members that predict v or the picture, the noise estimate that follows from it.

    All draws count the same, as in the simple loss. It is in units of noise, not of the picture's displacement.

    Args:
        times, noise: as `loss_draws` makes them, the same for all pictures.
    """
    total = pictures.new_zeros(len(ensemble), *pictures.shape)
    for t, z in zip(times.tolist(), noise, strict=True):
        total.sub_(ensemble.outputs(process.noised(pictures, z, t), t), alpha=process.noise_factor(t))
    return (total - total.mean(0)) / len(times)


def distinctive(
    response: Float[Tensor, "n q *image"],
    unit_images: Float[Tensor, "units *image"],
    distance: Float[Tensor, "units q"],
) -> Float[Tensor, "n units q"]:
    """What every member says along each unit's distinctive direction: its image less what units like the query look
    like, the mean of all units' images by similarity to it.

    Its `pull` is how far removing a unit turns the denoising away from what distinguishes this unit from the others
    that the query might owe itself to. A direction from the picture to the unit's image would be blind to what the
    picture has of the unit already. That the unit is in the mean itself changes the length of its direction, which does
    not count. A unit whose image is the mean, as a single one's is, has no such direction: its answers are 0.

    Args:
        distance: of every unit to every query, in pixels or features.
    """
    near, images = similarity(distance, _SCALE), unit_images.flatten(1).double()
    alike = near.T @ images / near.sum(0)[:, None]
    answers = response.flatten(2).double()
    along = torch.einsum("nqp,up->nuq", answers, images)
    along -= torch.einsum("nqp,qp->nq", answers, alike)[:, None]
    length = torch.cdist(images, alike, compute_mode="donot_use_mm_for_euclid_dist")
    rounding = 1e-6 * images.norm(dim=1).max()
    along /= length.where(length > rounding, torch.inf)
    return along
