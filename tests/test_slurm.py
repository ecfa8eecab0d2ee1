"""`hydra/launcher=slurm` on a real Slurm: an array, one job killed, one put back; the bits of a serial run."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import TINY, answer, spawn
from slurm import cluster, installed, states, until

pytestmark = pytest.mark.slurm
ENSEMBLE = [*TINY, "codebook.members=12", "training.steps=60"]
SWEEP = ["train", "-m", "member=range(0,12)", *ENSEMBLE]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    assert installed(), "slurm: expected root, and munged, slurmctld and slurmd. Install slurm-wlm: apt-get install"
    with cluster(tmp_path_factory.mktemp("slurm")):
        yield


def weights(root: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(root.glob("members/*/member.safetensors"))}


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


def test_an_array_with_a_job_killed_and_one_put_back_ends_with_the_bits_of_a_serial_run(slurm, tmp_path):
    assert answer(tmp_path, *SWEEP, "root=serial").status == 0
    argv = [*SWEEP, "root=run", "hydra/launcher=slurm"]
    driver = spawn(tmp_path, *argv)
    array = submitted(tmp_path)
    killed, requeued = (tmp_path / "run" / "members" / name for name in ("000", "001"))
    until(lambda: begun(killed))
    subprocess.run(["scancel", "--signal=KILL", f"{array}_0"], check=True)
    until(lambda: begun(requeued))
    subprocess.run(["scontrol", "requeue", f"{array}_1"], check=True)
    until(lambda: states(array).get(f"{array}_1") == "PENDING")
    subprocess.run(["scontrol", "update", f"JobId={array}_1", "StartTime=now"], check=True)  # and not in two minutes
    _, err = driver.communicate(timeout=600)
    assert driver.returncode == 1
    assert err.splitlines()[-1].startswith("slurm: ")
    until(lambda: set(states(array).values()) <= {"COMPLETED", "FAILED", "CANCELLED"}, 600)
    assert list(weights(tmp_path / "run")) == [f"{k:03d}" for k in range(1, 12)]
    again = answer(tmp_path, *argv)
    assert (again.status, again.err) == (0, "")
    assert weights(tmp_path / "run") == weights(tmp_path / "serial")
