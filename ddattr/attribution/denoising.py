"""What the members denoise a picture to: an answer without a replay, exact in the weights, and for any picture.

The ensemble's noise estimate is the weighted sum of its members', so what it makes of a noised picture is linear in the
weights: w_i . response is the whole effect of removing unit i, and no first order of it. A replay passes on what a step
does to all later ones, which adds more noise than signal to the question whether a unit matters at all.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.attribution.influence import similarity
from ddattr.data.pictures import Indexed, blocks
from ddattr.diffusion.process import Process
from ddattr.ensemble.ensemble import Ensemble

_DOUBLE = 1 << 15  # units up to which answers are made in double precision, of more in single: half the time
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


class Distinctive:
    """What every member says along units' distinctive directions: a unit's image less what units like the query look
    like, the mean of all units' images by similarity to it.

    Its `pull` is how far removing a unit turns the denoising away from what distinguishes this unit from the others
    that the query might owe itself to. A direction from the picture to the unit's image would be blind to what the
    picture has of the unit already. That the unit is in the mean itself changes the length of its direction, which does
    not count. A unit whose image is the mean, as a single one's is, has no such direction: its answers are 0.

    Of more than 32,768 units all is in single precision, and images less a mean of some, so that no digits cancel where
    units are alike: scores move by less than 1e-5 of their deviation. A unit that is nearer to the mean than a
    thousandth of the longest image counts as the mean.

    Args:
        response: of the members, (n, q, *image).
        unit_images: of all units, (units, *image), read some at a time.
        distance: of every unit to every query, in pixels or features.
    """

    def __init__(
        self, response: Float[Tensor, "n q *image"], unit_images: Indexed, distance: Float[Tensor, "units q"]
    ) -> None:
        self.kind = torch.float64 if len(distance) <= _DOUBLE else torch.float32
        self.common = torch.zeros(())
        near, total, longest, done = similarity(distance, _SCALE), torch.zeros(()).double(), torch.zeros(()), 0
        for block in blocks(unit_images):
            images = block.flatten(1).to(self.kind)
            if self.kind is torch.float32 and not done:
                self.common = images.mean(0)
            longest = torch.maximum(longest, images.norm(dim=1).max())
            images = images - self.common
            total = total + near[done : done + len(images)].T.to(images) @ images
            done += len(images)
        self.unit_images = unit_images
        self.alike = (total / near.sum(0)[:, None]).to(self.kind)
        self.rounding = (1e-6 if self.kind is torch.float64 else 1e-3) * longest
        self.response = response.flatten(2).to(self.kind)

    def __call__(self, units: Int[Tensor, "some"]) -> Float[Tensor, "n some q"]:
        """Answers of some units."""
        images = self.unit_images[units].flatten(1).to(self.kind) - self.common
        along = torch.einsum("nqp,up->nuq", self.response, images)
        along -= torch.einsum("nqp,qp->nq", self.response, self.alike)[:, None]
        how = "donot_use_mm_for_euclid_dist" if self.kind is torch.float64 else "use_mm_for_euclid_dist"
        length = torch.cdist(images, self.alike, compute_mode=how)
        along /= length.where(length > self.rounding, torch.inf)
        return along


def distinctive(
    response: Float[Tensor, "n q *image"],
    unit_images: Float[Tensor, "units *image"],
    distance: Float[Tensor, "units q"],
) -> Float[Tensor, "n units q"]:
    """The same of all units at once."""
    return Distinctive(response, unit_images, distance)(torch.arange(len(unit_images)))
