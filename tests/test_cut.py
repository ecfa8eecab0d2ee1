"""A training that is cut, wherever it writes, and started again has the bits of one that was not."""

import copy
import os
import shutil
import traceback
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path

import pytest
import torch
from conftest import TINY, composed
from omegaconf import DictConfig

from ddattr.codebook import Codebook
from ddattr.ensemble.member import AtomicCheckpointIO
from ddattr.files import load_json
from ddattr.stages import evaluate, retrain, train
from ddattr.stages.run import Run

CHECKPOINT = Path("members", "000", "last.ckpt")
CUT = 9  # exit status of a process that was cut
FEW = ("training.steps=6", "training.epoch_steps=3")  # two checkpoints, as TINY has
ADAPTERS = ("training=lora", "training.lora.target_modules=[conv1]")
SAW = next(k for k in range(6) if Codebook(12, 6, 2).contains(0, k))  # unit 0, of TINY's members


@cache
def config_of(*overrides: str) -> DictConfig:
    return composed(*TINY, *overrides)  # a third of what a tiny training takes


def started(verb, root: Path, *overrides: str) -> None:
    config = copy.deepcopy(config_of(*overrides))
    config.root = str(root)
    verb.run(Run(config, [*TINY, f"root={root}", *overrides]))


def forked(written: Callable[[int], object], verb, root: Path, *overrides: str) -> int:
    """Exit status of a process that runs a verb, and of which `written` is told the number of every write."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    replace, number = os.replace, count(1)

    def counted(part, path) -> None:
        replace(part, path)
        written(next(number))

    os.replace = counted
    try:
        started(verb, root, *overrides)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def cut(at: int, verb, root: Path, *overrides: str) -> int:
    """Exit status of a process that runs a verb and ends, as by SIGKILL, after its write number `at`."""
    return forked(lambda number: number == at and os._exit(CUT), verb, root, *overrides)


def copied(verb, root: Path, into: Path, *overrides: str) -> list[Path]:
    """Copies of a run's folder after each write of a process that goes on: what SIGKILL would leave there then."""
    into.mkdir()
    assert forked(lambda number: shutil.copytree(root, into / str(number), symlinks=True), verb, root, *overrides) == 0
    return sorted(into.iterdir(), key=lambda folder: int(folder.name))


def results(root: Path) -> dict[str, bytes]:
    """What a training leaves: weights and curves."""
    paths = [*root.rglob("*.safetensors"), *root.rglob("*.csv")]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize(
    ("verb", "overrides", "writes"),
    [
        (train, ["member=0", *FEW], 12),
        pytest.param(evaluate, [], 6, marks=pytest.mark.slow),
        pytest.param(train, ["member=0", *FEW, "training.ema=null"], 12, marks=pytest.mark.slow),
        pytest.param(train, ["member=0", *FEW, "training=forked", "training.fork.steps=6"], 24, marks=pytest.mark.slow),
        pytest.param(train, ["member=0", *FEW, *ADAPTERS], 12, marks=pytest.mark.slow),
        pytest.param(
            retrain, ["unit=0", f"member={SAW}", *FEW, "validation.retrained_members=6"], 12, marks=pytest.mark.slow
        ),
    ],
    ids=["member", "extractor", "without average", "base and fork", "adapter", "retrained"],
)
def test_cut_after_any_write_and_started_again_it_has_the_same_bits(verb, overrides, writes, trained, tmp_path):
    def root(name: str) -> Path:
        if verb is evaluate:  # of members that are there
            (tmp_path / name).mkdir()
            for part in ("members", "codebook"):
                (tmp_path / name / part).symlink_to(trained / part)
        return tmp_path / name

    parts = copied(verb, root("whole"), tmp_path / "parts", *overrides)
    expected = results(tmp_path / "whole")
    assert len(parts) >= writes  # all that there are are tried
    at = len(parts) // 2
    assert cut(at, verb, root("killed"), *overrides) == CUT
    assert names(tmp_path / "killed") == names(parts[at - 1])
    assert results(tmp_path / "killed") == results(parts[at - 1])
    for folder in parts:
        assert cut(0, verb, folder, *overrides) == 0, f"write {folder.name}"
        assert results(folder) == expected, f"write {folder.name}"


@pytest.mark.slow
def test_a_finished_checkpoint_without_its_member_becomes_the_average_and_trains_no_step(tmp_path, capsys):
    started(train, tmp_path / "whole", "member=0", *FEW)
    at = 1
    while cut(at, train, tmp_path / f"{at}", "member=0", *FEW) == CUT:
        folder = tmp_path / f"{at}" / "members" / "000"
        if (folder / "last.ckpt").exists() and not (folder / "member.safetensors").exists():
            last = AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt")
            if last["global_step"] == 6:
                break
        at += 1
    current, average = last["current_model_state"], last["state_dict"]
    assert any(not torch.equal(current[name], average[name]) for name in average)
    capsys.readouterr()
    started(train, tmp_path / f"{at}", "member=0", *FEW)
    assert "member 0: step" not in capsys.readouterr().out
    made, whole = (tmp_path / name / "members" / "000" / "member.safetensors" for name in (f"{at}", "whole"))
    assert made.read_bytes() == whole.read_bytes()
    assert (load_json(folder / "status.json") or {})["state"] == "done"


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A run whose member 0 was killed after its first checkpoint."""
    root, at = tmp_path_factory.mktemp("begun") / "run", 1
    while not (root / CHECKPOINT).exists():
        assert cut(at, train, root, "member=0") == CUT
        at += 1
    return root


@pytest.mark.parametrize("damage", ["truncated", "foreign", "another network", "half"])
def test_a_checkpoint_that_cannot_be_resumed_is_one_line_that_says_what_to_do(ddattr, begun, tmp_path, damage):
    root = shutil.copytree(begun, tmp_path / "run")
    given, checkpoint = [*TINY, f"root={root}", "member=0"], root / CHECKPOINT
    whole = torch.load(checkpoint, weights_only=True)
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    elif damage == "foreign":
        checkpoint.write_text("no checkpoint")
    elif damage == "half":
        torch.save({"state_dict": whole["state_dict"]}, checkpoint)
    else:
        weights = {name: value[..., :1] for name, value in whole["state_dict"].items()}
        torch.save(whole | {"state_dict": weights}, checkpoint)
    said = ddattr("train", *given)
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert str(checkpoint) in said.err
    assert "Delete that file" in said.err
    checkpoint.unlink()
    assert ddattr("train", *given).status == 0
