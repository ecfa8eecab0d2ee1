"""End to end: one line from nothing to the figures; killed anywhere, moved anywhere, the same numbers."""

import math
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import COLUMNS, SMALL, TINY, answer, composed, contents, environment, manifest, needs_cuda, spawn

from ddattr.attribution.power import expected_power, members_needed
from ddattr.codebook import smallest
from ddattr.files import load_json, load_table, load_tensors, save_json
from ddattr.locks import locked
from ddattr.stages import reproduce
from ddattr.stages import train as train_stage
from ddattr.stages.processes import spread
from ddattr.stages.run import Run
from ddattr.stages.status import exit_status
from ddattr.tracking.figures import FIGURES

TABLES = {
    "influence": "parquet",
    "sets": "parquet",
    "agreement": "csv",
    "agreement_summary": "csv",
    "radius": "csv",
    "queries": "csv",
}
DONE = ["codebook", *(f"members/{k:03d}" for k in range(12)), "quality", "attribution/default", "figures"]
N, n, Q = 128, 12, 6


def clone(reproduced, tmp_path, without: str = "") -> Path:
    """A copy of the run, less some of it."""
    root = tmp_path / "elsewhere"
    shutil.copytree(reproduced.root, root, ignore=shutil.ignore_patterns("wandb"))
    if without:
        shutil.rmtree(root / without)
    return root


def kill_when(process, reached, how=signal.SIGKILL) -> None:
    """A signal as soon as something is reached."""
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, how)
    process.communicate(timeout=120)


@pytest.mark.parametrize("folder", DONE)
def test_every_artifact_says_how_it_was_made(reproduced, folder):
    made = manifest(reproduced.root / folder)
    assert {
        "fingerprint",
        "config",
        "parents",
        "seed",
        "commit",
        "versions",
        "device",
        "wall_seconds",
        "peak_memory_mb",
        "command",
    } <= set(made)
    assert made["seed"] == 0
    assert made["command"].startswith("ddattr ")
    newest = max(
        path.stat().st_mtime_ns
        for path in (reproduced.root / folder).iterdir()
        if path.name not in ("manifest.json", ".lock", "status.json")
    )
    assert (reproduced.root / folder / "manifest.json").stat().st_mtime_ns >= newest


@pytest.mark.parametrize("power", [0.5, 0.8])
def test_a_plan_from_a_finished_run_says_what_the_nearest_units_take(reproduced, ddattr, power):
    """The members that its own z ask for at that power, and never fewer than 128 units need for their codewords."""
    said = ddattr("plan", f"experiment={SMALL}", f"root={reproduced.root}", f"power={power}")
    lines = [line for line in said.out.splitlines() if line.startswith("power, ")]
    sets, told = load_table(reproduced.root / "attribution" / "default" / "sets.parquet"), []
    for size, rows in sets[sets.set.str.startswith("nearest:")].groupby("size"):
        z = torch.tensor(rows.z.to_numpy())
        needed = members_needed(z, n, power=power)
        need = f"n={max(smallest(N), math.ceil(needed))}" if needed < 1e5 else "no n"
        found = f"{expected_power(z, 1.0):.2f} now (mean z {z.mean():.2f}); {power:.2f} needs {need}"
        told.append(f"{f'power, {size} nearest':<28}{found}")
    assert lines == told
    assert len(told) == 6
    assert any("needs n=" in line for line in told)


def test_parents_are_named_by_their_fingerprints(reproduced):
    prints = {folder: manifest(reproduced.root / folder)["fingerprint"] for folder in DONE}
    assert len(set(prints.values())) == len(DONE)
    for k in range(n):
        assert manifest(reproduced.root / f"members/{k:03d}")["parents"] == {"codebook": prints["codebook"]}
    parents = [manifest(reproduced.root / folder)["parents"] for folder in ("quality", "attribution/default")]
    assert parents[0] == parents[1]
    assert manifest(reproduced.root / "figures")["parents"] == {
        "quality": prints["quality"],
        "attribution": prints["attribution/default"],
    }


def test_nothing_unfinished_is_left(reproduced):
    names = [path.name for path in reproduced.root.rglob("*") if "wandb" not in path.parts]
    assert not [name for name in names if "part" in name or name.endswith(".ckpt") or name.startswith("shard")]
    assert sorted(path.name for path in reproduced.cwd.iterdir() if not path.name.startswith(".")) == [
        "multirun",
        "runs",
    ]
    assert not [path for path in reproduced.root.rglob("*") if path.suffix in (".pkl", ".pt", ".pth", ".bin")]


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_the_columns_that_others_rely_on(reproduced, name):
    table = load_table(reproduced.root / "attribution" / "default" / f"{name}.{TABLES[name]}")
    assert list(table)[: len(COLUMNS[name])] == COLUMNS[name]


@pytest.mark.parametrize("name", ["fid", "convergence"])
def test_quality_tables_have_exactly_their_columns(reproduced, name):
    assert list(load_table(reproduced.root / "quality" / f"{name}.csv")) == COLUMNS[name]


def test_tensors_have_their_shapes(reproduced):
    folder = reproduced.root / "attribution" / "default"
    jacobian = load_tensors(folder / "jacobian.safetensors")["jacobian"]
    queries = load_tensors(folder / "queries.safetensors")
    assert jacobian.shape == (n, Q, 1, 8, 8)
    assert queries["factual"].shape == (Q, 1, 8, 8)
    assert queries["seeds"].tolist() == list(range(Q))
    assert jacobian.sum(0).abs().max() < 1e-5 * jacobian.norm()


def test_every_method_has_a_score_for_every_unit_and_query(reproduced):
    table = load_table(reproduced.root / "attribution" / "default" / "influence.parquet")
    counts = table[table.method != "ablation"].groupby(["method", "measure"]).size()
    assert (counts == N * Q).all()
    assert set(table.method) == {
        "jvp",
        "jvp_gls",
        "jvp_posterior",
        "denoised",
        "denoised_gls",
        "denoised_posterior",
        "ablation",
        "individual",
        "individual_centred",
        "last_step",
        "pixel",
        "random",
    }


def test_members_have_their_curve_and_their_status(reproduced):
    for k in range(n):
        folder = reproduced.root / "members" / f"{k:03d}"
        table = load_table(folder / "metrics.csv")
        assert {"step", "train/loss", "val/loss_unseen"} <= set(table)
        assert table.step.is_monotonic_increasing
        assert load_json(folder / "status.json") == {"state": "done", "step": 40}


def test_the_codebook_says_who_trains_on_what(reproduced):
    code = load_json(reproduced.root / "codebook" / "codebook.json")
    assert {"n", "h", "seed", "N", "unit"} <= set(code)
    assert (code["n"], code["h"], code["N"], code["unit"]) == (n, 5, N, "image")


def test_every_step_is_printed_as_a_line_that_a_person_could_type(reproduced):
    steps = [line[2:] for line in reproduced.said.out.splitlines() if line.startswith("$ ")]
    assert [step.split()[:2] for step in steps] == [
        ["ddattr", verb] for verb in ("train", "evaluate", "attribute", "report")
    ]
    assert all(f"experiment={SMALL}" in step for step in steps)


def test_it_ends_with_where_the_figures_are_and_at_most_eight_lines(reproduced):
    lines = reproduced.said.out.splitlines()
    (where,) = [i for i, line in enumerate(lines) if line.startswith("report: ")]
    assert f"runs/{SMALL}/report.html" in lines[where]
    assert f"runs/{SMALL}/figures" in lines[where]
    assert 4 <= len(lines) - where - 1 <= 8
    assert (reproduced.root / "figures" / "summary.txt").read_text().splitlines() == lines[where + 1 :]
    assert {path.name for path in (reproduced.root / "figures").iterdir() if path.suffix != ".json"} == {
        ".lock",
        "summary.txt",
        *(f"{name}.{ending}" for name in FIGURES for ending in ("png", "pdf", "csv")),
    }


def test_it_is_quiet_on_stderr(reproduced):
    assert "Traceback" not in reproduced.said.err
    assert "Warning" not in reproduced.said.err


def test_the_same_line_again_says_already_done_and_touches_nothing(reproduced):
    before = contents(reproduced.cwd / "runs")
    said = answer(reproduced.cwd, "reproduce", f"experiment={SMALL}")
    assert said.status == 0
    assert "already done" in said.out
    assert "$ ddattr" not in said.out
    assert said.out.splitlines()[-4:] == reproduced.said.out.splitlines()[-4:]
    assert contents(reproduced.cwd / "runs") == before


@pytest.mark.parametrize("verb", ["evaluate", "attribute", "report"])
def test_a_stage_that_is_done_is_skipped(ddattr, reproduced, verb):
    before = contents(reproduced.root)
    said = ddattr(verb, f"experiment={SMALL}", f"root={reproduced.root}")
    assert said.status == 0
    assert f"{verb}: already done" in said.out
    assert contents(reproduced.root) == before


def test_status_says_that_all_is_done(ddattr, reproduced):
    said = ddattr("status", f"experiment={SMALL}", f"root={reproduced.root}")
    assert said.status == 0
    costs = [line.split()[1] for line in said.out.splitlines() if line.startswith("cost ")]
    assert costs == ["members", "quality", "attribution/default", "figures"]
    assert "\n".join(line for line in said.out.splitlines() if not line.startswith("cost ")).split() == [
        "members",
        "12",
        "done",
        "evaluate",
        "done",
        "attribute",
        "done",
        "report",
        "done",
        "next:",
        "nothing:",
        "all",
        "is",
        "done",
    ]


def test_status_names_what_is_missing_and_the_command_that_goes_on(ddattr, copy):
    said = ddattr("status", *TINY, f"root={copy}")
    assert "6 done" in said.out
    assert "next: ddattr evaluate" in said.out
    assert said.status == 3
    shutil.rmtree(copy / "members" / "004")
    (copy / "members" / "002" / "manifest.json").unlink()
    (copy / "members" / "002" / "status.json").write_text('{"state": "failed", "step": 7, "error": "the loss is nan"}')
    said = ddattr("status", *TINY, f"root={copy}")
    assert {"4 done", "1 failed", "1 missing"} <= set(said.out.splitlines()[0].split(maxsplit=1)[1].split(", "))
    assert "member 2: failed at step 7. the loss is nan" in said.out
    assert said.status == 4
    assert "next: ddattr train -m 'member=range(0,6)'" in said.out


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (["done", "done"], 0),
        (["done", "missing"], 3),
        (["running", "done"], 3),
        (["interrupted"], 3),
        (["failed", "running"], 4),
        (["dead", "done"], 4),
        (["made with another config"], 4),
    ],
)
def test_the_exit_status_of_status_tells_a_script_what_is_left(states, status):
    assert exit_status(states) == status


def test_status_tells_a_killed_job_from_a_running_one_by_its_lock(ddattr, copy):
    for member in (1, 3):
        (copy / "members" / f"{member:03d}" / "manifest.json").unlink()
        status = {"state": "running", "step": 10, "steps": 60, "until": time.time() + 3600}
        save_json(copy / "members" / f"{member:03d}" / "status.json", status)
    with locked(copy / "members" / "003"):
        said = ddattr("status", *TINY, f"root={copy}")
    assert "4 done, 1 dead, 1 running" in said.out
    assert "member 1: dead at step 10. Killed: no process holds its lock." in said.out
    assert f"member 3: running at step 10. Process {os.getpid()} on {socket.gethostname()}, since " in said.out
    left = re.search(r"About (\d+) s to go", said.out)
    assert left
    assert 3500 < int(left[1]) <= 3600
    assert said.status == 4  # member 1 is dead
    assert "member 3: dead at step 10" in ddattr("status", *TINY, f"root={copy}").out
    assert "member 1 of 6 is dead (and 1 more)" in ddattr("evaluate", *TINY, f"root={copy}").err


@pytest.mark.slow
def test_a_member_that_is_killed_is_dead_and_not_running(ddattr, tmp_path):
    argv = ["train", *TINY, f"root={tmp_path / 'run'}", "member=0", "training.steps=100000"]
    kill_when(spawn(tmp_path, *argv), lambda: list(tmp_path.glob("run/members/000/last.ckpt")))
    assert "member 0: dead at step" in ddattr("status", *argv[1:]).out


@pytest.mark.slow
def test_a_full_disk_is_one_line_with_the_path_and_with_room_it_goes_on(tmp_path):
    """A disk of 600 kB, which is enlarged when it is full; the weights are those of a disk with room."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no file system of one's own can be mounted here")
    (tmp_path / "disk").mkdir()
    argv = [override for override in TINY if not override.startswith("unet")]
    train = shlex.join([sys.executable, "-m", "ddattr", "train", *argv, "root=disk/run", "member=0"])
    script = f"""
        mount -t tmpfs -o size=600k tmpfs disk
        {train}; echo status $?; ls disk/run/members/000
        mount -o remount,size=60m disk
        {train}; echo status $?; cp disk/run/members/000/member.safetensors .
    """
    said = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    full = "disk/run/members/000/last.ckpt: No space left on device. Make room, and run the same again"
    assert [full in line for line in said.stderr.splitlines()] == [True]
    assert [line for line in said.stdout.splitlines() if "status" in line] == ["status 2", "status.json", "status 0"]
    run = Run(composed(*argv, f"root={tmp_path / 'run'}", "member=0"))
    train_stage.run(run)
    with_room = run.member_artifact(0).folder / "member.safetensors"
    assert (tmp_path / "member.safetensors").read_bytes() == with_room.read_bytes()


def test_a_run_that_was_moved_is_reported_and_asked_about_where_it_is(ddattr, reproduced, tmp_path):
    root = clone(reproduced, tmp_path, without="figures")
    (root / "report.html").unlink()
    said = ddattr("status", f"experiment={SMALL}", f"root={root}")
    assert "report      missing" in said.out
    assert ddattr("report", f"experiment={SMALL}", f"root={root}").status == 0
    for name in FIGURES:
        mine, original = (folder / "figures" / f"{name}.csv" for folder in (root, reproduced.root))
        assert mine.read_bytes() == original.read_bytes()
    assert (root / "report.html").exists()
    assert "nothing: all is done" in ddattr("status", f"experiment={SMALL}", f"root={root}").out


@pytest.mark.slow
def test_an_attribution_killed_in_the_middle_goes_on_to_the_same_numbers(ddattr, reproduced, tmp_path):
    root = clone(reproduced, tmp_path, without="attribution")
    argv = ["attribute", f"experiment={SMALL}", f"root={root}", "tracking=none"]
    kill_when(spawn(tmp_path, *argv), lambda: list(root.glob("attribution/default/shards/*/shard-*.safetensors")))
    assert not (root / "attribution" / "default" / "manifest.json").exists()
    (shard,) = root.glob("attribution/default/shards/*/shard-*.safetensors")
    assert ddattr(*argv).status == 0
    for name, ending in TABLES.items():
        one, other = (load_table(r / "attribution" / "default" / f"{name}.{ending}") for r in (reproduced.root, root))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    for name in ("queries", "jacobian", "denoised"):
        one, other = (
            load_tensors(r / "attribution" / "default" / f"{name}.safetensors") for r in (reproduced.root, root)
        )
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert not shard.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "folder", "tables"),
    [
        ("evaluate", "quality", ["fid.csv", "convergence.csv"]),
        ("attribute", "attribution/default", [f"{name}.{ending}" for name, ending in TABLES.items()]),
    ],
)
def test_two_processes_make_the_numbers_of_one(reproduced, tmp_path, verb, folder, tables):
    """Ranks of a Trainer draw pictures in smaller batches, and float32 sums in another order: 2e-7 was seen."""
    root = clone(reproduced, tmp_path, without=folder)
    other = "default" if "trainer=processes" in manifest(reproduced.root / folder)["command"] else "processes"
    said = answer(tmp_path, verb, f"experiment={SMALL}", f"root={root}", f"trainer={other}")
    assert said.status == 0, said.err
    assert "Initializing distributed" not in said.out + said.err
    for table in tables:
        one, two = (load_table(r / folder / table) for r in (reproduced.root, root))
        pd.testing.assert_frame_equal(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_processes_that_wait_for_each_other_end_when_the_first_is_asked_to(reproduced, tmp_path):
    """The second shard is its writer's last work: it waits at the barrier, or will."""
    root = clone(reproduced, tmp_path, without="attribution")
    argv = ["attribute", f"experiment={SMALL}", f"root={root}", "tracking=none", "trainer=processes"]
    process = spawn(tmp_path, *argv, start_new_session=True)
    kill_when(process, lambda: list(root.glob("attribution/default/shards/*/shard-*.safetensors")), signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    deadline = time.monotonic() + 30
    while True:
        try:
            os.killpg(process.pid, 0)  # anybody left?
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not (root / "attribution" / "default" / "manifest.json").exists()


@needs_cuda
@pytest.mark.parametrize("verb", ["evaluate", "attribute"])
def test_a_gpu_starts_under_ddp_and_makes_the_same_numbers(reproduced, tmp_path, verb):
    folder, table = {"evaluate": ("quality", "fid.csv"), "attribute": ("attribution/default", "agreement.csv")}[verb]
    root = clone(reproduced, tmp_path, without=folder)
    said = answer(tmp_path, verb, f"experiment={SMALL}", f"root={root}", "trainer.strategy=ddp")
    assert said.status == 0, said.err
    one, two = (load_table(r / folder / table) for r in (reproduced.root, root))
    pd.testing.assert_frame_equal(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "cores", "accelerator", "expected"),
    [
        ([], 2, False, ["trainer=processes"]),
        ([], 1, False, []),
        ([], 2, True, []),
        (["attribution.batch=6"], 2, False, []),  # one shard: a second process would have no work
        (["trainer=default"], 2, False, []),
        (["trainer.precision=bf16-mixed"], 2, False, []),
    ],
)
def test_reproduce_spreads_queries_over_two_cores_unless_a_trainer_is_chosen(
    compose, monkeypatch, overrides, cores, accelerator, expected
):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    overrides = [f"experiment={SMALL}", *overrides]
    assert spread(Run(compose(*overrides), overrides)) == expected


LAUNCHED = {
    "basic": ([], [["evaluate"], ["attribute", "trainer=processes"]]),
    "processes": (["hydra.launcher.n_jobs=1"], [["evaluate"], ["attribute", "trainer=processes"]]),
    "slurm": (["+hydra.launcher.qos=low"], [["evaluate", "-m"], ["attribute", "-m", "part=range(0,2)"]]),
}


@pytest.mark.parametrize("launcher", LAUNCHED)
def test_reproduce_hands_its_launcher_on(ddattr, trained, tmp_path, monkeypatch, launcher):
    """Members that are missing are jobs of it; on a cluster the queries too, and the evaluation."""
    started: list[list[list[str]]] = []
    monkeypatch.setattr(reproduce, "together", lambda steps, run: started.append(steps))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    shutil.copytree(trained, tmp_path / "run")
    for member in ("002", "005"):
        shutil.rmtree(tmp_path / "run" / "members" / member)
    settings, steps = LAUNCHED[launcher]
    chosen = [f"hydra/launcher={launcher}", *settings]
    said = ddattr("reproduce", *TINY, f"root={tmp_path / 'run'}", *(chosen if launcher != "basic" else []))
    assert (said.status, said.err) == (0, "")
    own = chosen if launcher != "basic" else ["hydra/launcher=processes"]
    training, stages, report = started
    assert training == [["train", "-m", "member=2,5", *own]]
    assert stages == [[*step, *(own if "-m" in step else [])] for step in steps]
    assert report == [["report"]]


@pytest.mark.parametrize(
    ("verb", "key", "parts"), [("attribute", "attribution.batch", 2), ("evaluate", "quality.pictures", 4)]
)
def test_a_device_without_work_is_refused_before_any_starts(ddattr, copy, verb, key, parts):
    said = ddattr(verb, *TINY, f"root={copy}", "trainer=processes", f"trainer.devices={parts + 1}")
    assert said.status == 2
    assert said.err.splitlines() == [
        f"trainer: {parts + 1} devices for {parts} parts of work, expected no more than that. "
        f"Set trainer.devices={parts}, or {key} to have more parts."
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "folder", "first"),
    [("evaluate", "quality", "extractor.safetensors"), ("report", "figures", "fig1_codebook.png")],
)
def test_a_stage_killed_while_it_writes_is_made_again_to_the_same_numbers(
    ddattr, reproduced, tmp_path, verb, folder, first
):
    root = clone(reproduced, tmp_path, without=folder)
    argv = [verb, f"experiment={SMALL}", f"root={root}", "tracking=none"]
    kill_when(spawn(tmp_path, *argv), (root / folder / first).exists)
    assert not (root / folder / "manifest.json").exists()
    assert ddattr(*argv).status == 0
    assert (root / folder / "manifest.json").exists()
    made, again = (sorted((r / folder).glob("[!.]*.csv")) for r in (reproduced.root, root))
    assert [path.name for path in made] == [path.name for path in again]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(made, again, strict=True))


@pytest.mark.slow
def test_a_member_killed_in_mid_training_goes_on_to_the_same_bits(ddattr, reproduced, tmp_path):
    root = clone(reproduced, tmp_path, without="members/003")
    folder, argv = root / "members" / "003", ["train", f"experiment={SMALL}", f"root={root}", "tracking=none"]
    kill_when(spawn(tmp_path, *argv, "member=3"), (folder / "last.ckpt").exists)
    assert not (folder / "manifest.json").exists()
    assert load_json(folder / "status.json")["state"] == "running"
    begun = torch.load(folder / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < begun < 60
    said = ddattr(*argv, "member=3")
    assert said.status == 0
    assert f"step {begun + 1} " not in said.out
    one, other = (load_tensors(r / "members/003/member.safetensors") for r in (reproduced.root, root))
    assert all(torch.equal(one[name], other[name]) for name in one)
    curves = [load_table(r / "members/003/metrics.csv") for r in (reproduced.root, root)]
    later = [curve[curve.step >= begun + 25].reset_index(drop=True) for curve in curves]  # of epochs begun since
    pd.testing.assert_frame_equal(*later, check_exact=True)
    assert manifest(root / "members/003")["fingerprint"] == manifest(reproduced.root / "members/003")["fingerprint"]


def test_a_checkpoint_of_another_config_is_not_resumed(ddattr, copy):
    """It lies in the folder of a member that was never finished, and would be silently mixed in."""
    folder = copy / "members" / "001"
    expected = load_tensors(folder / "member.safetensors")
    for name in ("manifest.json", "member.safetensors"):
        (folder / name).unlink()
    torch.save({"state_dict": {}, "global_step": 10}, folder / "last.ckpt")
    (folder / "status.json").write_text('{"state": "running", "step": 10, "fingerprint": "another"}')
    assert ddattr("train", *TINY, f"root={copy}", "member=1").status == 0
    again = load_tensors(folder / "member.safetensors")
    assert all(torch.equal(expected[name], again[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["training.draws=independent", "sampler=ddim", "sampler.steps=3", "attribution.jacobian.members_per_step=null"],
        ["data.units=label", "codebook.weight=3", "training=forked", "training.fork.steps=7"],
    ],
    ids=["independent draws, ddim and the exact jacobian", "labels as units and forked members"],
)
def test_every_verb_runs_with_another_choice(ddattr, tmp_path, overrides):
    root = tmp_path / "run"
    for verb in (["train", "-m", "member=range(0,6)"], ["evaluate"], ["attribute"], ["report"]):
        said = ddattr(*verb, *TINY, f"root={root}", *overrides)
        assert said.status == 0, said.err
    assert "nothing: all is done" in ddattr("status", *TINY, f"root={root}", *overrides).out


@pytest.mark.slow
def test_pictures_of_three_channels_that_are_no_squares_go_all_the_way(ddattr, tmp_path):
    """Channels and size come from the data alone; no label says what the extractor should tell."""
    tiny = [override for override in TINY if not override.startswith(("data.source", "experiment"))]
    argv = [*tiny, "experiment=digits", "data.source={_target_: conftest.shapes}", f"root={tmp_path / 'run'}"]
    for verb in (["train", "-m", "member=range(0,6)"], ["evaluate"], ["attribute"], ["report"]):
        said = ddattr(*verb, *argv)
        assert said.status == 0, said.err
    pictures = load_tensors(tmp_path / "run" / "attribution" / "default" / "queries.safetensors")["factual"]
    assert pictures.shape == (4, 3, 6, 10)


def test_pictures_that_fit_no_level_are_refused_with_sizes_that_do(ddattr):
    tiny = [override for override in TINY if not override.startswith(("data.source", "experiment"))]
    source = ["experiment=digits", "data.source={_target_: conftest.shapes}", "+data.source.height=7"]
    said = ddattr("plan", *tiny, *source, "+data.source.width=9")
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert "pictures of 7 x 9 do not fit 2 levels" in said.err
