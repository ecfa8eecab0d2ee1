"""`hydra/launcher=slurm` on a real Slurm: arrays, a job killed, one out of time; the bits of a serial run."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import TINY, answer, composed, spawn
from slurm import cluster, installed, states, until

from ddattr.locks import holder
from ddattr.stages.run import Run

pytestmark = pytest.mark.slurm
ENSEMBLE = [*TINY, "codebook.members=12", "training.steps=60"]
LAUNCHER = ["hydra/launcher=slurm", "hydra.launcher.timeout_min=9"]
RETRAINED = ["unit=0", "validation.retrained_members=12", "validation.replicates=1"]  # its two members
MEMBERS = [f"{k:03d}" for k in range(12)]
SWEEP = ["train", "-m", "member=range(0,12)", *ENSEMBLE]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    assert installed(), "slurm: expected root, and munged, slurmctld and slurmd. Install slurm-wlm: apt-get install"
    with cluster(tmp_path_factory.mktemp("slurm")):
        yield


def step(member: Path) -> int:
    try:
        return json.loads((member / "status.json").read_text())["step"]
    except FileNotFoundError:
        return 0


def submitted(folder: Path) -> str:
    """The array's number, once it is there."""
    found: list[str] = []
    until(lambda: found.extend({path.name.partition("_")[0] for path in folder.glob("multirun/*/slurm/*_0")}) or found)
    return max(found, key=int)


def begun(member: Path) -> bool:
    """It trains, and has a checkpoint, from which more steps than it has done are left."""
    return 0 < step(member) <= 40 and (member / "last.ckpt").exists()


def restarts(job: str) -> int:
    said = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True, check=True).stdout
    return int(re.findall(r"Restarts=(\d+)", said)[0])


def printed(folder: Path, task: str) -> str:
    """What a task has printed, in all its runs."""
    return "".join(path.read_text() for path in folder.glob(f"multirun/*/slurm/{task}/*_log.out"))


def products(root: Path) -> dict[str, bytes]:
    """Weights, tables and tensors of every stage, figures by the tables behind them; less what says what they took."""
    kinds, times = (".safetensors", ".csv", ".parquet"), ("metrics.csv", "costs.csv")
    names = (path for path in sorted(root.rglob("*")) if path.suffix in kinds and path.name not in times)
    return {str(path.relative_to(root)): path.read_bytes() for path in names}


def test_reproduce_on_slurm_ends_with_the_bits_of_a_serial_run_though_jobs_are_killed_and_run_out_of_time(
    slurm, ddattr, tmp_path
):
    """The time limit is short: the signal that Slurm sends before it, sent at once, is taken for it."""
    for verb in (["train", "-m", "member=range(0,12)"], ["evaluate"], ["attribute"], ["report"]):
        assert ddattr(*verb, *ENSEMBLE, "root=serial").status == 0
    driver = spawn(tmp_path, *SWEEP, "root=run", *LAUNCHER)
    array = submitted(tmp_path)
    killed, late = (tmp_path / "run" / "members" / name for name in ("000", "001"))
    until(lambda: begun(killed))
    os.kill(holder(killed)["pid"], signal.SIGKILL)
    until(lambda: begun(late))
    training = holder(late)["pid"]
    os.kill(training, signal.SIGSTOP)  # or it may be done before Slurm has heard
    subprocess.run(["scancel", "--signal=USR2", f"{array}_1.0"], check=True)  # a step: tasks that wait take none
    os.kill(training, signal.SIGCONT)
    until(lambda: states(array).get(f"{array}_1") == "PENDING")
    subprocess.run(["scontrol", "update", f"JobId={array}_1", "StartTime=now"], check=True)  # and not in two minutes
    _, err = driver.communicate(timeout=1200)
    assert driver.returncode == 1
    assert err.splitlines()[-1].startswith("slurm: ")
    until(lambda: set(states(array).values()) <= {"COMPLETED", "FAILED", "CANCELLED"}, 1200)
    assert sorted(path.parent.name for path in (tmp_path / "run").glob("members/*/manifest.json")) == MEMBERS[1:]
    assert restarts(f"{array}_1") == 1  # Lightning asks for none beside submitit's
    assert printed(tmp_path, f"{array}_1").count("member 1: step 10 of") == 1  # it went on, and did not begin again

    said = answer(tmp_path, "reproduce", *ENSEMBLE, "root=run", *LAUNCHER)
    assert (said.status, said.err) == (0, "")
    jobs = re.findall(r"^\$ ddattr (\w+) -m (\S+)", said.out, re.M)
    assert jobs == [("train", "member=0"), ("evaluate", "hydra/launcher=slurm"), ("attribute", "'part=range(0,2)'")]
    assert products(tmp_path / "run") == products(tmp_path / "serial")

    said = answer(tmp_path, "retrain", "-m", "part=range(0,2)", *ENSEMBLE, *RETRAINED, "root=run", *LAUNCHER)
    assert (said.status, said.err) == (0, "")
    run = Run(composed(*ENSEMBLE, *RETRAINED, f"root={tmp_path / 'run'}"))
    models = [run.retrained_artifact(model) for model in run.validation.unit(0)]
    assert models
    assert all(model.done() for model in models)
