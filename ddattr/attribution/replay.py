"""What is replayed of queries on their tapes: the Jacobian, exact ablations, the members alone, the best units."""

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddattr.attribution.agreement import relative_error
from ddattr.attribution.baselines import last_step
from ddattr.attribution.counterfactual import ablated, ablated_each
from ddattr.attribution.denoising import Distinctive
from ddattr.attribution.estimator import Estimator
from ddattr.attribution.influence import gram, norm, projections, pull
from ddattr.attribution.scored import BLOCK
from ddattr.attribution.significance import TestSettings
from ddattr.attribution.streamed import Streamed
from ddattr.codebook import Codebook
from ddattr.data.datamodule import UnitDataModule
from ddattr.diffusion.process import ReverseStep
from ddattr.ensemble.ensemble import Ensemble

_SHORTLIST = 32  # units of largest z, for each that is wanted, among which those of smallest p are sought


@dataclass(frozen=True, eq=False)
class Replay:
    """How queries are replayed.

    Args:
        data: the units, and how far they are from pictures.
        settings: of the tests that choose the best units.
        jacobian: the function of that name, with its `members_per_step` and `tangents` given.
        ablated: units that are ablated for all queries.
        refine: best units of every query, by p of the tested pull and by norm, that are ablated for it.
        block: units that are scored together: a matter of memory.

    The ensemble may be `rounded`; queries that are checked are then replayed in float32 too.
    """

    ensemble: Ensemble
    codebook: Codebook
    data: UnitDataModule
    settings: TestSettings
    jacobian: partial
    ablated: Int[Tensor, "ablated"]
    refine: int
    block: int = BLOCK

    def first_order(
        self, tape: Float[Tensor, "tape q *image"], reverse: list[ReverseStep]
    ) -> tuple[Float[Tensor, "q *image"], Float[Tensor, "n q *image"]]:
        """Pictures and their Jacobian."""
        return self.jacobian(self.ensemble, tape, reverse)

    def exact(
        self,
        tape: Float[Tensor, "tape q *image"],
        reverse: list[ReverseStep],
        picture: Float[Tensor, "q *image"],
        response: Float[Tensor, "n q *image"],
        denoised: Float[Tensor, "n q *image"],
        checked: Tensor,
    ) -> dict[str, Tensor]:
        """Everything else that the tables of replayed queries are made of, from pictures, Jacobian and denoising.

        Args:
            checked: mask of the queries whose exact Jacobian is made too, to measure the rotating one, and, where
                replays are rounded, Jacobian and ablations in float32.
        """
        codewords = self._codewords
        top = self._best(picture, response, denoised)
        exact = ablated(self.ensemble, codewords[self.ablated], tape, reverse)
        return {
            "jacobian": response,
            "members": self.ensemble.replay(torch.eye(len(self.ensemble)), tape, reverse),
            "last_step": last_step(self.ensemble, tape, reverse).members,
            "ablations": exact,
            "refined_units": top,
            "refined": ablated_each(self.ensemble, codewords, top, tape, reverse, (self.ablated, exact)),
            "refined_images": self.data.unit_pictures[top],
            "rotating_error": self._rotating_error(tape, reverse, response, checked),
            **self._rounding(tape, reverse, response, exact.cpu() - picture, checked),
        }

    def pulls(
        self, picture: Float[Tensor, "q *image"], response: Float[Tensor, "n q *image"]
    ) -> Float[Tensor, "units q"]:
        """First-order pull of every unit."""
        images, codewords = self.data.unit_pictures, self._codewords
        blocks = torch.arange(len(codewords)).split(self.block)
        return torch.cat([pull(projections(response, picture, images[units]), codewords[units]) for units in blocks])

    @cached_property
    def _codewords(self) -> Tensor:
        return self.codebook.codewords(torch.arange(self.codebook.units))

    def _rotating_error(self, tape: Tensor, reverse: list[ReverseStep], response: Tensor, checked: Tensor) -> Tensor:
        """Relative error of the checked queries' Jacobian, 0 where that is the exact one; NaN of the others."""
        error = torch.where(checked, 0.0, torch.nan)
        if checked.any() and self.jacobian.keywords.get("members_per_step") is not None:
            _, full = self.jacobian(self.ensemble.at(checked), tape[:, checked], reverse, members_per_step=None)
            error[checked] = relative_error(response[:, checked], full.cpu())
        return error

    def _rounding(
        self, tape: Tensor, reverse: list[ReverseStep], response: Tensor, moved: Tensor, checked: Tensor
    ) -> dict[str, Tensor]:
        """Relative errors for rounding of checked queries' Jacobian and exact displacements, NaN of others; of
        replays in float32 none."""
        if self.ensemble.precision == torch.float32:
            return {}
        jacobian, displacement = torch.full((2, len(checked)), torch.nan)
        if checked.any():
            full, its = self.ensemble.at(checked).rounded(torch.float32), tape[:, checked]
            picture, truth = (made.cpu() for made in self.jacobian(full, its, reverse))
            exact = ablated(full, self._codewords[self.ablated], its, reverse).cpu() - picture
            jacobian[checked] = relative_error(response[:, checked], truth)
            displacement[checked] = relative_error(moved[:, checked], exact)
        return {"precision_error": jacobian, "precision_error_exact": displacement}

    def _best(self, picture: Tensor, response: Tensor, denoised: Tensor) -> Int[Tensor, "best q"]:
        """Every query's best units, by p, then by norm."""
        distance = self.data.distance(picture)
        basis = self.codebook.basis
        estimator = Estimator.of_distance(self._codewords, distance, self.settings.gls_share, basis)
        answers = Distinctive(denoised, self.data.unit_pictures, distance)
        by_pull = self._surest(Streamed(estimator, answers, self.block))
        by_norm = norm(gram(response), self._codewords).topk(self.refine, 0).indices
        return torch.cat([by_pull, by_norm])

    def _surest(self, streamed: Streamed) -> Int[Tensor, "k q"]:
        """Units of smallest p of pull, ties by z. p is asked of the units of largest z only: it is dear."""
        z = streamed.z()
        likely = z.topk(min(_SHORTLIST * self.refine, len(z)), 0).indices
        queries = torch.arange(z.shape[1]).expand_as(likely)
        answers = streamed.pairs(likely.flatten(), queries.flatten()).unflatten(1, likely.shape)
        _, p = streamed.estimator.test(answers, self._codewords[likely])
        return likely.gather(0, p.sort(dim=0, stable=True).indices[: self.refine])


def inversion_spread(pulls: Float[Tensor, "inversions units q"]) -> Float[Tensor, "q"]:
    """How far a picture's first order hangs on the noise of its inversion: the standard deviation of the pull over
    inversions, in root mean square over units, over the root mean square of the pull itself; NaN of one inversion."""
    if len(pulls) < 2:
        return torch.full(pulls.shape[2:], torch.nan, dtype=pulls.dtype)
    return (pulls.var(0).mean(0) / pulls.square().mean((0, 1))).sqrt()
