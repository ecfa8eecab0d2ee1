"""Cost of the Jacobian as ratios within one run: `pytest tests/benchmarks -m slow --benchmark-enable -n 0 -s`.

The default network and queries of `experiment=digits`, untrained: the cost does not depend on the weights. Medians of
processor seconds over repeated, interleaved calls on one thread; nothing here asserts a timing.
"""

import statistics
import time

import pytest
import torch
from diffusers import DDPMScheduler
from torch.func import jvp

from ddattr.attribution.jacobian import jacobian
from ddattr.diffusion.noise import noise_tape
from ddattr.diffusion.process import Process
from ddattr.diffusion.sampler import DDPM
from ddattr.diffusion.unet import UNet, forward_mode
from ddattr.ensemble.ensemble import Ensemble

N, QUERIES, STEPS, SHAPE = 18, 16, 3, (1, 8, 8)


@pytest.fixture(scope="module")
def setting():
    blocks = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, add_attention=False)
    size = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(16, 32))
    torch.manual_seed(0)
    ensemble = Ensemble([UNet(**size, **blocks, norm_num_groups=8) for _ in range(N)])
    process = Process(DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02))
    return ensemble, DDPM(STEPS).reverse(process), noise_tape(range(QUERIES), STEPS, SHAPE)


def forwards(setting) -> None:
    """One plain forward of n x Q pictures, per step and member."""
    ensemble, reverse, tape = setting
    pictures = tape[0].repeat(N, 1, 1, 1)
    with torch.no_grad():
        for step in reverse:
            for k in range(N):
                ensemble.member(k, pictures, step.t)


def restated(setting) -> None:
    """One of the n directions of the 2023 algorithm: its tangent beside a primal pass of the whole ensemble."""
    ensemble, reverse, tape = setting

    def picture(weights):
        x = tape[0]
        for step, z in zip(reverse, tape[1:], strict=True):
            mean = sum(weights[k] * ensemble.member(k, x, step.t) for k in range(N))
            x = step.a * x + step.b * mean + step.c * z
        return x

    with forward_mode(ensemble):
        jvp(picture, (ensemble.uniform,), (torch.eye(N)[0],))


@pytest.mark.slow
def test_cost_of_the_jacobian(setting, benchmark):
    """Exact and rotating, against plain forwards and against the restatement's n directions."""
    ensemble, reverse, tape = setting
    calls = {
        "forwards": lambda: forwards(setting),
        "restated": lambda: restated(setting),
        "exact": lambda: jacobian(ensemble, tape, reverse),
        "rotating": lambda: jacobian(ensemble, tape, reverse, members_per_step=2),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    rounds = 5 if benchmark.enabled else 1
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.process_time()
            call()
            times[name].append(time.process_time() - started)
    ratio = {name: statistics.median(seconds) for name, seconds in times.items()}
    # the first step has no tangent to propagate yet
    benchmark.extra_info["exact, in forwards"] = ratio["exact"] / ratio["forwards"] * STEPS / (STEPS - 1)
    benchmark.extra_info["restatement over exact"] = N * ratio["restated"] / ratio["exact"]
    benchmark.extra_info["rotating over exact"] = ratio["rotating"] / ratio["exact"]
    benchmark.pedantic(calls["rotating"], rounds=1)
    print(*(f"\n{name}: {value:.2f}" for name, value in benchmark.extra_info.items()))
    assert all(value > 0 for value in benchmark.extra_info.values())
