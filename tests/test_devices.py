"""One member on several devices: the numbers of one device; where processes would wait for ever, a refusal."""

import subprocess
import sys

import lightning as L
import pytest
import torch
from conftest import TINY, Said, answer, environment, refused
from lightning.pytorch.plugins.environments import SLURMEnvironment
from safetensors.torch import load_file

TWO = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp")


@pytest.mark.slow
def test_two_devices_train_the_member_of_one(tmp_path):
    """Half of each batch each, on gloo. Adam divides by gradients' sizes, so that rounding of small ones grows."""
    for root, words in (("one", TWO[:1]), ("two", TWO)):
        assert answer(tmp_path, "train", "member=3", *TINY, f"root={root}", *words).status == 0
    one, two = (load_file(tmp_path / root / "members" / "003" / "member.safetensors") for root in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-4)
    losses = [(tmp_path / root / "members" / "003" / "metrics.csv").read_text() for root in ("one", "two")]
    assert len({len(text.splitlines()) for text in losses}) == 1


def test_several_devices_in_a_sweep_are_refused(ddattr, tmp_path):
    said = ddattr("train", "-m", "member=3", *TINY, "root=run", *TWO)
    refused(said, "trainer: 2 devices for each job of -m, expected 1", "trainer.devices=1")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_devices_cannot_share_equally_is_refused(ddattr):
    said = ddattr("train", "member=3", *TINY, "root=run", TWO[0], "trainer.devices=3", TWO[2])
    refused(said, "trainer: 3 devices for training.batch=4, expected a divisor of it")


def test_lightning_asks_slurm_for_nothing_beside_submitit(make_run, monkeypatch):
    """Its own plugin would, at the same signal, put a job back that submitit puts back."""
    for name, value in {"JOB_ID": "7", "JOB_NAME": "ddattr", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    plain, ours = L.Trainer(**options), make_run().trainer([], enable_checkpointing=False)
    environments = [trainer._accelerator_connector.cluster_environment for trainer in (plain, ours)]  # what it asks
    assert [isinstance(found, SLURMEnvironment) for found in environments] == [True, False]


def test_a_launcher_that_is_not_installed_is_refused_with_its_extra(tmp_path):
    hide = "import sys; sys.modules['hydra_plugins.hydra_submitit_launcher'] = None"
    command = [sys.executable, "-c", f"{hide}; from ddattr.cli import main; main()", "plan", "hydra/launcher=slurm"]
    said = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    refused(Said(said.returncode, said.stdout, said.stderr), "hydra/launcher=slurm needs submitit", "'.[slurm]'")
