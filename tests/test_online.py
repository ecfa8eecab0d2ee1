"""tracking=online: what W&B's server gets of a training, and that a resumed one goes on in the same run."""

import pytest
import wandb
from conftest import SMALL
from loopback import served

from ddattr.artifacts import load_table
from ddattr.stages import train
from ddattr.tracking.wandb import Tracking


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


def test_a_training_arrives_with_its_config_and_curve(make_run, server):
    run = make_run("tracking=online", "member=2")
    train.run(run)
    ((name, sent),) = server.runs.items()
    assert name.startswith(f"{SMALL}-train-002-")
    assert (sent["displayName"], sent["groupName"], sent["jobType"], sent["project"]) == (
        "train-002", SMALL, "train", "ddattr",
    )  # fmt: skip
    assert sent["exit"] == 0
    config = {key: item["value"] for key, item in sent["config"].items() if key != "_wandb"}
    assert config == run.resolved()
    table = load_table(run.member_artefact(2).folder / "metrics.csv")
    curve = {row["trainer/global_step"]: row["train/loss"] for row in sent["history"] if "train/loss" in row}
    assert list(curve) == table.step.tolist()
    assert list(curve.values()) == pytest.approx(table["train/loss"].tolist(), rel=1e-6)
    assert sent["summary"]["train/loss"] == pytest.approx(table["train/loss"].iloc[-1], rel=1e-6)
    assert not server.unknown


def test_a_job_that_is_started_again_goes_on_in_its_run(tmp_path, server):
    tracking = Tracking("online", "ddattr")
    for step in (0, 1):
        with tracking.run(tmp_path, "g", "train-000", "f", {"steps": 2}) as loggers:
            loggers[0].log_metrics({"loss": 1.0 - step}, step)
    ((name, sent),) = server.runs.items()
    assert name.startswith("g-train-000-")
    assert [(row["trainer/global_step"], row["loss"]) for row in sent["history"]] == [(0, 1.0), (1, 0.0)]


def test_a_job_that_fails_is_a_failed_run(tmp_path, server):
    with pytest.raises(RuntimeError), Tracking("online", "ddattr").run(tmp_path, "g", "evaluate", "f", {}):
        raise RuntimeError("broken")
    assert [run["exit"] for run in server.runs.values()] == [1]
