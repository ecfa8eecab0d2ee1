"""Cost of exact ablations that share work, against all apart: `pytest tests/benchmarks --benchmark-enable`.

The default network and members of `experiment=digits`, untrained; every query's own six units are drawn among all, as
`attribution.refine=3` has six. Medians over alternating calls of processor seconds on one thread; nothing here asserts
a timing.
"""

from collections import deque

import pytest
import torch
from conftest import composed
from measured import medians

from ddattr.attribution.counterfactual import ablated, ablated_each
from ddattr.codebook import Codebook, ablation
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.sampler import DDPM, trajectory
from ddattr.ensemble.ensemble import Ensemble
from ddattr.stages.run import Run

STEPS, QUERIES, ABLATED, OWN = 5, 4, 32, 6


@pytest.mark.parametrize("units", [32, 50, 1797])  # all are ablated for all queries, most, hardly any
def test_cost_of_exact_ablations(units, figure):
    run = Run(composed())
    n = run.config.codebook.members
    ensemble = Ensemble([run.build("unet", sample_size=[8, 8], in_channels=1, out_channels=1) for _ in range(n)])
    reverse, tape = DDPM(STEPS).reverse(run.process), noise_tape(range(QUERIES), STEPS, (1, 8, 8))
    codewords = Codebook(units, n, 8).codewords(torch.arange(units))
    draw = torch.Generator().manual_seed(0)
    known = torch.randperm(units, generator=draw)[:ABLATED].sort().values
    own = torch.randint(units, (OWN, QUERIES), generator=draw)

    def apart(words):
        weights = ablation(words)
        denoiser = ensemble.weighted(weights)
        with torch.no_grad():
            steps = trajectory(lambda x, t: denoiser(x.expand(len(weights), *x.shape[-4:]), t), reverse, tape)
            (picture,) = deque(steps, maxlen=1)
        return picture

    def all_apart():
        return apart(codewords[known]), apart(codewords[own])

    def shared():
        exact = ablated(ensemble, codewords[known], tape, reverse)
        return exact, ablated_each(ensemble, codewords, own, tape, reverse, (known, exact))

    for one, other in zip(all_apart(), shared(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    spent = medians({"apart": all_apart, "shared": shared}, 3)
    figure(f"exact ablations of {units} units", spent["shared"], "s", "all apart", spent["apart"])
