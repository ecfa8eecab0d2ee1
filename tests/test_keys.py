"""Keys of conf/: what is said beside them, and which one was meant."""

import sys

import pytest

from ddattr.cli.keys import beside_key, comments, composed, meant_key


def test_comments_are_the_chosen_files_or_anothers_where_it_is_silent():
    said = comments(composed(["stage=plan", "data=idx"]))
    assert said["member"].startswith("for `train`")
    assert said["attribution.jacobian.members_per_step"] == "the rotating Jacobian; null is exact"
    assert said["data.clusters"] == "null: a tenth of the pictures, 10 to 100"  # data/folder.yaml says so
    assert "training.steps" not in said
    assert said["attribution.precision"].endswith("Tests of units are in float32 always")  # on the lines below as well
    assert said["attribution.refine"].startswith("best units of every query")


@pytest.mark.parametrize(
    ("wrong", "keys"),
    [
        ("member", ["member"]),
        ("members", ["codebook.members"]),
        ("members_per_step", ["attribution.jacobian.members_per_step", "validation.members_per_step"]),
        ("codebok.weigth", ["codebook.weight"]),
        ("attribution.jacobian.tangent", ["attribution.jacobian.tangents"]),
        ("sampler.eta", []),
        ("seed.x", []),
        ("zzz", []),
    ],
)
def test_the_key_that_was_meant(monkeypatch, wrong, keys):
    monkeypatch.setattr(sys, "argv", ["ddattr"])
    assert meant_key(wrong) == keys


def test_the_options_that_the_command_line_chooses_count_whatever_else_is_wrong(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ddattr", "plan", "sampler=ddim", "sed=1"])
    assert meant_key("sampler.et") == ["sampler.eta"]
    assert beside_key("sampler.et") == ["steps", "eta"]
    monkeypatch.setattr(sys, "argv", ["ddattr", "plan", "sampler=nosuch"])
    assert beside_key("sampler.et") == ["steps"]
