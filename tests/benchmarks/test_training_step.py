"""A step of a member's training beside a bare loop of the same step, and beside the machine's matrix multiplication.

`pytest tests/benchmarks/test_training_step.py --benchmark-enable`. The default network, batch and average. After every
step that the stage's Trainer makes of one network, the bare loop makes it of another, so that what else the machine
does falls on both; at the end both have the same bits. Nothing here asserts a timing.
"""

import statistics
from collections.abc import Callable
from copy import deepcopy
from time import perf_counter, process_time
from typing import Any

import lightning as L
import pytest
import torch
from conftest import composed, needs_cuda
from measured import seconds
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ddattr.data.pictures import Images
from ddattr.ensemble.member import MemberModule
from ddattr.stages import training
from ddattr.stages.run import Run

STEPS, SIDE = 60, 1024


def loop(module: MemberModule, images: Images, device: str) -> tuple[Callable[[int], None], list[Tensor]]:
    """One step of a training written down plainly, by its number; and the average of the weights, which it moves."""
    network = module.network.to(device)
    parameters = list(network.parameters())
    averages = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, module.learning_rate, weight_decay=module.weight_decay, fused=True)

    def step(s: int) -> None:
        optimizer.param_groups[0]["lr"] = module.learning_rate * module._rate(s)
        draws = module.draws
        given = images[draws.images(s)], draws.noise(s).to(device), draws.times(s).to(device)
        optimizer.zero_grad()
        module.process.loss(network, *given).mean().backward()
        nn.utils.clip_grad_norm_(parameters, module.gradient_clip)
        optimizer.step()
        kept = torch.tensor((1 + s) / (10 + s) if s else 0.0).clamp(max=module.ema).item()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - kept)

    return step, averages


class Beside(L.Callback):
    """Makes the bare loop's step before each of the Trainer's, and keeps the seconds of both."""

    def __init__(self, step: Callable[[int], None], device: str):
        self.step = step
        self.device = device
        self.ours: list[float] = []
        self.bare: list[float] = []
        self.left: float | None = None

    def now(self) -> float:
        if self.device == "cpu":
            return process_time()
        torch.cuda.synchronize()
        return perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        came = self.now()
        if self.left is not None:
            self.ours.append(came - self.left)
        self.step(trainer.global_step)
        self.left = self.now()
        self.bare.append(self.left - came)


def floor(module: MemberModule, images: Images, device: str) -> float:
    """Seconds that a step's multiplications take at the rate of large square matrices."""
    draws = module.draws
    given = images[draws.images(0)], draws.noise(0).to(device), draws.times(0).to(device)
    with FlopCounterMode(display=False) as counted:
        module.process.loss(module.network.to(device), *given).mean().backward()
    a, b = torch.randn(2, SIDE, SIDE, device=device)
    best = min(seconds(lambda: a @ b, device) for _ in range(20))
    return counted.get_total_flops() * best / (2 * SIDE**3)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_training_step(device, tmp_path, monkeypatch, figure):
    given = [f"root={tmp_path}", "tracking=none", f"training.steps={STEPS}", f"trainer.accelerator={device}"]
    run = Run(composed(*given), given)
    module, copy = training.build(run, 0), training.build(run, 0)
    images = run.data.images.to(device)
    step, averages = loop(copy, images, device)
    beside, own = Beside(step, device), module.configure_callbacks
    monkeypatch.setattr(module, "configure_callbacks", lambda: [*own(), beside])
    artifact = run.member_artifact(0)
    artifact.folder.mkdir(parents=True)
    training.train(run, module, artifact, "member 0")
    assert all(torch.equal(a, b.to(device)) for a, b in zip(averages, module.network.parameters(), strict=True))
    ours, bare = (statistics.quantiles(found[5:], n=4)[0] for found in (beside.ours, beside.bare))  # the undisturbed
    figure(f"training step, {device}", 1e3 * ours, "ms", "bare loop of the same step", 1e3 * bare)
    least = floor(deepcopy(copy), images, device)
    figure(f"bare loop's step, {device}", 1e3 * bare, "ms", "its multiplications, at a matrix's rate", 1e3 * least)
