"""`ddattr replay`: the same bits again, or which file, by how much and what made it; the run itself is left alone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import contents, manifest, refused
from PIL import Image

from ddattr.artifacts import Artifact
from ddattr.files import load_tensors, save_json, save_tensors

MEMBER = "run/members/003"


def verdicts(said) -> dict[str, str]:
    """By file."""
    found = (line.split("  ", 1) for line in said.out.splitlines() if "  " in line)
    return {name: verdict.strip() for name, verdict in found}


def replayed(ddattr, artifact: Path | str, *more: str):
    """What is said of an artifact whose files all have the same bits; nothing of its run is changed."""
    root = next(path for path in Path(artifact).parents if (path / "config.yaml").is_file())
    before = contents(root)
    said = ddattr("replay", str(artifact), *more)
    assert (said.status, said.err) == (0, ""), said
    assert contents(root) == before
    files = manifest(Path(artifact))["files"]
    assert verdicts(said) == dict.fromkeys(sorted(files), "same bits")
    assert said.out.endswith(f"{len(files)} of {len(files)} files have the same bits\n")
    return said


def resealed(folder: Path, **keys) -> None:
    """A manifest with other keys, and whole."""
    made = {name: value for name, value in manifest(folder).items() if name != "checksum"}
    save_json(folder / "manifest.json", made | keys)


def test_a_member_and_the_codebook_have_the_same_bits_again_and_the_run_is_left_alone(ddattr, copy):
    assert "member 3: step 20 of 20" in replayed(ddattr, copy / "members" / "003").out
    replayed(ddattr, copy / "codebook")


@pytest.mark.slow
def test_a_file_that_was_changed_or_lost_is_told_from_one_that_is_made_otherwise(ddattr, copy):
    metrics = copy / "members" / "003" / "metrics.csv"
    text = metrics.read_text()
    for change in (lambda: metrics.write_text(text.replace("0.8", "0.7")), metrics.unlink):
        change()
        before = contents(copy)
        said = ddattr("replay", MEMBER)
        assert (said.status, said.err) == (3, "")
        assert verdicts(said) == {
            "member.safetensors": "same bits",
            "metrics.csv": "made with the bits of the manifest; here it is changed or lost since",
        }
        assert "1 of 2 files have the same bits" in said.out
        assert contents(copy) == before


@pytest.mark.slow
def test_weights_of_another_machine_are_said_to_differ_and_by_how_much(ddattr, copy):
    """One weight of a member is a thousandth larger, in a folder that is whole."""
    folder = copy / "members" / "003"
    weights, made = load_tensors(folder / "member.safetensors"), manifest(folder)
    name, weight = next(iter(weights.items()))
    weight.view(-1)[0] += 1e-3
    (folder / "manifest.json").unlink()
    Artifact(folder, made["config"], made["parents"]).make(
        0, lambda: save_tensors(folder / "member.safetensors", weights)
    )
    said = ddattr("replay", MEMBER)
    relative = 1e-3 / weight.abs().max().item()
    assert said.status == 3
    assert verdicts(said)["member.safetensors"] == (
        f"differs: largest difference 0.001 (tensor {name}), relative {relative:.2g} (tensor {name})"
    )
    assert verdicts(said)["metrics.csv"] == "same bits"


@pytest.mark.slow
def test_what_differs_in_the_making_is_named_whatever_the_bits(ddattr, copy):
    folder = copy / "members" / "003"
    versions = manifest(folder)["versions"]
    others = {"commit": "0" * 12, "device": "an abacus", "threads": 7, "versions": {**versions, "torch": "0.1"}}
    resealed(folder, **others)
    lines = replayed(ddattr, folder).out.splitlines()
    for words in ("commit 000000000000, now ", "device an abacus, now ", "threads 7, now ", "torch 0.1, now "):
        assert [line for line in lines if line.startswith(words)]
    assert not [line for line in lines if line.startswith(("diffusers ", "lightning "))]


@pytest.mark.slow
def test_a_manifest_of_before_there_were_threads_and_digests_of_tables_is_compared_to_its_files(ddattr, copy):
    folder = copy / "members" / "003"
    made = {k: v for k, v in manifest(folder).items() if k not in ("threads", "checksum")}
    made["files"] = {"member.safetensors": made["files"]["member.safetensors"][:16]}
    save_json(folder / "manifest.json", made)
    said = ddattr("replay", MEMBER)
    assert said.status == 0
    assert verdicts(said) == {"member.safetensors": "same bits", "metrics.csv": "same bits"}
    assert "threads" not in said.out


def test_what_is_no_artifact_is_refused(ddattr, copy, tmp_path):
    (tmp_path / "other").mkdir()
    refused(ddattr("replay"), "replay: artifact=null, expected a folder below", "members/003")
    refused(ddattr("replay", "other"), "replay: other lies in no run", "config.yaml")
    refused(ddattr("replay", "run"), "replay: artifact=null, expected a folder below run")
    refused(ddattr("replay", "run", "artifact=../other"), "artifact=../other, expected a folder below")
    refused(ddattr("replay", "run", "artifact=3"), "artifact=3, expected a folder below")
    refused(ddattr("replay", "run/members"), "run/members has no manifest.json", "members/000")
    (copy / "members" / "003" / "manifest.json").unlink()
    refused(ddattr("replay", MEMBER), f"{MEMBER} has no manifest.json")
    (copy / "validation" / "scores").mkdir(parents=True)
    shutil.copy(copy / "codebook" / "manifest.json", copy / "validation" / "scores")
    refused(ddattr("replay", "run/validation/scores"), "says how long its work took", "expected codebook")


def test_an_artifact_of_another_config_or_other_parents_is_refused(ddattr, copy):
    refused(ddattr("replay", MEMBER, "training.steps=30"), "was made with training.steps=20 (now 30)")
    one, two = (copy / "members" / name for name in ("001", "002"))
    shutil.copy(one / "manifest.json", two)
    refused(ddattr("replay", "run/members/002"), "was made with member=1 (now 2)")
    shutil.rmtree(copy / "codebook")
    refused(ddattr("replay", MEMBER), f"{MEMBER} was made of codebook missing", "ddattr verify run")


@pytest.mark.parametrize("text", ["{", "[]", "{}", None])
def test_a_manifest_that_is_damaged_is_refused(ddattr, copy, text):
    path = copy / "members" / "003" / "manifest.json"
    changed = json.dumps(manifest(path.parent) | {"seed": 5})
    path.write_text(changed if text is None else text)
    refused(ddattr("replay", MEMBER), str(path.relative_to(copy.parent)), "is damaged")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["quality", "attribution/default", "figures"])
def test_whatever_a_run_has_made_has_the_same_bits_again(ddattr, reproduced, tmp_path, place):
    """The queries were replayed by two processes, and are by one."""
    root = shutil.copytree(reproduced.root, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    replayed(ddattr, root / place)


@pytest.mark.slow
def test_other_queries_and_models_without_a_unit_have_the_same_bits_again(ddattr, copy, tmp_path):
    Image.effect_noise((8, 8), 50).save(tmp_path / "mine.png")
    ddattr("attribute", "run", "queries.pictures=[mine.png]", "queries.invert=true", "queries.name=mine")
    ddattr("attribute", "run", "queries.seeds=[100]", "queries.name=later")
    ddattr("retrain", "run", "unit=3", "validation.replicates=1")
    replayed(ddattr, copy / "attribution" / "later")
    refused(ddattr("replay", "run/attribution/mine"), "mine was asked about 1 pictures", "queries.pictures")
    replayed(ddattr, copy / "attribution" / "mine", "queries.pictures=[mine.png]")
    (model,) = (path.parent for path in (copy / "validation" / "retraining").rglob("manifest.json"))
    where = ("validation.replicates=1", "validation.groups=null", "validation.peers=[]", "validation.lds_subsets=0")
    counts = ("validation.retrained_units=0", "validation.removal_queries=0", "validation.retrained_members=6")
    refused(
        ddattr("replay", str(model), *where, *counts), "unit-00003/", "is no model that `validate` asks for", "unit=3 "
    )
    replayed(ddattr, model, "unit=3", *where)
    assert torch.get_num_threads() == manifest(model)["threads"]
