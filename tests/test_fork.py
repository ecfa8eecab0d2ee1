"""Forked members: one base, trained once, of which every member is a short fork; and a truth that is none."""

import shutil
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, manifest

from ddattr.files import load_json, load_tensors
from ddattr.validation.truth import Truth

FORKED = ("training=forked", "training.fork.steps=7")
SIZES = (
    "validation.removal_sizes=[2]",
    "validation.retrained_members=2",
    "validation.retrained_units=5",
    "validation.replicates=2",
)


def test_without_a_fork_every_fingerprint_is_what_it_was_before_there_were_forks(make_run):
    """Golden: trained runs, and the ground truth, stay valid."""
    run = make_run(*SIZES)
    assert run.member_artifact(1).fingerprint == "212e3e81eaf3fbda"
    assert run.members_fingerprint == "94dc184de472b20f"
    assert run.retrained_artifact(run.validation.full(0)).fingerprint == "8b21431c5d7511ec"
    independent = make_run("training.draws=independent", *SIZES)
    assert independent.member_artifact(1).fingerprint == "2491c91ebb956b9c"
    assert independent.retrained_artifact(independent.validation.full(0)).fingerprint == "9ac4e1a780e5d907"


def test_a_fork_s_parent_is_its_base(make_run):
    run = make_run(*FORKED)
    parents = run.member_artifact(1).parents
    assert parents == {"codebook": run.codebook_artifact.fingerprint, "base": run.base_artifact.fingerprint}


@pytest.mark.parametrize(
    ("override", "base", "member"),
    [
        ("training.fork.steps=8", False, True),
        ("training.fork.learning_rate=0.1", False, True),
        ("training.fork.warmup=1", False, True),
        ("codebook.seed=5", False, True),
        ("training.steps=21", True, True),
        ("training.fork=null", False, True),
        ("training.epoch_steps=3", False, False),
        ("seed=1", True, True),
    ],
)
def test_what_a_base_and_a_fork_depend_on(make_run, override, base, member):
    one, other = make_run(*FORKED), make_run(*FORKED, override)
    assert (one.base_artifact.fingerprint != other.base_artifact.fingerprint) == base
    assert (one.member_artifact(1).fingerprint != other.member_artifact(1).fingerprint) == member


@pytest.mark.parametrize("draws", ["common", "independent"])
def test_the_truth_is_trained_whole_and_its_model_of_all_units_is_the_base(make_run, draws):
    forked, plain = (make_run(*more, f"training.draws={draws}", *SIZES) for more in (FORKED, ()))
    for model in plain.validation.models():
        assert forked.retrained_artifact(model).fingerprint == plain.retrained_artifact(model).fingerprint
    assert forked.retrained_artifact(forked.validation.full(0)).fingerprint == forked.base_artifact.fingerprint


@pytest.mark.slow
def test_the_base_is_trained_once_and_goes_on_where_it_broke(ddattr, tmp_path):
    root = tmp_path / "run"
    argv = [*TINY, *FORKED, f"root={root}"]
    assert "base        missing" in ddattr("status", *argv).out
    assert "forks of 7 steps of one base of 20" in ddattr("plan", *argv).out
    said = ddattr("train", *argv, "member=0")
    assert said.status == 0, said.err
    assert "base: step 20 of 20" in said.out
    assert "member 0: step 7 of 7" in said.out
    before = (root / "base" / "manifest.json").stat().st_mtime_ns
    said = ddattr("train", *argv, "member=1")
    assert "base" not in said.out
    assert "member 1: step 7 of 7" in said.out
    assert (root / "base" / "manifest.json").stat().st_mtime_ns == before
    assert manifest(root / "members/001")["parents"]["base"] == manifest(root / "base")["fingerprint"]
    assert {path.name for path in (root / "base").iterdir()} == {
        ".lock",
        "manifest.json",
        "member.safetensors",
        "metrics.csv",
        "status.json",
    }

    whole, one = (load_tensors(root / name / "member.safetensors") for name in ("base", "members/001"))
    for folder in ("base", "members/001"):
        (root / folder / "manifest.json").unlink()
    (root / "base" / "status.json").write_text('{"state": "failed", "step": 10, "error": "the loss is nan"}')
    said = ddattr("status", *argv)
    assert "base        failed" in said.out
    assert "base: failed at step 10. the loss is nan" in said.out
    assert "next: ddattr train -m 'member=range(0,6)'" in said.out
    assert ddattr("train", *argv, "member=1").status == 0
    for name, expected in (("base", whole), ("members/001", one)):
        again = load_tensors(root / name / "member.safetensors")
        assert all(torch.equal(expected[key], again[key]) for key in expected)

    shutil.rmtree(root / "base")  # members that are done need it no more
    assert ddattr("train", *argv, "member=1").out == "member 1: already done\n"
    assert not (root / "base").exists()


def test_retraining_is_never_forked(ddattr, tmp_path, make_run):
    """One model of the truth, all steps of a whole training, in a run of forks."""
    argv = [*TINY, *FORKED, f"root={tmp_path / 'run'}", *SIZES]
    run = make_run(*FORKED, *SIZES)
    member = run.validation.retraining_members[0]
    unit = int(run.codebook.subset(member).nonzero()[0, 0])
    said = ddattr("retrain", *argv, f"unit={unit}", f"member={member}")
    assert said.status == 0, said.err
    models = [m for m in run.validation.unit(unit) if m.member == member]
    assert [m.replicate for m in models] == [1, 2]
    for model in models:
        folder = run.retrained_artifact(model).folder
        assert load_json(folder / "status.json") == {"state": "done", "step": 20}
        assert run.retrained_artifact(model).done()
    assert not (tmp_path / "run" / "base").exists()


@pytest.mark.parametrize("forked", [False, True])
def test_the_truth_s_models_are_all_of_one_kind(make_run, forked):
    """Every displacement is between models trained whole and at one seed, which no member has."""
    plan = make_run(*(FORKED if forked else ()), *SIZES).validation
    assert plan.fork == (Fraction(7, 20) if forked else None)
    assert {m.replicate for m in plan.bases()} == {1, 2}
    assert {m.name for m in plan.bases()} <= {m.name for m in plan.models()}
    shown = []

    def drawn_by(networks) -> torch.Tensor:
        shown.append({network.replicate for network in networks})
        return torch.zeros(1, 1, 2, 2)

    truth = Truth.__new__(Truth)  # what its displacements look at, and no more
    truth.plan, truth.network = plan, lambda model: model
    truth.queries = SimpleNamespace(drawn_by=drawn_by)
    assert truth.displacements.shape == (2, 5, 1, 1, 2, 2)
    assert sorted(map(tuple, shown)) == [(1,)] * 6 + [(2,)] * 6
