"""Whatever happens to a command, the same command ends with the same bits, or one line says what is damaged."""

import os
import random
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
from conftest import Said, contents, manifest
from faults import (
    LORA,
    MEMBER,
    REMEDIES,
    STAGES,
    Whole,
    answer,
    begin,
    damage,
    differing,
    ended,
    fills_after,
    jumping_clock,
    killed,
    mounted,
    protect,
    reached,
    start,
    undisturbed,
    without_locks,
    without_privileges,
)

from ddattr.archive import files
from ddattr.stages.verify import verdicts

pytestmark = pytest.mark.faults
TRIALS = int(os.environ.get("FAULTS", 50))
SEED = int(os.environ.get("FAULTS_SEED", 0))
EVERY = max(1, 50 // TRIALS)  # of the writes after which a disk is full: all of them, where 50 kills are asked
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Whole:
    return undisturbed(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory) -> Whole:
    return undisturbed(tmp_path_factory.mktemp("adapters"), *LORA)


def test_a_command_killed_at_any_moment_and_given_again_has_the_same_bits(whole, adapters, tmp_path, capsys):
    draw, lost = random.Random(SEED), []
    stages = [(of, stage) for of in (whole, adapters) for stage in of.stages]
    for trial in range(TRIALS):
        of, stage = stages[trial % len(stages)]
        while True:
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            argv, root = start(of, folder, stage)
            at = draw.uniform(0, length := of.seconds[stage])
            if killed(process := begin(folder, *argv), at):
                break
            of.seconds[stage] = process.spent  # it had ended: imports, which the first had to do, are shared by now
        said = answer(folder, *argv)
        wrong = differing(root, of.root) if said.status == 0 else said.err
        lost += [(trial, wrong)] if wrong else []
        with capsys.disabled():
            how = wrong or "the same bits"
            print(f"kill {trial + 1}: {' '.join(argv)} at {at:.2f} of {length:.2f} s: {how}", flush=True)
    with capsys.disabled():
        print(f"kills survived: {TRIALS - len(lost)} of {TRIALS} (seed {SEED})", flush=True)
    assert not lost


def refused(said: Said, *words: str) -> None:
    """Status 2, and one line of every process that gave up: of the command, or of those that it had begun."""
    lines = [line for line in said.err.splitlines() if not line.endswith("Mend it, and run the same again.")]
    assert said.status == 2, said
    assert 1 <= len(lines) <= 3, said.err
    assert all(word in line for line in lines for word in words), said.err


def broken(root: Path) -> list[str]:
    """Artifacts that count as done and are not whole."""
    return [name for name, verdict in verdicts(files(root)).items() if verdict.startswith("damaged")]


@needs_root
@pytest.mark.parametrize("stage", ["train", "evaluate", "attribute", "validate"])  # which trains one more, as `retrain`
def test_a_disk_that_is_full_after_any_write_is_one_line_and_with_room_it_has_the_same_bits(
    whole, tmp_path, capsys, stage
):
    """A tmpfs, so that the kernel refuses what it has no page for, whichever library writes."""
    draw, refusals = random.Random(SEED), 0
    for writes in range(0, 1000, EVERY):
        folder = tmp_path / str(writes)
        folder.mkdir()
        with mounted(folder / "run"):
            argv, root = start(whole, folder, stage)
            said = answer(folder, *argv, fault=partial(fills_after, writes, root, draw.choice((0, 4096, 16384))))
            filled = (root / "filler").exists()
            (root / "filler").unlink(missing_ok=True)
            if said.status:
                refused(said, "No space left on device. Make room, and run the same again")
                assert not broken(root)
                refusals += 1
                assert answer(folder, *argv).status == 0
            assert differing(root, whole.root) == [], f"write {writes}"
        if not filled:
            break
    with capsys.disabled():
        print(f"{stage}: full disks survived: {refusals} of {refusals}, {writes} writes, each {EVERY}.", flush=True)
    assert refusals


@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_that_may_not_be_written_to_is_one_line_and_nothing_is_touched(whole, tmp_path, stage):
    argv, root = start(whole, tmp_path, stage)
    protect(root)
    before = contents(root)
    refused(answer(tmp_path, *argv, fault=without_privileges), str(root.name), "Permission denied. Set root=")
    assert contents(root) == before


@needs_root
@pytest.mark.parametrize("stage", STAGES)
def test_a_file_system_that_is_read_only_is_one_line(whole, tmp_path, stage):
    with mounted(tmp_path / "run"):
        argv, root = start(whole, tmp_path, stage)
        subprocess.run(["mount", "-o", "remount,ro", root], check=True)
        refused(answer(tmp_path, *argv), str(root.name), "Read-only file system. Set root=")


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_done_is_read_where_nothing_may_be_written(whole, tmp_path, stage):
    root = shutil.copytree(whole.root, tmp_path / "run")
    protect(root)
    said = answer(tmp_path, *STAGES[stage][0], fault=without_privileges)
    assert (said.status, said.err) == (0, "")
    assert "already done" in said.out


@pytest.mark.parametrize("stage", STAGES)
def test_a_clock_that_jumps_changes_no_bit_and_no_time_is_negative(whole, tmp_path, stage):
    argv, root = start(whole, tmp_path, stage)
    assert answer(tmp_path, *argv, fault=partial(jumping_clock, SEED)).status == 0
    assert differing(root, whole.root) == []
    assert all(0 <= manifest(path.parent)["wall_seconds"] < 3000 for path in root.rglob("manifest.json"))


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_on_one_machine_make_the_bits_of_one(whole, tmp_path, stage):
    argv, root = start(whole, tmp_path, stage)
    both = {name: begin(tmp_path, *argv, name=name) for name in ("one", "other")}
    for name, process in both.items():
        said = ended(process, tmp_path, name)
        assert (said.status, said.err) == (0, "")
    assert differing(root, whole.root) == []


@pytest.mark.parametrize("stage", STAGES)
def test_two_machines_that_share_a_folder_without_locks_make_the_same_bits_or_one_says_so(
    whole, tmp_path, capsys, stage
):
    draw, outcomes = random.Random(SEED), []
    for trial in range(max(1, TRIALS // 10)):
        folder = tmp_path / str(trial)
        folder.mkdir()
        argv, root = start(whole, folder, stage)
        one = begin(folder, *argv, fault=partial(without_locks, "one"), name="one")
        reached(one, draw.uniform(0, whole.seconds[stage] / 2))  # so that both are at work
        other = begin(folder, *argv, fault=partial(without_locks, "other"), name="other")
        answers = [ended(one, folder, "one"), ended(other, folder, "other")]
        for said in answers:
            if said.status:
                refused(said, "another process works on it since", "Set root= to a folder whose file system has locks")
        assert not broken(root)
        assert answer(folder, *argv).status == 0
        assert differing(root, whole.root) == []
        outcomes.append([said.status for said in answers])
    with capsys.disabled():
        print(f"{stage}: exit statuses of two machines without locks: {outcomes}", flush=True)


def test_a_file_that_is_damaged_is_named_and_made_again_it_has_the_same_bits(whole, adapters, tmp_path, capsys):
    draw, named, mended = random.Random(SEED), 0, 0
    for trial in range(TRIALS):
        of = adapters if trial % 10 == 5 else whole
        artifacts = sorted(path.parent.relative_to(of.root) for path in of.root.rglob("manifest.json"))
        root = shutil.copytree(of.root, tmp_path / str(trial) / "run")
        artifact, other = draw.sample(artifacts, 2)
        name = draw.choice(sorted(manifest(root / artifact)["files"]))
        how = damage(root / artifact / name, root / other / draw.choice(sorted(manifest(root / other)["files"])), draw)
        said = {n: verdict for n, verdict in verdicts(files(root)).items() if verdict != "ok"}
        found = list(said) == [str(artifact)] and name in said[str(artifact)]
        named += found
        with capsys.disabled():
            print(f"{artifact}/{name}, {how}: {said if found else f'NOT NAMED: {said}'}", flush=True)
        if trial % 5 == 0:
            mended += remade(root, artifact, of)
    with capsys.disabled():
        print(
            f"damages named: {named} of {TRIALS}, made again: {mended} of {-(-TRIALS // 5)} (seed {SEED})", flush=True
        )
    assert (named, mended) == (TRIALS, -(-TRIALS // 5))


def remade(root: Path, artifact: Path, whole: Whole) -> bool:
    """Whether an artifact whose folder is deleted, but for others that lie in it, is made again to the same bits."""
    kept = root / "retraining"
    if str(artifact) == "validation":
        shutil.move(root / artifact / "retraining", kept)
    shutil.rmtree(root / artifact)
    if kept.exists():
        shutil.move(kept, root / artifact / "retraining")
    word = next(word for word in REMEDIES if word in artifact.parts)
    member = [f"member={int(artifact.name)}"] if word == "members" else []
    if artifact.name == "scores":  # which `validate` makes, and its tables of them
        (root / "validation" / "manifest.json").unlink()
    said = answer(root.parent, *REMEDIES[word], *member, *whole.words)
    return said.status == 0 and differing(root, whole.root) == []


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("evaluate", f"members/{MEMBER:03d}/member.safetensors"),
        ("attribute", f"members/{MEMBER:03d}/member.safetensors"),
        ("validate", f"members/{MEMBER:03d}/member.safetensors"),
        ("validate", "quality/extractor.safetensors"),
        ("validate", "attribution/default/influence.parquet"),
        ("validate", "attribution/default/jacobian.safetensors"),
        ("validate", "validation/retraining/full/seed-0/member.safetensors"),
    ],
)
def test_a_stage_that_reads_a_damaged_file_names_it_in_one_line(whole, tmp_path, stage, name):
    argv, root = start(whole, tmp_path, stage)
    damage(root / name, root / "codebook" / "codebook.json", random.Random(SEED))
    refused(answer(tmp_path, *argv), name, "Delete its folder and make it again")
    assert broken(root) == [str(Path(name).parent)]
