"""A sweep names every job that failed, whichever launcher ran it, and the command line of exactly these."""

import itertools
import os
import shlex
from pathlib import Path

import pytest
from conftest import TINY, answer
from hypothesis import given
from hypothesis import strategies as st

from ddattr.cli.sweep import NOTES, going_on, grids, jobs, reported
from ddattr.stages import training

MISSING = [f"member={k}: member={k} does not exist: members are 0 to 5. Set member." for k in (6, 7)]


def test_every_failed_job_has_its_line_and_the_last_line_goes_on_with_them(ddattr, copy):
    said = ddattr("train", "-m", "member=range(4,8)", *TINY, f"root={copy}")
    assert said.status == 2
    *lines, last = said.err.splitlines()
    assert lines == MISSING
    head, _, again = last.partition("go on: ")
    assert head == "2 of 4 jobs failed. Mend what they say, and "
    assert again == shlex.join(["ddattr", "train", "-m", "member=6,7", *TINY, f"root={copy}"])
    assert ddattr(*shlex.split(again)[1:]).err.splitlines()[:-1] == lines


@pytest.mark.slow
def test_jobs_in_processes_of_their_own_are_named_too(copy, tmp_path):
    said = answer(tmp_path, "train", "-m", "member=range(4,8)", *TINY, f"root={copy}", "hydra/launcher=processes")
    assert said.status == 2
    *lines, last = said.err.splitlines()
    assert lines == MISSING
    assert "go on: ddattr train -m member=6,7 " in last
    assert last.endswith("hydra/launcher=processes")


@pytest.mark.slow
def test_a_bug_in_processes_of_their_own_keeps_its_traceback_once(tmp_path):
    """A number is no source of pictures."""
    argv = ["train", "-m", "member=0,1,7", *TINY, "data.source.source=3", "root=run", "hydra/launcher=processes"]
    said = answer(tmp_path, *argv)
    assert said.status == 1
    assert said.err.count("Traceback (most recent call last)") == 1
    *_, first, second, third, last = said.err.splitlines()
    assert [line.partition(": ")[0] for line in (first, second, third)] == ["member=0", "member=1", "member=7"]
    assert last.startswith("3 of 3 jobs failed")


@pytest.mark.slow
def test_two_of_four_members_with_a_bug_are_named_and_the_others_trained(ddattr, tmp_path, monkeypatch):
    build = training.build
    monkeypatch.setattr(training, "build", lambda run, member: 1 / 0 if member in (1, 3) else build(run, member))
    said = ddattr("train", "-m", "member=0,1,2,3", *TINY, "root=run")
    assert said.status == 1
    assert said.err.count("ZeroDivisionError: division by zero") == 3  # once in its traceback
    assert said.err.count("Traceback") == 1
    *_, first, second, last = said.err.splitlines()
    assert (first, second) == tuple(f"member={k}: ZeroDivisionError: division by zero" for k in (1, 3))
    assert "ddattr train -m member=1,3 " in last
    assert [(tmp_path / "run" / "members" / f"00{k}" / "manifest.json").exists() for k in range(4)] == [True, False] * 2
    monkeypatch.undo()
    again = ddattr(*shlex.split(last.partition("go on: ")[2])[1:])
    assert (again.status, again.err) == (0, "")


def test_a_job_that_could_not_say_a_word_does_not_hide_the_others(capsys):
    """Of five, the first is done, the second failed, the third was killed with its launcher, two never began."""

    def launch(folder: Path) -> None:
        (folder / "0").write_text("[null, null]")
        (folder / "1").write_text('["it is full", null]')
        (folder / "2").write_text("")
        raise RuntimeError("a worker was terminated")

    with pytest.raises(SystemExit) as stop, reported(["-m", "stage=train", "member=range(0,5)", "seed=1"]):
        launch(Path(os.environ[NOTES]))
    assert stop.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in lines[:-1]] == [f"member={k}" for k in (1, 2, 3, 4)]
    assert [line.partition(": ")[2] for line in lines[:-1]] == [
        "it is full",
        "ended without a word: killed, perhaps for want of memory, or with the one beside it that was",
        "did not begin",
        "did not begin",
    ]
    assert lines[-1].endswith("go on: ddattr train -m member=1,2,3,4 seed=1")


def test_what_fails_before_a_job_begins_is_not_a_jobs(ddattr):
    with pytest.raises(RuntimeError, match=r"^no launcher$"), reported(["-m", "stage=train", "member=0,1"]):
        raise RuntimeError("no launcher")
    said = ddattr("train", "-m", "sed=0,1", *TINY)
    assert said.status == 2
    assert said.err.startswith("config: key sed is unknown")
    assert len(said.err.splitlines()) == 1


def test_jobs_are_in_hydras_order_and_the_last_of_a_key_counts():
    argv = [
        "-m",
        "stage=train",
        "seed=7",
        "member=range(2,4)",
        "seed=0,1",
        "name='a${seed}'",
        "experiment=glob(digits_s*)",
    ]
    assert jobs(argv) == [
        {"seed": seed, "member": member, "experiment": "digits_small"} for seed in "01" for member in "23"
    ]


@given(st.data())
def test_grids_hold_the_chosen_points_each_once_and_no_other(data):
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    every = list(itertools.product(*(map(str, range(size)) for size in sizes)))
    chosen = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    found = grids([dict(zip("abc", point, strict=False)) for point in chosen])
    held = [point for grid in found for point in itertools.product(*grid.values())]
    assert sorted(held) == sorted(chosen)
    if len(chosen) == len(every):
        assert len(found) == 1


def test_jobs_that_are_no_grid_go_on_in_several_command_lines():
    argv = ["-m", "stage=train", "member=0,1", "seed=0,1", "training.steps=5"]
    failed = [{"member": "0", "seed": "1"}, {"member": "1", "seed": "0"}]
    assert going_on(argv, failed) == (
        "ddattr train -m member=0 seed=1 training.steps=5; ddattr train -m member=1 seed=0 training.steps=5"
    )
