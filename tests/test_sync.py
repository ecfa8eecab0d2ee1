"""`ddattr sync`: offline runs arrive once and whole, also from a folder that was moved."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
import wandb
from conftest import refused
from hypothesis import example, given
from hypothesis import strategies as st
from test_online import server  # noqa: F401
from test_wandb import nobody, read_back  # noqa: F401

from ddattr.tracking.sync import BLOCK, HEADER, _packed, _unpacked, offline, send, settle
from ddattr.tracking.wandb import Tracking, log_figures, log_panels

PANELS = [{"query": q, "factual": torch.full((1, 8, 8), q / 4)} for q in range(4)]


def attributed(root: Path) -> None:
    """An offline run with a table of pictures, a curve and a figure."""
    figure = root / "fig1.png"
    root.mkdir(exist_ok=True)
    plt.imsave(figure, torch.zeros(4, 4).numpy())
    with Tracking("offline", "ddattr").run(root, "g", "attribute", "f", {}) as loggers:
        for step in range(3):
            loggers[0].log_metrics({"loss": 1.0 / (step + 1)}, step)
        log_panels(loggers, "panels", PANELS)
        log_figures(loggers, [figure])
    read_back(root, "attribute")  # it is whole


def arrived(server) -> tuple[list, set[str]]:  # noqa: F811
    """The curve of the one run, and the names of the pictures of its table."""
    (name,) = server.runs
    assert server.runs[name]["exit"] == 0
    rows = [(row["trainer/global_step"], row["loss"]) for row in server.rows(name) if "loss" in row]
    return rows, {path.rpartition("/")[2] for path in server.files if "/artifacts/" in path and path.endswith(".png")}


CURVE = [(0, 1.0), (1, 1 / 2), (2, 1 / 3)]


def test_files_of_tables_wait_in_the_folder_of_the_run_and_nowhere_else(tmp_path, nobody, monkeypatch):  # noqa: F811
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    attributed(tmp_path / "run")
    (folder,) = offline(tmp_path / "run")
    assert len(list((folder / "artifacts" / "staging").glob("*"))) >= len(PANELS) + 1
    assert not (tmp_path / "data").exists()
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "data")
    assert settle(folder) == 0


@pytest.mark.slow
@pytest.mark.parametrize("moved", [False, True])
def test_all_of_an_offline_run_arrives_once_however_often_it_is_sent(tmp_path, server, moved):  # noqa: F811
    root = tmp_path / "run"
    attributed(root)
    if moved:
        root = Path(shutil.move(root, tmp_path / "another" / "place"))
    assert send(root) == 1
    rows, pictures = arrived(server)
    assert rows == CURVE
    assert len(pictures) == len(PANELS)
    assert any("figures/fig1" in path for path in server.files)
    assert len(server.committed) == 1
    assert not server.unknown
    before = {name: list(run["history"]) for name, run in server.runs.items()}
    assert send(root) == 0
    assert {name: run["history"] for name, run in server.runs.items()} == before


@pytest.mark.slow
def test_a_run_that_broke_off_and_was_resumed_arrives_as_one_whole_curve(tmp_path, server):  # noqa: F811
    """The second logs the last steps of the first again, as one that goes on from its checkpoint does."""
    for first, last in ((0, 6), (4, 10)):
        with suppress(RuntimeError), Tracking("offline", "ddattr").run(tmp_path, "g", "train-000", "f", {}) as loggers:
            for step in range(first, last):
                loggers[0].log_metrics({"loss": 1.0 / (step + 1)}, step)
            if last < 10:
                raise RuntimeError("preempted")
        wandb.teardown()  # its process writes the rest
        time.sleep(1.1)  # a folder's name has the second
    assert len(offline(tmp_path)) == 2
    for sent in (2, 0):
        assert send(tmp_path) == sent
        (name,) = server.runs
        curve = {row["trainer/global_step"]: row["loss"] for row in server.rows(name)}
        assert curve == {step: 1.0 / (step + 1) for step in range(10)}


@pytest.mark.slow
def test_the_verb_sends_a_folder_and_says_so_or_that_there_is_nothing_to_send(copy, server, ddattr):  # noqa: F811
    refused(ddattr("sync", str(copy)), "has no offline runs")
    attributed(copy)
    said = ddattr("sync", str(copy))
    assert (said.status, said.out) == (0, f"sync: offline runs of {copy} sent to W&B: 1\n")
    assert arrived(server)[0] == CURVE


@pytest.mark.slow
def test_what_a_server_refuses_is_said_and_sent_by_the_same_command(tmp_path, server):  # noqa: F811
    root = tmp_path / "run"
    attributed(root)
    server.trouble = 403
    with pytest.raises(ValueError, match="W&B did not take all of"):
        send(root)
    server.trouble = None
    assert send(root) == 1
    assert arrived(server)[0] == CURVE


@pytest.mark.slow
def test_the_verb_needs_a_key(copy, nobody, ddattr):  # noqa: F811
    refused(ddattr("sync", str(copy)), "sync needs a key", "wandb login")
    assert not nobody


@given(st.lists(st.integers(0, 3 * BLOCK), max_size=4))
@example([BLOCK - 2 * HEADER - k for k in (0, 7)])
@example([BLOCK - 2 * HEADER - 3, 5])
def test_a_log_that_is_written_again_holds_the_same_records(sizes):
    records = [bytes([k + 1]) * size for k, size in enumerate(sizes)]
    log = _packed(b":W&B\x00\x00\x00", records)
    assert list(_unpacked(log)) == records
    assert list(_unpacked(log[:-1])) == records[:-1]
