"""Parts of one verb, on one machine or many: they share the work, and end with the bits of a single process."""

import os
import shutil
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY, composed, contents, refused

from ddattr.attribution.module import AttributionModule
from ddattr.attribution.shards import Shards
from ddattr.files import load_json
from ddattr.locks import locked
from ddattr.stages import attribute as stage
from ddattr.stages.run import Run
from ddattr.stages.training import retrain


def attributed(root: Path, part: int | None = None) -> Run:
    """A run whose own queries this process has attributed, or a part of them; two batches."""
    given = [*TINY, f"root={root}"]
    run = Run(composed(*given, "stage=attribute", f"part={'null' if part is None else part}"), given)
    stage.run(run)
    return run


def made(root: Path) -> dict[str, bytes]:
    """What a query set holds, less what says when and by whom it was made."""
    assert (root / "attribution/default/manifest.json").is_file()
    return {name: file for name, (_, file) in contents(root / "attribution/default").items() if name != "manifest.json"}


def side_by_side(*jobs: Callable[[], object]) -> list[int]:
    """Exit codes of processes that begin together."""
    processes = [get_context("fork").Process(target=job) for job in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def shard(root: Path, first: int) -> Path:
    """The folder of a shard's lock, of whichever config and batch."""
    (found,) = (root / "attribution/default/shards").glob(f"*/shard-{first:08d}")
    return found


@pytest.fixture(scope="module")
def alone(trained, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes of the tiny members."""
    root = shutil.copytree(trained, tmp_path_factory.mktemp("alone") / "run")
    attributed(root)
    return made(root)


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_parts_side_by_side_makes_the_bits_of_one_process(copy, alone, parts):
    assert side_by_side(*(lambda k=k: attributed(copy, k) for k in range(parts))) == [0] * parts
    assert made(copy) == alone


@pytest.mark.slow
def test_a_part_that_is_killed_leaves_its_shard_to_the_next(copy, alone, monkeypatch):
    """It is killed in the middle of its second one."""
    answers, asked = AttributionModule._answers, []

    def killed(module, numbers):
        asked.append(numbers)
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return answers(module, numbers)

    with monkeypatch.context() as patched:
        patched.setattr(AttributionModule, "_answers", killed)
        assert side_by_side(lambda: attributed(copy, 0)) == [-signal.SIGKILL]
    folder = shard(copy, 0).parent
    assert [path.name for path in folder.glob("*.safetensors")] == ["shard-00000000.safetensors"]
    attributed(copy, 1)
    assert made(copy) == alone
    assert not folder.parent.exists()


@pytest.mark.slow
def test_a_part_leaves_what_another_holds_and_whoever_finds_none_missing_merges(copy, alone, monkeypatch, capsys):
    make = Shards.make

    def beside(shards: Shards, numbers: torch.Tensor, answers: Callable) -> bool:
        with locked(shards.folder / "shard-00000002"):  # by another part
            return make(shards, numbers, answers)

    with monkeypatch.context() as patched:
        patched.setattr(Shards, "make", beside)
        run = attributed(copy, 0)
    assert "part 0 has done its share; other processes are at the rest" in capsys.readouterr().out
    assert [path.name for path in shard(copy, 2).parent.glob("*.safetensors")] == ["shard-00000000.safetensors"]
    assert run.attribution_artifact.state() == "missing"
    with locked(shard(copy, 2)):
        assert run.attribution_artifact.state() == "running"
    attributed(copy, 1)
    assert made(copy) == alone


def test_a_part_leaves_the_merging_to_whoever_is_at_it(copy, capsys):
    with locked(copy / "attribution/default"):
        attributed(copy, 0)
    assert "part 0 has done its share" in capsys.readouterr().out
    assert len(list((copy / "attribution/default/shards").glob("*/*.safetensors"))) == 2
    assert not (copy / "attribution/default/manifest.json").exists()


def test_a_part_that_is_late_makes_nothing_again(tmp_path):
    """Between its look at the manifest and at the shards another one has merged them."""
    shards = Shards(tmp_path / "shards", part=True, done=lambda: True)
    assert shards.make(torch.tensor([4, 5]), lambda: pytest.fail("it was made again"))
    assert shards.missing([torch.tensor([4, 5])]) == 1


def test_shards_are_left_or_waited_for(tmp_path):
    one, numbers = {"seeds": torch.tensor([4, 5])}, torch.tensor([4, 5])
    with locked(tmp_path / "shard-00000004"):
        assert not Shards(tmp_path, part=True).make(numbers, lambda: one)
    assert Shards(tmp_path, part=True).make(numbers, lambda: one)
    assert Shards(tmp_path).make(numbers, lambda: pytest.fail("it was made again"))


@pytest.mark.slow
def test_parts_are_of_a_call_and_of_no_run(ddattr, copy, alone):
    said = ddattr("attribute", "-m", "part=range(0,2)", *TINY, f"root={copy}")
    assert (said.status, said.err) == (0, "")
    assert said.out.count("attribute: already done") == 1
    assert made(copy) == alone
    assert "part" not in yaml.safe_load((copy / "config.yaml").read_text())
    assert "part" not in load_json(copy / "attribution/default/manifest.json")["config"]


def test_a_part_of_other_queries_is_a_part_too(ddattr, copy):
    argv = ["attribute", *TINY, f"root={copy}", "queries.seeds=[7,8,9]"]
    said = ddattr(*argv, "part=0")
    assert (said.status, said.err) == (0, "")
    assert ddattr(*argv).out.count("already done") == 1


def test_a_part_of_retraining_leaves_the_models_that_others_hold(make_run, copy):
    run = make_run("validation.retrained_units=5", "validation.retrained_members=2", "validation.replicates=1")
    wanted = run.validation.models()[-2:]
    retrain(run, wanted)
    weights = [run.retrained_artifact(model).folder / "member.safetensors" for model in wanted]
    whole = [path.read_bytes() for path in weights]
    shutil.rmtree(run.root / "validation")
    with locked(weights[0].parent):
        assert retrain(run, wanted, wait=False) == 1
    assert [path.exists() for path in weights] == [False, True]
    assert retrain(run, wanted, wait=False) == 1
    assert [path.read_bytes() for path in weights] == whole


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["evaluate", "part=0"], ["part=0: `attribute` and `retrain` have parts, and evaluate has none"]),
        (["attribute", "part=-1"], ["part=-1, expected an integer from 0. Set part."]),
        (["retrain", "part=half"], ["part=half, expected an integer from 0. Set part."]),
        (["attribute", "part=0", "trainer=processes"], ["2 devices for part=0, expected 1", "Leave out part="]),
    ],
)
def test_parts_that_cannot_be_are_refused(ddattr, copy, argv, words):
    refused(ddattr(*argv, *TINY, f"root={copy}"), *words)
