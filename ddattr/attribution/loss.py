"""Influence on the loss: how much worse the ensemble denoises a picture once a unit is removed. Any picture will do.

The ensemble's residual is the weighted sum of its members' residuals, so its simple loss is v^T G v, G the members'
Gram of residuals: the exact loss change of all N units follows from n x n numbers a picture, without a replay.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddattr.codebook import ablation
from ddattr.diffusion.noise import Stream, generator
from ddattr.diffusion.process import Process
from ddattr.ensemble.ensemble import Ensemble


def loss_draws(
    draws: int, process: Process, shape: tuple[int, ...], seed: int, attempt: int = 0
) -> tuple[Int[Tensor, "draws"], Float[Tensor, "draws *image"]]:
    """Evenly spaced timesteps and the noise of each: the same for all pictures and models, so that they compare.

    Another `attempt` has other noise: what was scored on one is held against the other.
    """
    times = (2 * torch.arange(draws) + 1) * process.timesteps // (2 * draws)
    noise = [generator(seed, Stream.LOSS, step=j, attempt=attempt).standard_normal(shape) for j in range(draws)]
    return times, torch.stack([torch.from_numpy(z).float() for z in noise])


@torch.no_grad()
def residual_gram(
    ensemble: Ensemble,
    process: Process,
    pictures: Float[Tensor, "q *image"],
    times: Int[Tensor, "draws"],
    noise: Float[Tensor, "draws *image"],
) -> Float[Tensor, "q n n"]:
    """G: mean over draws and pixels of the products of two members' residuals; its diagonal is their own loss.

    Residuals are those of the noise estimate, whatever the members predict.
    """
    n = len(ensemble)
    total = torch.zeros(len(pictures), n, n, dtype=torch.float64)
    for t, z in zip(times.tolist(), noise, strict=True):
        each, when = z.to(pictures).expand_as(pictures), torch.full((len(pictures),), t, device=pictures.device)
        missed = ensemble.outputs(process.noised(pictures, z, t), t) - process.target(pictures, each, when)
        residual = missed.flatten(2).transpose(0, 1).double().cpu()
        total += process.noise_factor(t) ** 2 * (residual @ residual.mT) / residual.shape[-1]
    return total / len(times)


def loss_change(gram: Float[Tensor, "q n n"], codewords: Bool[Tensor, "units n"]) -> Float[Tensor, "units q"]:
    """Exact change of the ensemble's loss when each unit is removed; positive when it supports the picture."""
    v, loss = ablation(codewords).to(gram), gram.new_empty(len(codewords), len(gram))
    for q, one in enumerate(gram):  # no array of (units, q, n): the units may be all phantoms
        loss[:, q] = ((v @ one) * v).sum(1)
    return loss - gram.mean((1, 2))


def loss_projections(gram: Float[Tensor, "q n n"]) -> Float[Tensor, "n q"]:
    """a such that -w_i . a is the first order of the loss change: the form in which `pull` is tested."""
    return -2 * gram.mean(2).T
