"""What a model of any kind says of the queries: its pictures on their tapes, and its loss on their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddattr.attribution.denoising import denoised
from ddattr.attribution.jacobian import jacobian
from ddattr.attribution.loss import loss_draws, residual_gram
from ddattr.diffusion.captions import Conditions
from ddattr.diffusion.inversion import inverted
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.process import Process, ReverseStep
from ddattr.ensemble.ensemble import Ensemble


@dataclass
class Queries:
    """Queries, and how models are measured on them.

    Args:
        process, reverse: training's process and the sampler's steps.
        seeds, factual: generated queries, named by their seeds, and the ensemble's pictures of them.
        real: pictures of no tape, (real, *image).
        draws: timesteps of the loss that scores are made of. The loss of the truth's models is measured at twice as
            many, with other noise, so that no score is rewarded for predicting its own draws.
        seed: of the loss's noise.
        denoisings: noised copies of a picture whose denoising is tested.
        conditions: what models are conditioned on; None where on nothing.
        condition: number of every picture's condition then, generated and real.
        held_out: that of every picture that no member saw, queries or not.
    """

    process: Process
    reverse: list[ReverseStep]
    seeds: list[int]
    factual: Tensor
    real: Tensor
    draws: int
    seed: int
    denoisings: int = 50
    conditions: Conditions | None = None
    condition: Int[Tensor, "pictures"] | None = None
    held_out: Int[Tensor, "held"] | None = None

    def __post_init__(self) -> None:
        self.shape = tuple(self.factual.shape[1:])
        self.pictures = torch.cat([self.factual, self.real])
        self.times, self.noise = loss_draws(self.draws, self.process, self.shape, self.seed)
        self.fresh = loss_draws(2 * self.draws, self.process, self.shape, self.seed, attempt=1)
        self.copies = loss_draws(self.denoisings, self.process, self.shape, self.seed, attempt=2)  # as in `attribute`
        self.names = {"generated": self.seeds, "real": list(range(len(self.real)))}

    def kinds(self) -> dict[str, slice]:
        """Where generated and real queries are among all pictures; kinds without a query are left out."""
        count = len(self.seeds)
        found = {"generated": slice(0, count), "real": slice(count, None)}
        return {kind: where for kind, where in found.items() if self.names[kind]}

    def under(self, ensemble: Ensemble, kind: str | None = None) -> Ensemble:
        """An ensemble under the conditions of a kind of queries, or of all; itself where it takes none."""
        if self.conditions is None or self.condition is None:
            return ensemble
        where = slice(None) if kind is None else self.kinds()[kind]
        return ensemble.given(self.conditions.given(self.condition[where]))

    def under_held_out(self, ensemble: Ensemble, places: Int[Tensor, "q"]) -> Ensemble:
        """An ensemble for some of the pictures that no member saw; itself where it takes no conditions."""
        if self.conditions is None or self.held_out is None:
            return ensemble
        return ensemble.given(self.conditions.given(self.held_out[places]))

    def gram(self, ensemble: Ensemble) -> Float[Tensor, "pictures n n"]:
        """Residuals' Gram of an ensemble on all pictures."""
        return residual_gram(self.under(ensemble), self.process, self.pictures, self.times, self.noise)

    def denoised(self, ensemble: Ensemble, pictures: Float[Tensor, "q *image"]) -> Float[Tensor, "n q *image"]:
        """What members denoise any pictures to, as `attribute` has it of generated ones; under what they are given."""
        return denoised(ensemble, self.process, pictures, *self.copies)

    def losses(self, networks: Sequence[nn.Module]) -> Float[Tensor, "models pictures"]:
        """Loss of every model on every picture, each alone, at fresh draws."""
        alone = [self.under(Ensemble([network])) for network in networks]
        found = [residual_gram(each, self.process, self.pictures, *self.fresh) for each in alone]
        return torch.stack(found)[..., 0, 0]

    def drawn_by(self, networks: Sequence[nn.Module]) -> Float[Tensor, "q *image"]:
        """Pictures of an ensemble of these networks on the queries' tapes."""
        ensemble = self.under(Ensemble(networks), "generated")
        return ensemble.pictures(ensemble.uniform[None], self.seeds, self.reverse, self.shape)[0]

    def distances(self, networks: Sequence[nn.Module]) -> Float[Tensor, "models q"]:
        """L2 distance of the picture of every model, each alone, to the factual on the same tape."""
        pictures = torch.stack([self.drawn_by([network]) for network in networks])
        return (pictures - self.factual).flatten(2).norm(dim=2).double()

    def jacobian(self, networks: Sequence[nn.Module], members_per_step: int | None) -> Float[Tensor, "n q *image"]:
        """Centred Jacobian of an ensemble of these networks."""
        tape = noise_tape(self.seeds, len(self.reverse), self.shape)
        return _jacobian(self.under(Ensemble(networks), "generated"), tape, self.reverse, members_per_step)[1]

    def replayed(
        self, ensemble: Ensemble, pictures: Float[Tensor, "q *image"], members_per_step: int | None
    ) -> tuple[Float[Tensor, "q *image"], Float[Tensor, "n q *image"]]:
        """Pictures of no tape are given one, of ancestral sampling: what the ensemble makes on it, and its Jacobian."""
        steps = len(self.reverse)
        reverse = self.process.reverse_steps(steps, eta=1.0)
        noise = noise_tape(range(len(pictures)), steps, self.shape)
        tape = inverted(lambda x, t: ensemble.outputs(x, t).mean(0), self.process, reverse, pictures, noise)
        return _jacobian(ensemble, tape, reverse, members_per_step)


def _jacobian(
    ensemble: Ensemble, tape: Tensor, reverse: list[ReverseStep], members_per_step: int | None
) -> tuple[Tensor, Tensor]:
    size = None if members_per_step is None else min(members_per_step, len(ensemble))
    return jacobian(ensemble, tape, reverse, size)
