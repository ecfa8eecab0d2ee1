"""Lineage at W&B: data, codebook, members, quality and attribution, validation, each the version that its bits say."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from conftest import manifest
from test_online import impatient, server, until  # noqa: F401
from test_wandb import nobody, records  # noqa: F401

from ddattr.tracking.lineage import Node, log_lineage
from ddattr.tracking.sync import send
from ddattr.tracking.wandb import Tracking

DATA = Node("data", "d", {}, {})
CODE = Node("codebook", "c", {"n": 2}, {"codebook.json": "0" * 64})


def member(k: int, digest: str = "1") -> Node:
    return Node(f"members/{k:03d}", f"m{k}", {"member": k}, {"member.safetensors": digest * 64})


def logged(root: Path, job: str) -> list[tuple[bool, str, str, dict[str, str]]]:
    """Artifacts of a job's offline run but those of its tables: whether it read them, type, name, references."""
    (path,) = root.glob(f"wandb/offline-run-*-{job}-*/*.wandb")
    kept = [r.artifact for r in records(path.read_bytes()) if r.WhichOneof("record_type") == "artifact"]
    return [
        (a.use_after_commit, a.type, a.name, {entry.path: entry.ref for entry in a.manifest.contents})
        for a in kept
        if a.type != "run_table"
    ]


def graph(server) -> set[tuple[str, str]]:  # noqa: F811
    """Edges of what a server has: from artifacts to the runs that read them, from runs to what they made."""
    called = {name: known["name"] for name, known in server.artifacts.items()}
    runs = {name: run["displayName"] for name, run in server.runs.items()}
    made = {(runs[known["made_by"]], known["name"]) for known in server.artifacts.values() if known["made_by"]}
    return made | {(called[used], runs[name]) for name, run in server.runs.items() for used in run.get("used", ())}


def trained(root: Path, mode: str, k: int, digest: str = "1") -> None:
    with Tracking(mode, "ddattr").run(root, "g", f"train-{k:03d}", "f", {}) as loggers:
        log_lineage(loggers, CODE, [DATA])
        log_lineage(loggers, member(k, digest), [DATA, CODE])
        assert loggers[0].trouble is None


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_server_has_the_same_graph_of_runs_online_and_sent_later_and_no_file(tmp_path, server, mode):  # noqa: F811
    for k in (0, 1):
        trained(tmp_path, mode, k)
    wandb.teardown()
    if mode == "offline":
        assert send(tmp_path) == 2
    ends = {("g-codebook", f"train-{k:03d}") for k in (0, 1)} | {("g-data", f"train-{k:03d}") for k in (0, 1)}
    made = {(f"train-{k:03d}", f"g-members-{k:03d}") for k in (0, 1)} | {("train-000", "g-codebook")}
    assert graph(server) == ends | made
    assert {known["type"] for known in server.artifacts.values()} == {"data", "codebook", "members"}
    assert server.committed == set(server.artifacts)
    assert {path.rpartition("/")[2] for path in server.files if "/artifacts/" in path} == {"wandb_manifest.json"}
    assert not server.unknown


def test_the_same_bits_are_the_same_version_and_others_another(tmp_path, server):  # noqa: F811
    for digest in ("1", "1", "2"):
        trained(tmp_path, "online", 0, digest)
    kept = [known for known in server.artifacts.values() if known["type"] == "members"]
    assert [known["aliases"] for known in kept] == [{"latest", "m0"}] * 2
    assert len(server.artifacts) == 2 + 2
    assert not server.unknown


@pytest.mark.parametrize("trouble", [403, pytest.param("mute", marks=pytest.mark.slow)])
def test_a_server_that_is_away_is_not_waited_for_at_each(tmp_path, server, impatient, trouble):  # noqa: F811
    with Tracking("online", "ddattr").run(tmp_path, "g", "evaluate", "f", {}) as loggers:
        server.trouble = trouble
        started = time.monotonic()
        log_lineage(loggers, Node("quality", "q", {}, {}), [member(k) for k in range(30)])
        assert time.monotonic() - started < 30  # seconds: one wait of 15, the client's own, and not 31
    assert not server.artifacts


@pytest.mark.slow
def test_a_server_that_falls_silent_over_artifacts_lets_the_run_end(tmp_path, server, impatient, capfd):  # noqa: F811
    """One is there, others are with the client, which would wait for them without end."""

    def silence() -> None:
        until(lambda: server.committed)
        server.trouble = "mute"

    threading.Thread(target=silence, daemon=True).start()
    started = time.monotonic()
    with Tracking("online", "ddattr").run(tmp_path, "g", "evaluate", "f", {}) as loggers:
        loggers[0].log_metrics({"fid": 2.0}, 0)
        for k in range(4):
            log_lineage(loggers, member(k), [])
    assert time.monotonic() - started < 60  # seconds; twice the settings' 2 and 5, where nothing else is slow
    assert capfd.readouterr().err.startswith("tracking: W&B did not take all of evaluate (")


def references(root: Path, place: str) -> dict[str, str]:
    """Those of a folder, as its manifest says."""
    kept: dict[str, Any] = manifest(root / place)
    return {
        name: f"ddattr:{place}/{name}#{digest}"
        for name, digest in (kept["files"] | {"fingerprint": kept["fingerprint"]}).items()
    }


def of(root: Path, *places: str) -> list[tuple[str, str, dict[str, str]]]:
    return [
        (place.partition("/")[0], f"digits_small-{place.replace('/', '-')}", references(root, place))
        for place in places
    ]


def test_each_job_read_and_made_what_the_manifests_say(reproduced):
    root, members = reproduced.root, [f"members/{k:03d}" for k in range(12)]
    for job, read, made in (
        ("train-003", ["codebook"], ["codebook", "members/003"]),
        ("evaluate", members, ["quality"]),
        ("attribute", members, ["attribution/default"]),
    ):
        found = logged(root, job)
        assert [one for used, *one in found if not used] == [list(one) for one in of(root, *made)]
        assert [one for used, *one in found if used and one[0] != "data"] == [list(one) for one in of(root, *read)]
    data = {json.dumps(one) for used, *one in logged(root, "train-003") if one[0] == "data"}
    assert len(data) == 1


def test_a_validation_was_made_of_quality_and_attribution(validated):
    found = logged(validated.root, "validate")
    assert [one for used, *one in found if not used] == [list(one) for one in of(validated.root, "validation")]
    assert [one for used, *one in found if used] == [
        list(one) for one in of(validated.root, "attribution/default", "quality")
    ]
