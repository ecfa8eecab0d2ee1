"""`--dry-run`: nothing is written, what is foretold comes true, and what would be refused is, in the same words."""

import shutil
from pathlib import Path

import pytest
from conftest import TINY, contents, manifest, refused
from faults import forks  # noqa: F401

from ddattr.cli.help import VERBS
from ddattr.files import save_json
from ddattr.locks import locked
from ddattr.stages.dry import _STEPS, MAKES

REMOVED = ("validation.removal_queries=5", "validation.removal_sizes=[2]", "validation.removal_methods=[pixel]")
OTHERS = ("validation.retrained_units=0", "validation.lds_subsets=0", "validation.groups=null", "validation.peers=[]")
VALIDATED = (*REMOVED, *OTHERS, "validation.replicates=1", "validation.retrained_members=6")


def tree(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """All that lies below a folder, locks and folders too."""
    paths = sorted(folder.rglob("*"))
    return {str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in paths}


def foretold(ddattr, tmp_path, *argv: str) -> tuple[int, str, str]:
    """What a dry run answers; nothing is written."""
    before = tree(tmp_path)
    said = ddattr(*argv, "--dry-run")
    assert tree(tmp_path) == before
    return said


def lines(said, *starts: str) -> set[str]:
    """Folders of the lines that begin so."""
    return {line[16:].partition(": ")[0] for line in said.out.splitlines() if line.startswith(starts)}


def manifests(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.rglob("manifest.json"))
    return {path.parent.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def comes_true(ddattr, tmp_path, *argv: str) -> set[str]:
    """The manifests that a command has made: just those that its dry run foretold."""
    said, before = foretold(ddattr, tmp_path, *argv), manifests(tmp_path)
    real = ddattr(*argv)
    assert (said.status, said.err) == (real.status, real.err)
    new = {folder for folder, made in manifests(tmp_path).items() if before.get(folder) != made}
    more = {folder for folder in new for open_ in lines(said, "would make more") if folder.startswith(f"{open_}/")}
    assert new - more - lines(said, "would redraw") == lines(said, *MAKES) - lines(said, "would make more")
    return new


def test_every_verb_has_a_row():
    assert list(_STEPS) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_on_nothing_writes_nothing_and_refuses_as_it_would(ddattr, tmp_path, verb, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = {"train": ["member=3"], "retrain": ["unit=3"]}
    argv = (verb, *TINY, "root=run", *asked.get(verb, []))
    said = foretold(ddattr, tmp_path, *argv)
    assert not list(tmp_path.iterdir())
    if verb in ("reproduce", "plan", "train", "status", "retrain", "dashboard", "fetch", "subsets"):
        assert (said.status, said.err) == (0, "")
        assert "dry run: nothing was written" in said.out
    else:
        refused(said)
        assert ddattr(*argv).err == said.err


def test_an_export_may_lie_anywhere(ddattr, copy, tmp_path):
    said = foretold(ddattr, tmp_path, "export", "run", "member=3", f"output={tmp_path / 'mine'}")
    assert (said.status, said.err) == (0, "")
    assert f"{tmp_path / 'mine'}" in said.out


def test_a_sweep_lists_its_jobs_and_starts_no_launcher(ddattr, tmp_path):
    own = ("hydra/launcher=processes", "hydra.launcher.n_jobs=2")
    said = foretold(ddattr, tmp_path, "train", "-m", *TINY, "root=run", "member=0,4", *own)
    assert (said.status, said.err) == (0, "")
    jobs = [line for line in said.out.splitlines() if line.startswith("job ")]
    assert [line.split()[:2] for line in jobs] == [["job", "0:"], ["job", "1:"]]
    assert [f"member={k}" in line for k, line in zip((0, 4), jobs, strict=True)] == [True, True]
    assert said.out.count("would make      run/codebook") == 1
    assert lines(said, "would make") == {"run/codebook", "run/members/000", "run/members/004"}
    wrong = foretold(ddattr, tmp_path, "train", "-m", *TINY, "root=run", "member=0,9")
    assert wrong.status == 2
    assert wrong.err.startswith("member=9: ")
    lost = ("train", "-m", *TINY, "root=run", "member=0,4", "hydra/launcher=nosuch")
    refused(foretold(ddattr, tmp_path, *lost), "hydra/launcher=nosuch is unknown", "processes")


def test_what_is_done_is_said_with_what_would_go_on_and_who_is_at_it(ddattr, copy, tmp_path):
    folder = copy / "members" / "001"
    status = {"state": "interrupted", "step": 10, "fingerprint": manifest(folder)["fingerprint"]}
    (folder / "manifest.json").unlink()
    said = foretold(ddattr, tmp_path, "reproduce", "run")
    assert lines(said, "done") == {"run/codebook", *(f"run/members/{k:03d}" for k in (0, 2, 3, 4, 5))}
    assert lines(said, "would make") == {f"run/{name}" for name in ("members/001", "quality", "figures")} | {
        "run/attribution/default"
    }
    assert "about" in said.out.splitlines()[-1]
    save_json(folder / "status.json", status)
    (folder / "last.ckpt").touch()
    said = foretold(ddattr, tmp_path, "train", "run", "member=1")
    assert "would go on     run/members/001: interrupted at step 10\n" in said.out
    with locked(folder):
        said = foretold(ddattr, tmp_path, "train", "run", "member=1")
        assert "would wait      run/members/001: Process " in said.out


def test_a_part_waits_for_no_other_and_leaves_what_others_are_at(ddattr, copy, tmp_path):
    sweep = foretold(ddattr, tmp_path, "attribute", "run", "-m", "part=0,1")
    assert sweep.status == 0, sweep.err
    assert lines(sweep, "would make") == {"run/attribution/default"}
    assert "1 shared with a part before" in sweep.out.splitlines()[-1]
    with locked(copy / "attribution" / "default" / "shards" / "of" / "shard-00000002"):
        said = foretold(ddattr, tmp_path, "attribute", "run", "part=1")
        assert "would share     run/attribution/default: another process" in said.out
        assert "would wait      run/attribution/default: " in foretold(ddattr, tmp_path, "attribute", "run").out
    one = ("retrain", "run", "unit=3", "validation.retrained_members=6", "validation.replicates=1")
    models = lines(foretold(ddattr, tmp_path, *one), "would make")
    assert len(models) == 2
    with locked(tmp_path / min(models)):
        said = foretold(ddattr, tmp_path, *one, "part=0")
    assert (lines(said, "would leave"), lines(said, "would make")) == ({min(models)}, models - {min(models)})


@pytest.mark.slow
def test_what_was_made_otherwise_is_damaged_or_lacks_a_parent_is_refused_as_the_verb_would(ddattr, copy, tmp_path):
    def alike(*argv: str) -> str:
        said = foretold(ddattr, tmp_path, *argv)
        refused(said)
        assert ddattr(*argv).err == said.err
        return said.err

    assert "was made with training.steps=20 (now 30)" in alike("train", "run", "member=1", "training.steps=30")
    assert "member=9" in alike("train", "run", "member=9")
    assert "attribution/default is missing" in alike("validate", "run", *VALIDATED, "attribution.queries=5")
    assert "quality is missing. Make it: ddattr evaluate" in alike("report", "run")
    weights = copy / "members" / "002" / "member.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "is damaged or not what its manifest says" in alike("evaluate", "run")
    assert "is damaged or not what its manifest says" in alike("attribute", "run")
    shutil.rmtree(weights.parent)
    assert "member 2 of 6 is missing. Train it: ddattr train run member=2" in alike("evaluate", "run")
    assert "blocked         run/quality\n" in ddattr("evaluate", "run", "--dry-run").out


def test_the_option_stands_anywhere_and_no_other_is_meant(ddattr, tmp_path):
    words = ("train", *TINY, "member=3", "root=run")
    last, first = foretold(ddattr, tmp_path, *words), ddattr("--dry-run", *words)
    assert lines(last, "would") == lines(first, "would") == {"run/codebook", "run/members/003"}
    refused(ddattr("train", "--dry", "member=3"), "unrecognized arguments: --dry")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("untimed", "forks")
def test_what_is_foretold_of_a_run_comes_true_verb_by_verb(ddattr, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given = (*TINY, "attribution.queries=5", "root=run")
    assert comes_true(ddattr, tmp_path, "train", *given, "member=3") == {"run/codebook", "run/members/003"}
    assert len(comes_true(ddattr, tmp_path, "train", "-m", "run", "member=range(0,6)")) == 5
    assert comes_true(ddattr, tmp_path, "evaluate", "run") == {"run/quality"}
    assert comes_true(ddattr, tmp_path, "attribute", "run") == {"run/attribution/default"}
    assert comes_true(ddattr, tmp_path, "report", "run") == {"run/figures"}
    seeds = ("queries.seeds=[100]", "queries.name=later")
    assert comes_true(ddattr, tmp_path, "attribute", "run", *seeds) == {"run/attribution/later"}
    assert comes_true(ddattr, tmp_path, "reproduce", "run") == {"run/figures"}  # in which it is, now
    assert comes_true(ddattr, tmp_path, "reproduce", "run") == set()
    assert len(comes_true(ddattr, tmp_path, "retrain", "run", "unit=3", *VALIDATED)) == 2
    first = comes_true(ddattr, tmp_path, "retrain", "run", *VALIDATED)
    assert first == {f"run/validation/retraining/full/seed-{r}" for r in (0, 1)}
    shutil.rmtree(tmp_path / "run" / "validation" / "retraining" / "full" / "seed-1")
    found = comes_true(ddattr, tmp_path, "validate", "run", *VALIDATED)
    assert {"run/validation", "run/validation/scores", "run/validation/retraining/full/seed-1"} < found
    (removed, *_) = (tmp_path / "run" / "validation" / "retraining" / "removed").iterdir()
    again = {removed.relative_to(tmp_path).as_posix()}
    shutil.rmtree(removed)
    assert comes_true(ddattr, tmp_path, "retrain", "run", *VALIDATED) == again
    shutil.rmtree(removed)
    (tmp_path / "run" / "validation" / "manifest.json").unlink()
    assert comes_true(ddattr, tmp_path, "validate", "run", *VALIDATED) >= {"run/validation", *again}
    assert comes_true(ddattr, tmp_path, "validate", "run", *VALIDATED) == set()


@pytest.mark.slow
@pytest.mark.usefixtures("untimed", "forks")
def test_what_is_foretold_of_a_reproduction_comes_true(ddattr, tmp_path):
    given = (*TINY, "root=run")
    ddattr("train", *given, "member=3")
    made = comes_true(ddattr, tmp_path, "reproduce", "run")
    assert len(made) == 5 + 3
    shutil.rmtree(tmp_path / "run" / "members" / "001")
    assert comes_true(ddattr, tmp_path, "reproduce", "run") == {"run/members/001"}
    assert contents(tmp_path / "run")
