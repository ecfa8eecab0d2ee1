"""A member that is killed and goes on: its one W&B run has, in the end, the whole of metrics.csv, each step once."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import wandb
from test_cut import CUT, cut
from test_online import impatient, server, until  # noqa: F401

from ddattr.files import load_table
from ddattr.stages import train
from ddattr.tracking.sync import offline, send
from ddattr.tracking.wandb import Tracking

KEYS = ("_step", "trainer/global_step", "train/loss", "val/loss_unseen")
WHOLE = [(at, at, 1.0 / (at + 1), 2.0) for at in range(10)]


def sent(server) -> list[tuple]:  # noqa: F811
    """The history of the one run as it was sent, nothing left out."""
    (run,) = server.runs.values()
    return [tuple(row[key] for key in KEYS) for row in run["history"]]


def show(root: Path, mode: str, *steps: int) -> None:
    """Shows a curve up to one step after another, the first of which is a checkpoint's."""
    with Tracking(mode, "ddattr").run(root, "g", "train-000", "f", {}) as loggers:
        for step in steps:
            loggers[0].log_curve({at: dict(zip(KEYS[2:], WHOLE[at][2:], strict=True)) for at in range(step)})
        if step < 10:
            print("shown", flush=True)
            signal.pause()


def killed(root: Path, mode: str, *steps: int, once: Callable[[], bool] = lambda: True) -> None:
    """A process that shows that and gets a SIGKILL once it has come to something."""
    if not (child := os.fork()):
        show(root, mode, *steps)
    until(once)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    time.sleep(1.1)  # a folder's name has the second


@pytest.mark.slow
def test_steps_that_the_server_has_are_not_sent_again(tmp_path, server, impatient):  # noqa: F811
    def has(count: int) -> Callable[[], bool]:
        return lambda: [len(run["history"]) for run in server.runs.values()] == [count]

    killed(tmp_path, "online", 3, 6, once=has(6))
    killed(tmp_path, "online", 4, 5, once=lambda: len(list(tmp_path.glob("wandb/run-*"))) == 2)
    killed(tmp_path, "online", 4, 7, once=has(7))
    show(tmp_path, "online", 4, 8, 10)
    assert sent(server) == WHOLE
    assert not server.unknown


@pytest.mark.slow
@pytest.mark.parametrize("between", [False, True], ids=["sent at the end", "sent in between"])
def test_logs_of_one_run_become_one_curve(tmp_path, server, between):  # noqa: F811
    with suppress(RuntimeError), Tracking("offline", "ddattr").run(tmp_path, "g", "train-000", "f", {}) as loggers:
        loggers[0].log_curve({at: dict(zip(KEYS[2:], WHOLE[at][2:], strict=True)) for at in range(6)})
        raise RuntimeError("preempted")
    wandb.teardown()  # its process writes the rest
    time.sleep(1.1)
    if between:
        assert send(tmp_path) == 1
        assert sent(server) == WHOLE[:6]
    killed(tmp_path, "offline", 4, 7, once=lambda: len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 2)
    show(tmp_path, "offline", 4, 10)
    wandb.teardown()
    assert len(offline(tmp_path)) >= 2
    send(tmp_path)
    assert sent(server) == WHOLE
    assert send(tmp_path) == 0
    assert not server.unknown


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_training_that_is_killed_and_resumed_has_its_record_at_wandb(tmp_path, server, mode):  # noqa: F811
    given = [f"tracking={mode}", "member=0", "training.epoch_steps=5"]
    assert [cut(at, train, tmp_path / "run", *given) for at in (14, 0)] == [CUT, 0]
    if mode == "offline":
        send(tmp_path / "run")
    table = load_table(tmp_path / "run" / "members" / "000" / "metrics.csv")
    assert [row[:2] for row in sent(server)] == [(step, step) for step in (4, 9, 14, 19)]
    for place, key in enumerate(KEYS[2:], 2):
        assert [row[place] for row in sent(server)] == pytest.approx(table[key].tolist(), rel=1e-6)
    assert [run["exit"] for run in server.runs.values()] == [0]
    assert not server.unknown
