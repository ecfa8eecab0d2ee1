"""`--help`: true to the stages and to conf/, and quick, since torch is not imported for it."""

import pkgutil
import shlex
import subprocess
import sys

import pytest
from conftest import composed, environment

import ddattr.stages
from ddattr.cli.help import PAGES, VERBS, described
from ddattr.stages.run import Run


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_the_first_page_has_a_line_for_every_verb_and_says_where_to_go_on(ddattr, argv, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    said = ddattr(*argv)
    assert (said.status, said.err) == (0, "")
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 80
    for verb in VERBS:
        assert [line for line in lines if line.split()[:1] == [verb] and len(line.split()) > 3]
    for words in (
        "usage: ddattr VERB",
        "ddattr reproduce experiment=digits_small",
        "ddattr VERB --help",
        "-sc install",
    ):
        assert words in said.out


def test_every_stage_is_a_verb_with_a_page():
    """Whose docstring begins with a command line; the other modules are what verbs share."""
    names = {module.name for module in pkgutil.iter_modules(ddattr.stages.__path__)}
    assert {name for name in names if described(name)} == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_of_a_verb_has_its_docstring_its_keys_and_examples(ddattr, tmp_path, verb):
    said = ddattr(verb, "--help")
    assert (said.status, said.err) == (0, "")
    assert " ".join(described(verb).split()) in " ".join(said.out.split())
    for words in ("keys, as they are set now:", "  experiment=digits  ", *PAGES[verb].examples):
        assert words in said.out
    assert ("  seed=0\n" in said.out) == (verb != "fetch")  # which is of data, and of no run
    assert "Hydra" not in said.out
    assert "_target_" not in said.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("example", [example for page in PAGES.values() for example in page.examples])
def test_every_example_is_a_command_line_of_its_verb(example):
    program, verb, *overrides = shlex.split(example)
    assert program == "ddattr"
    assert example in PAGES[verb].examples
    given = [
        word
        for word in overrides
        if word != "-m" and not word.startswith(("hydra/", "member=range", "part=range", "runs/"))
    ]
    Run(composed(f"stage={verb}", *given))


@pytest.mark.parametrize("argv", [["train", "training=forked", "--help"], ["--help", "training=forked", "train"]])
def test_the_page_shows_what_overrides_make_of_the_keys(ddattr, argv, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    out = ddattr(*argv, "experiment=digits_small", "member=3").out
    for words in (
        "experiment=digits_small  ",
        "member=3  ",
        "training=forked  ",
        "or default, lora\n",
        "training.steps=40\n",
        "training.fork.steps=160\n",
        "tracking=offline  ",
        "or none, online\n",
    ):
        assert words in out


@pytest.mark.parametrize(
    ("verb", "setting", "comment"),
    [
        ("train", "member=null", "for `train`, `adopt` and `export`: which one"),
        ("train", "training.epoch_steps=250", "steps between checkpoints"),  # set by the experiment, said by the group
        ("attribute", "attribution.jacobian.members_per_step=2", "the rotating Jacobian"),
        ("evaluate", "quality.sizes=null", "of the ensembles"),
        ("compare", "against=[]", "for `compare`: folders"),
    ],
)
def test_a_key_stands_with_its_default_and_what_conf_says_beside_it(ddattr, monkeypatch, verb, setting, comment):
    monkeypatch.setenv("COLUMNS", "120")
    (line,) = [line for line in ddattr(verb, "-h").out.splitlines() if line.split()[:1] == [setting]]
    assert " ".join(line.split()).startswith(f"{setting} {comment}".strip())


def test_the_page_of_a_sweep_has_no_one_value_of_the_swept_key(ddattr):
    assert "  member=null  " in ddattr("train", "-m", "member=range(0,4)", "--help").out


def test_a_page_is_refused_as_a_run_is(ddattr):
    assert ddattr("trian", "--help") == (2, "", ddattr("trian").err)
    assert "Did you mean seed?" in ddattr("train", "sed=1", "--help").err


def test_the_version(ddattr):
    said = ddattr("--version")
    assert said.status == 0
    assert said.out.startswith("ddattr")


def test_help_imports_no_torch(tmp_path):
    code = (
        "import sys; from ddattr.cli import main; sys.argv = ['ddattr', 'train', '-h']; main(); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path), check=True, timeout=60)
