"""Completion in a shell, asked as Hydra's script for bash asks."""

import shutil
import subprocess
import sys

import pytest
from conftest import environment

from ddattr.cli.help import VERBS


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", VERBS),
        ("tr", ["train"]),
        ("re", ["replay", "report", "reproduce", "retrain"]),
        ("codebook.members=3 pl", ["plan"]),
        ("-m ", VERBS),
        ("train codebook.m", ["codebook.members="]),
        ("train codebook.members=", ["codebook.members=18"]),
        ("stage=train experiment=digits_s", ["experiment=digits_small"]),
        ("train -m member=0,1 seed=0 powe", ["power="]),
        ("train -m 'member=range(0,4)' hydra/launcher=p", ["hydra/launcher=processes"]),
        ("train sampler=ddim sampler.", ["sampler._target_=", "sampler.eta=", "sampler.steps="]),
        ("status runs/digits codebook.m", ["codebook.members="]),
        ("codebook.m", ["codebook.members="]),
        ("plan --c", []),
        ("plan experiment=nosuch see", []),
        ("plan ]=[ see", []),
    ],
)
def test_verbs_keys_and_values_are_completed_and_nothing_is_ever_said(ddattr, monkeypatch, line, words):
    monkeypatch.setenv("COMP_LINE", f"ddattr {line}")
    said = ddattr("-sc", "query=bash")
    assert sorted(said.out.split()) == sorted(words)
    assert said.err == ""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_a_command_line(tmp_path):
    """The script of `-sc install=bash`, in a bash that finds a `ddattr`."""
    program = tmp_path / "ddattr"
    program.write_text(f"#!{sys.executable}\nfrom ddattr.cli import main\nmain()\n")
    program.chmod(0o755)
    script = (
        'eval "$(ddattr -sc install=bash)"; COMP_LINE="ddattr train experiment=digits_s"; COMP_WORDS=($COMP_LINE); '
        'COMP_CWORD=2; COMP_POINT=${#COMP_LINE}; hydra_bash_completion; echo "${COMPREPLY[@]}"; complete -p ddattr'
    )
    kept = environment(tmp_path)
    made = subprocess.run(
        ["bash", "-c", script],
        env=kept | {"PATH": f"{tmp_path}:{kept['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert made.stdout.startswith("experiment=digits_small\ncomplete ")
    assert made.stderr == ""
