"""Cost of the Jacobian as ratios within one run: `pytest tests/benchmarks --benchmark-enable`.

The default network and queries of `experiment=digits`, untrained: the cost does not depend on the weights; and, where
there is a GPU, the 2023 paper's network on 28 x 28 pictures. Medians over repeated, interleaved calls of processor
seconds on one thread, or of the GPU's; nothing here asserts a timing.
"""

from typing import NamedTuple

import pytest
import torch
from conftest import composed, needs_cuda, torchs_forward_mode
from measured import medians
from torch import Tensor
from torch.func import jvp

from ddattr.attribution.adjoint import adjoint
from ddattr.attribution.jacobian import jacobian
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.process import ReverseStep
from ddattr.diffusion.sampler import DDPM
from ddattr.ensemble.ensemble import Ensemble
from ddattr.stages.run import Run

STEPS = 3


class Setting(NamedTuple):
    """What is timed: an ensemble, the sampler's steps, a tape."""

    ensemble: Ensemble
    reverse: list[ReverseStep]
    tape: Tensor


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_cuda)])
def setting(request) -> Setting:
    device, run = request.param, Run(composed(*(["experiment=paper_mnist"] if request.param == "cuda" else [])))
    n, size = run.config.codebook.members, 28 if device == "cuda" else 8  # without the paper's data
    networks = [run.build("unet", sample_size=[size, size], in_channels=1, out_channels=1) for _ in range(n)]
    ensemble = Ensemble(networks).to(device)
    tape = noise_tape(range(run.config.attribution.queries), STEPS, (1, size, size)).to(device)
    return Setting(ensemble, DDPM(STEPS).reverse(run.process), tape)


def forwards(setting: Setting) -> None:
    """One plain forward of n x Q pictures, per step and member."""
    ensemble, reverse, tape = setting
    pictures = tape[0].repeat(len(ensemble), 1, 1, 1)
    with torch.no_grad():
        for step in reverse:
            for k in range(len(ensemble)):
                ensemble.member(k, pictures, step.t)


def restated(setting: Setting) -> None:
    """One of the n directions of the 2023 algorithm: its tangent beside a primal pass of the whole ensemble."""
    ensemble, reverse, tape = setting

    def picture(weights):
        x = tape[0]
        for step, z in zip(reverse, tape[1:], strict=True):
            mean = sum(weights[k] * ensemble.member(k, x, step.t) for k in range(len(ensemble)))
            x = step.a * x + step.b * mean + step.c * z
        return x

    with torchs_forward_mode():
        jvp(picture, (ensemble.uniform.to(tape),), (torch.eye(len(ensemble))[0].to(tape),))


def test_cost_of_the_jacobian(setting: Setting, figure):
    """Exact and rotating, against plain forwards and against the restatement's n directions."""
    ensemble, reverse, tape = setting
    calls = {
        "forwards": lambda: forwards(setting),
        "restated": lambda: restated(setting),
        "exact": lambda: jacobian(ensemble, tape, reverse),
        "rotating": lambda: jacobian(ensemble, tape, reverse, members_per_step=2),
    }
    spent = medians(calls, 5, tape.device.type)
    later = spent["forwards"] * (STEPS - 1) / STEPS  # the first step has no tangent to propagate yet
    restatement = len(ensemble) * spent["restated"]
    on = f", {tape.device.type}"
    figure(f"exact Jacobian{on}", spent["exact"], "s", "plain forwards of n x Q pictures", later)
    figure(f"exact Jacobian{on}", spent["exact"], "s", "the 2023 algorithm restated", restatement)
    figure(f"rotating Jacobian{on}", spent["rotating"], "s", "exact Jacobian", spent["exact"])


@pytest.mark.parametrize("members", [9, 18])
def test_cost_of_a_functional(setting: Setting, figure, members):
    """Its derivative in all n weights: of every member a forward and a backward, whatever n is."""
    ensemble, reverse, tape = setting
    some = Ensemble(list(ensemble.members)[:members]).to(tape.device)

    def each_once() -> None:
        with torch.no_grad():
            for step in reverse:
                some.outputs(tape[0], step.t)

    found = adjoint(some, tape, reverse, brightness).response
    _, exact = jacobian(some, tape, reverse)
    exact = exact.flatten(2).mean(2)
    torch.testing.assert_close(found.to(exact), exact - exact.mean(0), rtol=1e-4, atol=1e-4 * exact.abs().max().item())
    calls = {
        "adjoint": lambda: adjoint(some, tape, reverse, brightness),
        "forwards": each_once,
        "exact": lambda: jacobian(some, tape, reverse),
    }
    spent = medians(calls, 5, tape.device.type)
    name = f"a functional's derivative, n = {members}, {tape.device.type}"
    figure(name, spent["adjoint"], "s", "a forward of each member", spent["forwards"])
    figure(name, spent["adjoint"], "s", "exact Jacobian", spent["exact"])


def brightness(pictures: Tensor) -> Tensor:
    return pictures.flatten(1).mean(1)
