"""tracking=online: what W&B's server gets of a training, also of one that is resumed, or that it was away from."""

import os
import pty
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import matplotlib.pyplot as plt
import pytest
import torch
import wandb
from conftest import SMALL
from loopback import Server, served

from ddattr.files import load_table
from ddattr.stages import train
from ddattr.tracking.wandb import Tracking, log_figures, log_panels


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on the loopback, and a user whose key it takes."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    with served() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()  # its process keeps the environment that it began with
        yield server
        wandb.teardown()


@pytest.fixture
def impatient(monkeypatch):
    """A client that waits for two seconds where it waits, and sends every second, which is as often as it can."""
    for name, value in {"INIT": "2", "FINISH": "2", "HTTP": "2"}.items():
        monkeypatch.setenv(f"WANDB_{name}_TIMEOUT", value)
    monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")


@pytest.fixture
def refused(monkeypatch):
    """An address where nobody listens, in the place of the server's."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{bound.getsockname()[1]}")
        yield


def until(done: Callable[[], bool]) -> None:
    """Waits for what another process does; a minute at most."""
    for _ in range(1200):
        if done():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within a minute")


def send(line: str, server: Server) -> list[dict]:
    """Does what the one line of a run says; gives the rows that its server then has."""
    (command,) = re.fullmatch(r"tracking: .*\. Send it later: (wandb sync .*)\n", line).groups()
    server.trouble = None
    subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        env={**os.environ, **server.environment},
        cwd=os.environ["HOME"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=120,
    )
    (name,) = server.runs
    assert server.runs[name]["exit"] == 0
    return server.rows(name)


def curve(rows: list[dict]) -> list[tuple[int, float]]:
    return [(row["trainer/global_step"], row["loss"]) for row in rows]


def test_a_training_arrives_with_its_config_and_curve(make_run, server):
    run = make_run("tracking=online", "member=2")
    train.run(run)
    ((name, sent),) = server.runs.items()
    assert name.startswith(f"{SMALL}-train-002-")
    assert (sent["displayName"], sent["groupName"], sent["jobType"], sent["project"]) == (
        "train-002",
        SMALL,
        "train",
        "ddattr",
    )
    assert sent["exit"] == 0
    config = {key: item["value"] for key, item in sent["config"].items() if key != "_wandb"}
    assert config == run.resolved()
    table = load_table(run.member_artifact(2).folder / "metrics.csv")
    curve = {row["trainer/global_step"]: row["train/loss"] for row in sent["history"] if "train/loss" in row}
    assert list(curve) == table.step.tolist()
    assert list(curve.values()) == pytest.approx(table["train/loss"].tolist(), rel=1e-6)
    assert sent["summary"]["train/loss"] == pytest.approx(table["train/loss"].iloc[-1], rel=1e-6)
    assert not server.unknown


def test_a_job_that_is_started_again_goes_on_in_its_run_and_says_nothing(tmp_path, server, capfd):
    tracking = Tracking("online", "ddattr")
    for step in (0, 1):
        with tracking.run(tmp_path, "g", "train-000", "f", {"steps": 2}) as loggers:
            loggers[0].log_metrics({"loss": 1.0 - step}, step)
    ((name, sent),) = server.runs.items()
    assert name.startswith("g-train-000-")
    assert [(row["trainer/global_step"], row["loss"]) for row in sent["history"]] == [(0, 1.0), (1, 0.0)]
    assert capfd.readouterr() == ("", "")


def test_a_job_that_fails_is_a_failed_run(tmp_path, server):
    with pytest.raises(RuntimeError), Tracking("online", "ddattr").run(tmp_path, "g", "evaluate", "f", {}):
        raise RuntimeError("broken")
    assert [run["exit"] for run in server.runs.values()] == [1]


def test_a_run_that_nobody_answers_is_logged_offline_and_can_be_sent_later(tmp_path, server, refused, impatient, capfd):
    with Tracking("online", "ddattr").run(tmp_path, "g", "train-000", "f", {}) as loggers:
        said = capfd.readouterr()
        for step in range(3):
            loggers[0].log_metrics({"loss": 1.0 / (step + 1)}, step)
    assert said.out == ""
    assert said.err.startswith("tracking: W&B did not let train-000 begin, so it is logged offline (")
    assert "connection refused" in said.err
    assert capfd.readouterr() == ("", "")
    assert not server.runs
    assert curve(send(said.err, server)) == [(0, 1.0), (1, 1 / 2), (2, 1 / 3)]


@pytest.mark.parametrize("trouble", [401, 403, 503, "dead", "mute"])
def test_a_run_that_a_server_does_not_let_begin_is_logged_offline(tmp_path, server, impatient, capfd, trouble):
    server.trouble = trouble
    with Tracking("online", "ddattr").run(tmp_path, "g", "train-000", "f", {}) as loggers:
        loggers[0].log_metrics({"loss": 1.0}, 0)
    assert curve(send(capfd.readouterr().err, server)) == [(0, 1.0)]


def test_a_key_that_is_none_stops_no_run(tmp_path, server, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", "no key")
    with Tracking("online", "ddattr").run(tmp_path, "g", "train-000", "f", {}) as loggers:
        loggers[0].log_metrics({"loss": 1.0}, 0)
    assert curve(send(capfd.readouterr().err, server)) == [(0, 1.0)]


@pytest.mark.parametrize("trouble", [403, 503, "dead", "mute"])
def test_a_run_goes_on_without_its_server_and_the_rest_can_be_sent(tmp_path, server, impatient, capfd, trouble):
    with Tracking("online", "ddattr").run(tmp_path, "g", "train-000", "f", {}) as loggers:
        for step in range(20):
            if step == 10:
                until(lambda: len(next(iter(server.runs.values()))["history"]) == 10)
                server.trouble = trouble
            loggers[0].log_metrics({"loss": 1.0 / (step + 1)}, step)
    (run,) = server.runs.values()
    assert len(run["history"]) == 10
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("tracking: W&B did not take all of train-000 (")
    assert curve(send(said.err, server)) == [(step, 1.0 / (step + 1)) for step in range(20)]


@pytest.mark.parametrize("trouble", [403, pytest.param("mute", marks=pytest.mark.slow)])
def test_a_table_and_figures_stop_no_run_whose_server_is_away(tmp_path, server, impatient, capfd, trouble):
    figure = tmp_path / "fig1.png"
    plt.imsave(figure, torch.zeros(4, 4).numpy())
    with Tracking("online", "ddattr").run(tmp_path, "g", "attribute", "f", {}) as loggers:
        server.trouble = trouble
        log_panels(loggers, "panels", [{"query": 0, "factual": torch.zeros(1, 8, 8)}])
        log_figures(loggers, [figure])
    (row,) = send(capfd.readouterr().err, server)
    assert "figures/fig1" in row


@pytest.mark.slow
def test_a_training_whose_server_falls_silent_is_done_and_wholly_kept(make_run, server, impatient, capfd):
    def silence() -> None:
        until(lambda: any(run["history"] for run in server.runs.values()))
        server.trouble = "mute"

    thread = threading.Thread(target=silence, daemon=True)
    thread.start()
    run = make_run("tracking=online", "member=2", "training.steps=200")
    train.run(run)
    thread.join()
    artifact = run.member_artifact(2)
    assert artifact.done()
    table = load_table(artifact.folder / "metrics.csv")
    rows = {
        row["trainer/global_step"]: row["train/loss"]
        for row in send(capfd.readouterr().err, server)
        if "train/loss" in row
    }
    assert list(rows) == table.step.tolist()
    assert list(rows.values()) == pytest.approx(table["train/loss"].tolist(), rel=1e-6)


@pytest.mark.slow
def test_on_a_terminal_nothing_is_asked_and_one_line_is_said(tmp_path, server, refused, impatient):
    command = [
        sys.executable,
        "-m",
        "ddattr",
        "train",
        f"experiment={SMALL}",
        "member=0",
        "training.steps=20",
        "tracking=online",
        f"root={tmp_path / 'run'}",
    ]
    ours, theirs = pty.openpty()
    said: list[bytes] = []

    def listen() -> None:
        with suppress(OSError):  # how a terminal that everybody has left ends
            while heard := os.read(ours, 1 << 16):
                said.append(heard)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    done = subprocess.run(command, stdin=theirs, stdout=theirs, stderr=theirs, timeout=300)
    os.close(theirs)
    thread.join()
    os.close(ours)
    screen = b"".join(said).decode()
    assert done.returncode == 0, screen
    assert screen.count("tracking: W&B did not let train-000 begin, so it is logged offline (") == 1
    assert "wandb:" not in screen
    assert "Traceback" not in screen
