"""A run by its manifests: the artifacts of `Run`, to the fingerprint; and nothing heavy imported for a look."""

import json
import subprocess
import sys

import pytest
from conftest import TINY, composed, environment

from ddattr.artifacts import Artifact
from ddattr.stages.folder import Folder
from ddattr.stages.recorded import Recorded, opened
from ddattr.stages.run import Run

HEAVY = ("torch", "pandas", "diffusers", "lightning", "transformers", "torchmetrics", "wandb")


def artifacts(run: Folder) -> list[Artifact]:
    """Those that `status` looks at, in the order in which they are made."""
    base = [] if run.fork is None else [run.base_artifact]
    members = [run.member_artifact(k) for k in range(run.codebook.members)]
    after = [run.quality_artifact, run.attribution_artifact, run.validation_artifact, run.figures_artifact]
    return [run.codebook_artifact, *base, *members, *after]


def filled(run: Run) -> Run:
    """The run, whose folder has all manifests, and the config."""
    for artifact in artifacts(run):
        artifact.make(run.seed, lambda: None)
    run.save_config()
    return run


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["seed=5", "sampler.steps=50", "trainer.precision=bf16-mixed"],
        ["conditions=classes", "conditions.guidance=2.0"],
        ["training=forked", "training.fork.steps=7", "training.draws=independent"],
        ["training=lora"],
        ["data.units=label", "codebook.weight=3"],
        ["codebook.design=orthogonal", "codebook.members=16", "codebook.weight=null"],
    ],
    ids=["tiny", "a spacing of its own", "classes", "forked", "lora", "labels", "orthogonal"],
)
def test_artifacts_by_manifests_are_those_of_what_is_built(make_run, tmp_path, overrides):
    built = filled(make_run(*overrides))
    recorded = opened(composed(*TINY, f"root={tmp_path / 'run'}", *overrides, "stage=status"), [])
    assert isinstance(recorded, Recorded)
    for ours, theirs in zip(artifacts(recorded), artifacts(built), strict=True):
        assert (ours.folder, ours.fingerprint) == (theirs.folder, theirs.fingerprint)
        assert ours.done() == theirs.done()


@pytest.mark.parametrize("stage", ["codebook", "members/003", "quality", "attribution/default", "validation"])
def test_what_is_not_there_yet_is_missing_and_changes_no_artifact_before_it(make_run, tmp_path, stage):
    built = filled(make_run("conditions=classes"))
    (built.root / stage / "manifest.json").unlink()
    recorded = opened(composed(*TINY, f"root={tmp_path / 'run'}", "conditions=classes", "stage=status"), [])
    assert isinstance(recorded, Recorded) == (stage != "codebook")  # of which manifests say what pictures are
    states = {artifact.folder: artifact.state() for artifact in artifacts(recorded)}
    assert states[built.root / stage] == "missing"
    assert states == {artifact.folder: artifact.state() for artifact in artifacts(built)}


def test_only_what_a_folder_keeps_as_ddattr_wrote_it_is_taken_unchecked(make_run, tmp_path):
    built = filled(make_run())
    given = (*TINY, f"root={tmp_path / 'run'}", "stage=status")
    assert isinstance(opened(composed(*given), [f"root={tmp_path / 'run'}", "name=digits_small"]), Recorded)
    assert isinstance(opened(composed(*given), TINY), Run)
    assert isinstance(opened(composed(*given, "sampler.steps=4"), []), Run)
    assert isinstance(opened(composed(*given, "stage=plan"), []), Run)
    path = built.root / "config.yaml"
    kept = path.read_text()
    for edited in (kept.replace("steps: 3", "steps: 4"), kept.partition("# checksum")[0]):
        path.write_text(edited)
        assert isinstance(opened(composed(*given), []), Run)


@pytest.mark.parametrize(
    "argv",
    [
        ["status", "run"],
        ["status", "experiment=digits_small"],
        ["verify", "run"],
        ["--help"],
        ["status", "run", "--help"],
        ["trian"],
        ["train", "sed=1"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("copy")
def test_a_look_at_a_run_a_page_of_help_and_a_refusal_import_nothing_heavy(tmp_path, argv):
    code = (
        "import json, sys\n"
        "from ddattr.cli import main\n"
        f"sys.argv = ['ddattr', *{argv}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    *lines, heavy = said.stdout.splitlines()
    assert said.returncode == 0, said.stderr
    assert json.loads(heavy) == []
    assert any("6 done" in line for line in lines) == (argv == ["status", "run"])
