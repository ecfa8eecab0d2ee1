"""What a run will cost: by its own members where some are done here, else by steps that are timed."""

import json
import time

import pytest
import torch
from conftest import TINY, composed

from ddattr.stages import estimate
from ddattr.stages.run import Run


@pytest.fixture
def run(tmp_path):
    return Run(composed(*TINY, f"root={tmp_path}", "trainer.accelerator=cpu"))


def cost(run: Run, member: int, **changed) -> None:
    """Makes a member done, as far as its manifest says."""
    artifact = run.member_artifact(member)
    artifact.make(0, lambda: None)
    (artifact.folder / "manifest.json").write_text(json.dumps(artifact.manifest | changed))


def test_members_that_are_done_say_what_the_others_take(run):
    """Those that went through at one go on this machine; the mean of 40 and 60 s, for each of the 6."""
    assert estimate.estimate(run).measured == ""
    cost(run, 0, cpu_seconds=40.0)
    cost(run, 1, cpu_seconds=60.0)
    cost(run, 2, cpu_seconds=900.0, earlier_seconds=20.0)
    cost(run, 3, cpu_seconds=900.0, device="another")
    found = estimate.estimate(run)
    assert found.seconds["train"] == 6 * 50
    assert found.whole == 50
    assert found.measured == "train, by 2 members that are done"


def test_what_else_a_machine_does_makes_no_estimate_longer():
    """Of the processor: a call that waits a second costs next to nothing, one that works for 50 ms costs that."""

    def work() -> None:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass

    assert estimate._seconds(lambda: time.sleep(0.2), torch.device("cpu")) < 0.05
    assert 0.05 <= estimate._seconds(work, torch.device("cpu")) < 0.1


def test_an_estimate_goes_with_steps_and_members(run, monkeypatch):
    """Of what is timed: a step of training 1 s, a look 1 ms."""
    monkeypatch.setattr(estimate, "_train_step", lambda *given: 1.0)
    monkeypatch.setattr(estimate, "_drawing", lambda *given: 1e-3)
    found = estimate.estimate(run)
    steps = run.config.training.steps
    assert found.whole == steps
    assert found.seconds["train"] == run.codebook.members * steps
    more = estimate.estimate(Run(composed(*TINY, f"root={run.root}", "sampler.steps=20", "trainer.accelerator=cpu")))
    ratio = 20 / len(run.reverse)
    begin = estimate._BEGIN
    assert more.seconds["evaluate"] - begin == pytest.approx(ratio * (found.seconds["evaluate"] - begin))
