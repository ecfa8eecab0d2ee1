"""A W&B sweep whose agent's job is killed: the same member again, in the same run, from its checkpoint on."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import TINY
from slurm import until
from test_cut import started
from test_online import server  # noqa: F401

from ddattr.files import load_json, load_table
from ddattr.locks import holder
from ddattr.stages import train

MEMBERS = [*TINY, "training.steps=200"]


@pytest.mark.slow
def test_an_agent_goes_on_with_the_member_whose_job_was_killed(tmp_path, server, monkeypatch):  # noqa: F811
    monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")
    root = tmp_path / "run"
    given = [*(word for word in MEMBERS if word != "tracking=none"), "tracking=online", f"root={root}"]
    command = ["${env}", sys.executable, "-m", "ddattr", "train", *given, "${args_no_hyphens}"]
    server.sweeps["s1"] = {
        "config": {
            "method": "grid",
            "parameters": {"member": {"values": [0, 1]}},
            "command": command,
        },
        "todo": [("first", {"member": 0}), ("second", {"member": 1})],
    }
    agent = subprocess.Popen(
        [sys.executable, "-m", "wandb", "agent", "someone/ddattr/s1"], cwd=tmp_path, stdin=subprocess.DEVNULL
    )
    try:
        until(lambda: server.runs.get("first", {}).get("preempting"))
        killed = holder(root / "members" / "000")["pid"]
        os.kill(killed, signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{killed}"), 30)
        step = (load_json(root / "members" / "000" / "status.json") or {})["step"]
        assert 10 <= step < 200, "killed too late"
        assert (root / "members" / "000" / "last.ckpt").exists()
        assert agent.wait(600) == 0
    finally:
        agent.kill()
    assert server.commands == ["run", "resume", "run", "exit"]
    assert set(server.runs) == {"first", "second"}
    assert not server.unknown
    for member, name in enumerate(("first", "second")):
        started(train, tmp_path / "alone", *MEMBERS[len(TINY) :], f"member={member}")
        made, alone = (tmp_path / place / "members" / f"{member:03d}" for place in ("run", "alone"))
        for file in ("member.safetensors", "metrics.csv"):
            assert (made / file).read_bytes() == (alone / file).read_bytes()
        run, table = server.runs[name], load_table(made / "metrics.csv")
        assert run["exit"] == 0
        assert [(row["_step"], row["trainer/global_step"]) for row in run["history"]] == [(s, s) for s in table.step]
        assert [row["train/loss"] for row in run["history"]] == pytest.approx(table["train/loss"].tolist(), rel=1e-6)
