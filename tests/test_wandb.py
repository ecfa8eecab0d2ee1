"""W&B is a view of the artifacts: what an offline run writes, read back; and that nothing is asked of a network."""

import json
import os
import re
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from conftest import SMALL, composed
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image
from wandb.proto import wandb_internal_pb2 as protocol

from ddattr.files import load_json, load_table
from ddattr.stages import train
from ddattr.stages.run import Run
from ddattr.tracking.panels import panels
from ddattr.tracking.wandb import Tracking, log_panels, run_id

HEADER, BLOCK = 7, 32768  # of the log that a .wandb file is: LevelDB's format


def records(content: bytes) -> Iterator[protocol.Record]:
    """Records of a .wandb file; stops where a writer has not got to yet."""
    place, parts = HEADER, b""
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        check, length, kind = struct.unpack("<IHB", content[place : place + HEADER])
        body = content[place + HEADER : place + HEADER + length]
        if kind == 0 or len(body) < length:
            return
        assert zlib.crc32(body, zlib.crc32(bytes([kind]))) & 0xFFFFFFFF == check
        place, parts = place + HEADER + length, parts + body
        if kind in (1, 4):  # whole, or the last part
            record = protocol.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def _put(target: dict, item: Any) -> None:
    *path, last = list(item.nested_key) or [item.key]
    for key in path:
        target = target.setdefault(key, {})
    target[last] = json.loads(item.value_json)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        "config": {},
        "summary": {},
        "history": [],
        "metrics": {},
        "exit": None,
        "run": None,
        "files": [],
    }
    for record in records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"] = record.run
            for item in record.run.config.update:
                _put(found["config"], item)
        elif kind == "config":
            for item in record.config.update:
                _put(found["config"], item)
        elif kind == "summary":
            for item in record.summary.update:
                _put(found["summary"], item)
        elif kind == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                _put(row, item)
            found["history"].append(row)
        elif kind == "metric":
            found["metrics"][record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "artifact":
            found["files"] += [(entry.path, entry.local_path) for entry in record.artifact.manifest.contents]
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def pictures(found: dict[str, Any]) -> list[Path]:
    """Pictures of a run's tables, as they wait to be sent."""
    paths = [Path(local) for name, local in found["files"] if name.endswith(".png")]
    assert all(path.stat().st_size > 50 for path in paths)
    return paths


def read_back(root: Path, job: str) -> dict[str, Any]:
    """The offline run of a job; waits for its exit record, which W&B's own process writes."""
    (path,) = root.glob(f"wandb/offline-run-*-{job}-*/*.wandb")
    for _ in range(600):
        found = _read(path)
        if found["exit"] is not None:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{path} has no exit record")


@pytest.fixture
def nobody(tmp_path, monkeypatch) -> Iterator[list]:
    """A user without key, settings and terminal, whose every way out leads to a server that counts who comes."""
    came: list = []
    server = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                came.append(server.accept()[0])
            except OSError:
                return

    threading.Thread(target=listen, daemon=True).start()
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "WANDB_BASE_URL"):
        monkeypatch.setenv(name, address)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    wandb.teardown()  # its process keeps the environment that it began with
    yield came
    wandb.teardown()
    server.close()


def test_a_training_is_one_run_with_its_config_and_curves_and_asks_nothing(make_run, nobody):
    run = make_run("tracking=offline", "member=2")
    train.run(run)
    found = read_back(run.root, "train-002")
    assert found["exit"] == 0
    assert (found["run"].run_group, found["run"].job_type, found["run"].display_name) == (
        SMALL,
        "train",
        "train-002",
    )
    assert found["run"].project == "ddattr"
    config = {key: value for key, value in found["config"].items() if key != "_wandb"}
    assert config == run.resolved()
    assert "${" not in json.dumps(config)
    assert found["metrics"]["*"] == "trainer/global_step"
    table = load_table(run.member_artifact(2).folder / "metrics.csv")
    curve = {row["trainer/global_step"]: row["train/loss"] for row in found["history"] if "train/loss" in row}
    assert list(curve) == table.step.tolist()
    assert list(curve.values()) == pytest.approx(table["train/loss"].tolist(), rel=1e-6)
    assert any("val/loss_unseen" in row for row in found["history"])
    assert all("trainer/global_step" in row for row in found["history"])
    assert not nobody, "somebody was asked over the network"


LONG = "digits_with_one_replicate_of_every_member_and_a_long_name_60"


@given(*[st.tuples(st.text(), st.text(), st.text())] * 2)
@example((LONG, "train-000", "f"), (LONG, "train-001", "f"))
@example((LONG, "train-000", "f"), (LONG, "train-000", "g"))
@example(("a-b", "c", "f"), ("a", "b-c", "f"))
@example(("a", "b", "c"), ("a/", "b", "c"))
def test_an_id_is_one_that_wandb_takes_and_belongs_to_one_job(one, other):
    assume(one != other)
    assert run_id(*one) != run_id(*other)
    for job in (one, other):
        assert run_id(*job) == run_id(*job)
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", run_id(*job))
        assert wandb.Settings(run_id=run_id(*job)).run_id == run_id(*job)


def test_an_id_can_be_read():
    assert run_id("digits", "train-003", "f").startswith("digits-train-003-")
    assert len(LONG) == 60
    assert run_id(LONG, "train-003", "f").startswith("digits_with_one_repl-train-003-")


def test_two_runs_in_one_process_do_not_mix(tmp_path, nobody):
    tracking = Tracking("offline", "ddattr")
    for job, value in (("train-000", 1.0), ("train-001", 2.0)):
        with tracking.run(tmp_path, "g", job, job, {"job": job}) as loggers:
            for logger in loggers:
                logger.log_metrics({"loss": value}, 3)
    assert wandb.run is None
    for job, value in (("train-000", 1.0), ("train-001", 2.0)):
        found = read_back(tmp_path, job)
        assert [row["loss"] for row in found["history"]] == [value]
        assert found["config"]["job"] == job


def test_a_run_that_fails_is_finished_and_leaks_into_no_other(tmp_path, nobody, capfd):
    tracking = Tracking("offline", "ddattr")
    with pytest.raises(RuntimeError, match="broken"), tracking.run(tmp_path, "g", "evaluate", "a", {}):
        raise RuntimeError("broken")
    assert wandb.run is None
    with tracking.run(tmp_path, "g", "attribute", "b", {}) as loggers:
        loggers[0].log_metrics({"x": 1.0}, 0)
    assert read_back(tmp_path, "evaluate")["exit"] == 1
    assert not read_back(tmp_path, "evaluate")["history"]
    assert read_back(tmp_path, "attribute")["exit"] == 0
    assert capfd.readouterr() == ("", "")


def test_a_run_goes_on_without_the_clients_own_process(tmp_path, nobody, capfd):
    with Tracking("offline", "ddattr").run(tmp_path, "g", "train-000", "f", {}) as loggers:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        (core,) = [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "wandb-core\n"]
        os.kill(core, signal.SIGKILL)
        for step in range(100):
            loggers[0].log_metrics({"loss": 1.0}, step)
        log_panels(loggers, "panels", [{"query": 0}])
    said = capfd.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"tracking: W&B did not take all of train-000 \(.*\)\. Send it later: .*\n", said.err)
    with Tracking("offline", "ddattr").run(tmp_path, "g", "evaluate", "f", {}) as loggers:
        loggers[0].log_metrics({"loss": 1.0}, 0)
    assert len(read_back(tmp_path, "evaluate")["history"]) == 1


def test_disabled_writes_nothing(make_run, nobody):
    run = make_run("tracking=none", "member=0")
    with run.tracking.run(run.root, "g", "train-000", "f", {}) as loggers:
        assert loggers == []
    assert not run.root.exists()
    train.run(run)
    assert not (run.root / "wandb").exists()
    assert not list(run.root.rglob("*.wandb"))


def test_online_without_a_key_is_refused_in_one_line(nobody):
    with pytest.raises(ValueError, match=r"^tracking: mode=online needs a key\. Run `wandb login`") as error:
        Tracking("online", "ddattr")
    assert "\n" not in str(error.value)
    assert not nobody


def test_a_mode_of_another_name_is_refused():
    with pytest.raises(ValueError, match="mode=ofline, expected offline, online, disabled"):
        Tracking("ofline", "ddattr")


def test_a_panel_is_a_table_with_pictures(tmp_path, nobody):
    rows = [{"query": q, "factual": torch.full((c, 8, 8), float(q)), "q_value": 0.5} for q, c in ((0, 1), (1, 3))]
    with Tracking("offline", "ddattr").run(tmp_path, "g", "attribute", "f", {}) as loggers:
        log_panels(loggers, "panels", rows)
        log_panels(loggers, "none", [])
    found = read_back(tmp_path, "attribute")
    (path,) = tmp_path.glob("wandb/offline-run-*/files/media/table/panels*.json")
    table = load_json(path)
    assert table["columns"] == ["query", "factual", "q_value"]
    assert [row[0] for row in table["data"]] == [0, 1]
    assert len(pictures(found)) == 2
    assert not list(tmp_path.glob("wandb/offline-run-*/files/media/table/none*"))


@pytest.mark.parametrize("job", [*(f"train-{k:03d}" for k in (0, 11)), "evaluate", "attribute", "report"])
def test_reproduce_leaves_one_finished_run_for_every_job_in_one_group(reproduced, job):
    found = read_back(reproduced.root, job)
    assert found["exit"] == 0
    assert (found["run"].run_group, found["run"].job_type) == (SMALL, job.partition("-")[0])
    assert found["metrics"]["*"] == "trainer/global_step"
    config = {key: value for key, value in found["config"].items() if key != "_wandb"}
    spread = ["trainer=processes"] if f"$ ddattr {job} trainer=processes " in reproduced.said.out else []
    expected = Run(composed(f"experiment={SMALL}", f"stage={job.partition('-')[0]}", *spread)).resolved()
    expected["member"] = int(job.partition("-")[2]) if "-" in job else None
    assert config == expected


def test_agreement_is_logged_with_the_method_in_its_key(reproduced):
    found = read_back(reproduced.root, "attribute")
    table = load_table(reproduced.root / "attribution" / "default" / "agreement_summary.csv").query("measure == 'norm'")
    logged = {key: value for row in found["history"] for key, value in row.items()}
    for row in table.itertuples():
        assert logged[f"agreement/{row.truth}/{row.method}/{row.statistic}"] == pytest.approx(row.mean, rel=1e-5)
    assert "agreement/ablation/jvp/spearman" in logged


def test_quality_is_logged_against_the_number_of_members(reproduced):
    found = read_back(reproduced.root, "evaluate")
    table = load_table(reproduced.root / "quality" / "fid.csv")
    grown = table[table.kind == "ensemble"].groupby("members").fid.mean()
    curve = {
        row["trainer/global_step"]: row["quality/ensemble/fid"]
        for row in found["history"]
        if "quality/ensemble/fid" in row
    }
    assert list(curve) == grown.index.tolist()
    assert list(curve.values()) == pytest.approx(grown.tolist(), rel=1e-5)
    alone = [row["quality/individual/fid"] for row in found["history"] if "quality/individual/fid" in row]
    assert alone == pytest.approx([table[table.kind == "individual"].fid.mean()], rel=1e-5)


@pytest.mark.parametrize("kind", ["to_all", "disjoint"])
def test_convergence_is_logged_against_the_number_of_members(reproduced, kind):
    table = load_table(reproduced.root / "quality" / "convergence.csv").query("kind == @kind")
    expected = table.groupby("members").distance_mean.mean()
    rows = read_back(reproduced.root, "evaluate")["history"]
    key = f"quality/distance/{kind}"
    curve = {row["trainer/global_step"]: row[key] for row in rows if key in row}
    assert list(curve) == expected.index.tolist()
    assert list(curve.values()) == pytest.approx(expected.tolist(), rel=1e-5)


def test_every_cell_of_the_attribution_panels_is_what_the_run_says(reproduced):
    found = read_back(reproduced.root, "attribute")
    staged = {name: Path(local) for name, local in found["files"]}
    table = load_json(staged["attribution/panels.table.json"])
    expected = panels(reproduced.root, reproduced.root / "attribution" / "default")
    assert len(table["data"]) == len(expected) == 6 * 2 * 2
    assert table["columns"] == list(expected[0])
    for cells, row in zip(table["data"], expected, strict=True):
        for cell, value in zip(cells, row.values(), strict=True):
            if isinstance(value, torch.Tensor):
                shown = np.asarray(Image.open(staged[cell["path"]]).convert("L"))[::8, ::8]
                assert shown.tolist() == ((value[0].clamp(-1, 1) + 1) * 127.5).round().int().tolist()
            else:
                assert cell == pytest.approx(value, nan_ok=True)
    assert 6 < len(pictures(found)) <= 5 * len(expected)  # W&B keeps equal pictures once


def test_figures_are_pictures_of_the_reports_run(reproduced):
    found = read_back(reproduced.root, "report")
    logged = {key for row in found["history"] for key in row if key.startswith("figures/")}
    assert logged == {f"figures/{path.stem}" for path in (reproduced.root / "figures").glob("*.png")}
