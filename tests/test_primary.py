"""A run knows its config: a folder stands for the overrides that made it, wherever it is, and others come on top."""

import os
import shlex
import shutil

import pytest
import yaml
from conftest import TINY, answer, composed, contents, refused
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ddattr.cli.primary import folder_of, is_folder, override
from ddattr.stages.run import Run
from ddattr.stages.saved import PER_CALL, text


@pytest.fixture
def saved(tmp_path):
    """A folder that keeps the tiny config, and nothing else."""
    folder = tmp_path / "runs" / "digits_small"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(text(Run(composed(*TINY)).resolved()))
    return folder


def config(ddattr, *argv: str) -> dict:
    """What a command line composes."""
    said = ddattr(*argv, "--cfg", "job")
    assert said.status == 0, said.err
    return OmegaConf.to_container(OmegaConf.create(said.out), resolve=True)


@pytest.mark.parametrize("verb", ["plan", "status", "train", "validate", "report"])
def test_a_folder_stands_for_the_overrides_that_made_it(ddattr, saved, verb):
    expected = Run(composed(*TINY)).resolved() | {
        "stage": verb,
        "run": "runs/digits_small",
        "root": "runs/digits_small",
    }
    assert config(ddattr, verb, "runs/digits_small") == expected
    assert config(ddattr, "runs/digits_small", verb) == expected
    assert config(ddattr, verb, "run=runs/digits_small") == expected


@pytest.mark.parametrize("name", ["elsewhere", "it's", "a b", "lr=0.1", "train", "null", "2024", "a,b", "x\\y"])
def test_a_folder_may_be_moved_and_called_anything(ddattr, saved, tmp_path, name):
    (tmp_path / "moved").mkdir()
    shutil.move(saved, tmp_path / "moved" / name)
    given = [f"moved/{name}", f"./moved/{name}", str(tmp_path / "moved" / name)]
    for folder in given:
        said = ddattr("status", folder)
        assert said.status == 3, said.err  # nothing is made yet
        again = shlex.split(said.out.splitlines()[-1].removeprefix("next: "))
        assert again == ["ddattr", "train", folder, "-m", "member=range(0,6)"]


def test_a_folder_without_a_path_is_one_where_it_is(ddattr, saved, tmp_path):
    shutil.move(saved, tmp_path / "mine")
    assert config(ddattr, "plan", "mine")["root"] == "mine"
    refused(ddattr("plan", "yours"), "'yours' is no override")


@given(
    st.text(
        st.characters(exclude_characters="\0\n\r\t$", codec="ascii", categories=["L", "N", "P", "S", "Zs"]), min_size=1
    )
)
def test_any_name_survives_the_grammar_of_overrides(name):
    folder = f"./{name}"
    assert folder_of([override(folder)]) == folder


def test_overrides_and_groups_come_on_top(ddattr, saved):
    found = config(
        ddattr, "attribute", "runs/digits_small", "attribution.queries=7", "tracking=offline", "sampler=ddim"
    )
    assert found["attribution"]["queries"] == 7
    assert found["tracking"]["mode"] == "offline"
    assert found["sampler"] == {"_target_": "ddattr.diffusion.sampler.DDIM", "steps": 50, "eta": 0.0}
    assert found["training"]["steps"] == 20
    assert config(ddattr, "train", "runs/digits_small", "root=copy", "name=more")["root"] == "copy"


def test_a_group_that_has_fewer_keys_leaves_none_of_the_saved_one(ddattr, saved):
    kept = yaml.safe_load((saved / "config.yaml").read_text())
    kept["sampler"] = {"_target_": "ddattr.diffusion.sampler.DDIM", "steps": 3, "eta": 0.5}
    (saved / "config.yaml").write_text(yaml.safe_dump(kept))
    assert config(ddattr, "plan", "runs/digits_small")["sampler"]["eta"] == 0.5
    assert config(ddattr, "plan", "runs/digits_small", "sampler=ddpm")["sampler"] == {
        "_target_": "ddattr.diffusion.sampler.DDPM",
        "steps": 50,
    }


def test_another_seed_is_that_of_codebook_and_data_too(ddattr, saved):
    found = config(ddattr, "plan", "runs/digits_small", "seed=3")
    assert found["seed"] == found["codebook"]["seed"] == found["data"]["seed"] == 3


def test_what_is_of_one_call_is_not_of_the_next(ddattr, saved):
    found = config(ddattr, "train", "runs/digits_small", "member=3")
    assert found["member"] == 3
    again = config(ddattr, "train", "runs/digits_small")
    assert {key: again[key] for key in PER_CALL - {"stage", "run", "root"}} == {
        "member": None,
        "unit": None,
        "part": None,
        "power": 0.8,
        "artifact": None,
        "output": None,
        "path": None,
        "against": [],
        "fetch": None,
        "functional": None,
        "queries": config(ddattr, "train")["queries"],
    }


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["status", "runs/nosuch"], ["runs/nosuch is no folder", "ddattr reproduce root=runs/nosuch"]),
        (["status", "."], ["config.yaml is missing, expected in the folder of a run"]),
        (["status", "runs/digits_small", "experiment=digits"], ["experiment= and the folder", "Leave out one"]),
        (["status", "runs/digits_small", "runs/other"], ["one folder of several, expected one"]),
        (["status", "runs/digits_small", "run=runs/other"], ["one folder of several, expected one"]),
        (["train", "runs/digits_small", "sampler=ddi"], ["sampler=ddi is unknown, expected one of ddim, ddpm"]),
        (["train", "runs/digits_small", "sed=1"], ["key sed is unknown", "Did you mean seed?"]),
        (["train", "runs/digits_small", "training.stpes=1"], ["Did you mean training.steps?"]),
        (["train", "runs/digits_small"], ["Name one, or sweep them all: ddattr train runs/digits_small -m 'member"]),
        (["status", "-m", "run=runs/a,runs/b"], ["run=runs/a,runs/b, expected one folder"]),
        (["plan", "runs/digits_small", "sampler=ddim", "sampler.etta=1"], ["Did you mean sampler.eta?"]),
        (["runs/digits_small"], ["no verb 'runs/digits_small', expected one of"]),
    ],
)
def test_what_cannot_be_used_is_one_line(ddattr, saved, tmp_path, argv, words):
    before = contents(tmp_path)
    refused(ddattr(*argv), *words)
    assert contents(tmp_path) == before


def test_a_sweep_goes_on_with_the_folder(ddattr, copy, tmp_path):
    shutil.rmtree(copy / "members" / "003")
    said = ddattr("train", "run", "-m", "member=range(2,8)", "tracking=none")
    assert [f"member {k}: already done" in said.out for k in range(2, 6)] == [True, False, True, True]
    assert said.err.splitlines()[-1].endswith("go on: ddattr train run -m member=6,7 tracking=none")
    assert (copy / "members" / "003" / "manifest.json").exists()


def test_a_sweep_over_a_group_has_each_option_in_turn(ddattr, copy):
    said = ddattr("status", "run", "-m", "sampler=ddim,ddpm", "quality.pictures=4,5")
    assert said.status == 0, said.err
    assert said.out.count("6 done") == 4
    assert [line for line in said.out.splitlines() if line.startswith("next: ")][3].endswith(
        "evaluate run sampler=ddpm quality.pictures=5"
    )


@pytest.mark.slow
def test_processes_of_a_launcher_and_of_lightning_find_the_folder(copy, tmp_path):
    """A moved one, given relative to where the command is."""
    shutil.rmtree(copy / "members" / "004")
    (tmp_path / "other").mkdir()
    shutil.move(copy, tmp_path / "other" / "my run")
    said = answer(tmp_path / "other", "train", "my run", "-m", "member=3,4", "hydra/launcher=processes")
    assert said.status == 0, said.err
    assert "member 3: already done" in said.out
    assert "member 4: step 20 of 20" in said.out
    said = answer(tmp_path / "other", "attribute", "./my run", "trainer=processes")
    assert said.status == 0, said.err
    assert (tmp_path / "other" / "my run" / "attribution" / "default" / "manifest.json").exists()
    assert {path.name for path in (tmp_path / "other").iterdir()} <= {"multirun", "my run", ".cache", ".config"}
    assert yaml.safe_load((tmp_path / "other" / "my run" / "config.yaml").read_text())["trainer"]["devices"] == 1


@pytest.mark.slow
def test_a_run_is_reproduced_and_asked_about_by_its_folder_alone(ddattr, copy, tmp_path):
    said = answer(tmp_path, "reproduce", "run", "tracking=none")
    assert said.status == 0, said.err
    steps = [line for line in said.out.splitlines() if line.startswith("$ ")]
    assert all(line.split()[3] == "run" for line in steps)
    assert all("experiment=" not in line for line in steps)
    assert ddattr("status", "run").out.splitlines()[-1] == "next: nothing: all is done"
    for verb in ("reproduce", "evaluate", "attribute", "report"):
        before = contents(copy)
        assert "already done" in ddattr(verb, "run").out
        assert contents(copy) == before


def test_status_of_a_folder_says_what_status_of_its_overrides_says(ddattr, copy):
    *lines, last = ddattr("status", *TINY, f"root={copy}").out.splitlines()
    assert ddattr("status", "run").out.splitlines() == [*lines, "next: ddattr evaluate run"]
    assert last.startswith("next: ddattr evaluate experiment=")


def test_help_shows_the_keys_as_the_folder_has_them(ddattr, saved, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    out = ddattr("train", "runs/digits_small", "--help").out
    for line in ("  training.steps=20\n", "  root=runs/digits_small  ", "  tracking.mode=disabled", "  sampler"):
        assert (line in out) == (line != "  sampler")
    assert "steps between checkpoints" in out


def test_a_word_is_a_folder_if_it_exists_or_looks_like_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("runs/lr=0.1")
    found = {word: is_folder(word) for word in ("runs", "run", "runs/x", "runs/lr=0.1", "root=runs/x", "seed=0", ".")}
    assert [word for word, folder in found.items() if folder] == ["runs", "runs/x", "runs/lr=0.1", "."]
