"""What a model of the ground truth says of the queries: its pictures on their tapes, and its loss on their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddattr.attribution.counterfactual import counterfactual
from ddattr.attribution.denoised import denoised
from ddattr.attribution.influence import directions
from ddattr.attribution.jacobian import first_order, jacobian
from ddattr.attribution.loss import loss_draws, residual_gram
from ddattr.codebook import contrast
from ddattr.diffusion.inversion import inverted
from ddattr.diffusion.noise import Stream, generator, noise_tape
from ddattr.diffusion.process import Process, ReverseStep
from ddattr.ensemble.ensemble import Ensemble


@dataclass
class Measurement:
    """Queries, and how models are measured on them.

    Args:
        process, reverse: training's process and the sampler's steps.
        seeds, factual: generated queries, named by their seeds, and the ensemble's pictures of them.
        real: pictures of no tape, (real, *image).
        draws: timesteps of the loss that scores are made of. The loss of the truth's models is measured at twice as
            many, with other noise, so that no score is rewarded for foretelling its own draws.
        seed: of the loss's noise and of the sets of the self LDS.
        denoisings: noised copies of a picture whose denoising is tested.
    """

    process: Process
    reverse: list[ReverseStep]
    seeds: list[int]
    factual: Tensor
    real: Tensor
    draws: int
    seed: int
    denoisings: int = 100
    names: dict[str, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = tuple(self.factual.shape[1:])
        self.asked = torch.cat([self.factual, self.real])
        self.times, self.noise = loss_draws(self.draws, self.process, self.shape, self.seed)
        self.fresh = loss_draws(2 * self.draws, self.process, self.shape, self.seed, attempt=1)
        self.copies = loss_draws(self.denoisings, self.process, self.shape, self.seed, attempt=2)  # as in `attribute`
        self.names = {"generated": self.seeds, "real": list(range(len(self.real)))}

    def kinds(self) -> dict[str, slice]:
        """Where generated and real queries are among all of them; kinds without a query are left out."""
        count = len(self.seeds)
        found = {"generated": slice(0, count), "real": slice(count, None)}
        return {kind: where for kind, where in found.items() if self.names[kind]}

    def gram(self, ensemble: Ensemble) -> Float[Tensor, "asked n n"]:
        """Residuals' Gram of an ensemble on all queries."""
        return residual_gram(ensemble, self.process, self.asked, self.times, self.noise)

    def denoised(self, ensemble: Ensemble, pictures: Float[Tensor, "q *image"]) -> Float[Tensor, "n q *image"]:
        """What members denoise any pictures to, as `attribute` has it of generated ones."""
        return denoised(ensemble, self.process, pictures, *self.copies)

    def losses(self, networks: Sequence[nn.Module]) -> Float[Tensor, "models asked"]:
        """Loss of every model on every query, each alone, at fresh draws."""
        alone = [residual_gram(Ensemble([network]), self.process, self.asked, *self.fresh) for network in networks]
        return torch.stack(alone)[..., 0, 0]

    def pictures(self, networks: Sequence[nn.Module]) -> Float[Tensor, "q *image"]:
        """Pictures of an ensemble of these networks on the queries' tapes."""
        ensemble = Ensemble(networks)
        return ensemble.pictures(ensemble.uniform[None], self.seeds, self.reverse, self.shape)[0]

    def distances(self, networks: Sequence[nn.Module]) -> Float[Tensor, "models q"]:
        """L2 distance of the picture of every model, each alone, to the factual on the same tape."""
        pictures = torch.stack([self.pictures([network]) for network in networks])
        return (pictures - self.factual).flatten(2).norm(dim=2).double()

    def jacobian(self, networks: Sequence[nn.Module], members_per_step: int | None) -> Float[Tensor, "n q *image"]:
        """Centred Jacobian of an ensemble of these networks."""
        tape = noise_tape(self.seeds, len(self.reverse), self.shape)
        return self._jacobian(Ensemble(networks), tape, self.reverse, members_per_step)[1]

    def replayed(
        self, ensemble: Ensemble, pictures: Float[Tensor, "q *image"], members_per_step: int | None
    ) -> tuple[Float[Tensor, "q *image"], Float[Tensor, "n q *image"]]:
        """Pictures of no tape are given one, of ancestral sampling: what the ensemble makes on it, and its Jacobian."""
        steps = len(self.reverse)
        reverse = self.process.reverse_steps(steps, eta=1.0)
        noise = noise_tape(range(len(pictures)), steps, self.shape)
        tape = inverted(lambda x, t: ensemble.outputs(x, t).mean(0), self.process, reverse, pictures, noise)
        return self._jacobian(ensemble, tape, reverse, members_per_step)

    def _jacobian(self, ensemble, tape, reverse, members_per_step: int | None) -> tuple[Tensor, Tensor]:
        size = None if members_per_step is None else min(members_per_step, len(ensemble))
        return jacobian(ensemble, tape, reverse, size)

    def ablations(self, ensemble: Ensemble, codewords: Tensor) -> Float[Tensor, "units q *image"]:
        """Exact displacements when units are ablated."""
        return counterfactual(ensemble, codewords, self.seeds, self.reverse, self.shape, "cpu") - self.factual

    def reweighted(
        self, ensemble: Ensemble, response: Tensor, codewords: Tensor, unit_images: Tensor, subsets: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The self LDS: the ensemble is re-weighted by the summed contrasts of three random units.

        More would leave the range in which weights are those of an ensemble: a contrast is nearly as long as u_0.

        Returns:
            removed (subsets, units), weights (subsets, n), and, along every query's direction to its nearest unit,
            minus the exact displacement (subsets, q) and minus the first-order one of each unit (units, q).
        """
        count = len(codewords)
        removed = torch.zeros(subsets, count, dtype=torch.bool)
        for j, mask in enumerate(removed):
            order = generator(self.seed, Stream.SUBSETS, step=3, attempt=j).permutation(count)
            mask[torch.from_numpy(order[: min(3, count)])] = True
        w = contrast(codewords)
        weights = ensemble.uniform + removed.float() @ w
        exact = ensemble.pictures(weights, self.seeds, self.reverse, self.shape) - self.factual
        nearest = torch.cdist(self.factual.flatten(1), unit_images.flatten(1)).argmin(1)
        toward = torch.stack(
            [directions(self.factual[q : q + 1], unit_images[i : i + 1])[0, 0] for q, i in enumerate(nearest.tolist())]
        )
        along = torch.einsum("nqp,qp->nq", response.flatten(2), toward)
        return removed, weights, -torch.einsum("sqp,qp->sq", exact.flatten(2), toward), -w @ along

    def set_pull(
        self, removed: Tensor, moved: Tensor, query: int, response: Tensor, codewords: Tensor, unit_images: Tensor
    ) -> tuple[float, float]:
        """(first order, by retraining) of the pull of a whole set on the direction of its mean image."""
        picture = self.factual[query : query + 1]
        toward = directions(picture, unit_images[removed].mean(0, keepdim=True))[0, 0]
        weights = contrast(codewords[removed]).sum(0, keepdim=True)
        predicted = first_order(response[:, query : query + 1], weights)[0, 0]
        return -float(predicted.flatten() @ toward), -float(moved.flatten() @ toward)
