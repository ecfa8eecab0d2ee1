"""Run folders: they remember how they were made, are whole or absent, and belong to one process at a time."""

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import socket
import time
from importlib import metadata

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from ddattr.artifacts import Artifact, fingerprint
from ddattr.files import atomic, load_json, load_table, load_tensors, save_json, save_table, save_tensors
from ddattr.locks import held, holder, locked

CONFIG = {"training": {"steps": 600, "batch": 64}, "seed": 0}
scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False)
configs = st.dictionaries(st.text(max_size=5), scalars | st.dictionaries(st.text(max_size=5), scalars), min_size=1)


def made(folder, config=CONFIG, parents=None) -> Artifact:
    artifact = Artifact(folder, config, parents, "ddattr make")
    artifact.make(7, lambda: save_tensors(folder / "x.safetensors", {"x": torch.arange(3.0)}))
    return artifact


def changed(config: dict, path: tuple[str, ...]) -> dict:
    """The config with the value at a path replaced by one that no strategy draws."""
    key, *rest = path
    return config | {key: changed(config[key], tuple(rest)) if rest else ["another"]}


def paths(config: dict) -> list[tuple[str, ...]]:
    return [(k, *rest) for k, v in config.items() for rest in (paths(v) if isinstance(v, dict) and v else [()])]


@given(configs)
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(config):
    def reverse(c):
        return {k: reverse(v) if isinstance(v, dict) else v for k, v in reversed(c.items())}

    assert fingerprint(reverse(config)) == fingerprint(config)


@given(configs)
def test_a_fingerprint_changes_with_any_value(config):
    prints = [fingerprint(changed(config, path)) for path in paths(config)]
    assert fingerprint(config) not in prints
    assert len(set(prints)) == len(prints)


def test_a_fingerprint_is_the_same_in_every_process():
    """A golden value: were it to change, every folder that exists would be refused."""
    assert fingerprint({"b": 1, "a": [0.5, None, "x"]}) == "1078e7ba62c190af"


def test_the_fingerprint_of_an_artifact_covers_config_and_parents_only(tmp_path):
    a = Artifact(tmp_path / "a", CONFIG, {"codebook": "1"}, "one")
    assert Artifact(tmp_path / "b", CONFIG, {"codebook": "1"}, "two").fingerprint == a.fingerprint
    assert Artifact(tmp_path / "a", CONFIG, {"codebook": "2"}).fingerprint != a.fingerprint
    assert Artifact(tmp_path / "a", CONFIG | {"seed": 1}, {"codebook": "1"}).fingerprint != a.fingerprint


def test_an_artifact_is_done_when_its_manifest_is_there_and_not_before(tmp_path):
    artifact = Artifact(tmp_path / "a", CONFIG)
    seen = []
    assert not artifact.done()
    assert artifact.make(0, lambda: seen.append(artifact.done()))
    assert seen == [False]
    assert artifact.done()
    (tmp_path / "a" / "manifest.json").unlink()
    assert not artifact.done()


def test_the_manifest_is_written_last(tmp_path):
    folder = made(tmp_path / "a").folder
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert max(written, key=written.__getitem__) == "manifest.json"


def test_a_failed_making_leaves_no_manifest_and_frees_the_lock(tmp_path):
    def work():
        raise RuntimeError("broken")

    artifact = Artifact(tmp_path / "a", CONFIG)
    with pytest.raises(RuntimeError, match="broken"):
        artifact.make(0, work)
    assert not artifact.done()
    assert made(tmp_path / "a").done()


def test_the_manifest_says_how_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/ddattr", "train", "member=range(0,3)"])
    artifact = made(tmp_path / "a", parents={"codebook": "0123"})
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert manifest["config"] == CONFIG
    assert manifest["parents"] == {"codebook": "0123"}
    assert manifest["fingerprint"] == artifact.fingerprint
    assert manifest["seed"] == 7
    assert manifest["command"] == "ddattr train 'member=range(0,3)'"
    assert manifest["versions"]["torch"] == metadata.version("torch")
    if not torch.cuda.is_available():
        assert manifest["device"].endswith(f", {torch.backends.cpu.get_cpu_capability()}")
    assert 0 <= manifest["wall_seconds"] < 600
    assert 0 <= manifest["cpu_seconds"] < 600
    assert manifest["peak_memory_mb"] > 10
    assert manifest["earlier_seconds"] == 0
    assert manifest["disk_bytes"] == sum((tmp_path / "a" / name).stat().st_size for name in manifest["files"]) > 0
    assert "commit" in manifest


def test_a_checkout_that_is_not_installed_has_no_version_and_a_manifest_all_the_same(tmp_path, monkeypatch):
    installed = metadata.version

    def version(name: str) -> str:
        if name == "ddattr":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    versions = made(tmp_path / "a").manifest["versions"]
    assert versions["ddattr"] is None
    assert versions["torch"] == metadata.version("torch")


def test_a_mismatch_names_the_keys_that_differ_and_no_others_and_what_to_do(tmp_path):
    made(tmp_path / "a", parents={"codebook": "1"})
    other = {"training": {"steps": 1200, "batch": 64}, "seed": 0}
    with pytest.raises(ValueError, match=r"^a: ") as error:
        Artifact(tmp_path / "a", other, {"codebook": "2"}).done()
    line = str(error.value)
    assert "\n" not in line
    assert "training.steps=600 (now 1200)" in line
    assert "parents.codebook=1 (now 2)" in line
    assert "batch" not in line
    assert "seed" not in line
    assert line.endswith("Choose another name= or root=, or delete that folder.")
    named = Artifact(tmp_path / "a", other, otherwise="Delete it.", title="what it is")
    with pytest.raises(ValueError, match=r"^what it is: .* was made with .*\. Delete it\.$"):
        named.done()


def test_a_mismatch_names_keys_that_only_one_side_has(tmp_path):
    made(tmp_path / "a", {"old": 1})
    with pytest.raises(ValueError, match=r"new=None \(now 2\), old=1 \(now None\)"):
        Artifact(tmp_path / "a", {"new": 2}).done()


def test_a_missing_artifact_says_which_command_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"quality: .* is missing\. Make it: ddattr evaluate$"):
        Artifact(tmp_path / "quality", CONFIG, remedy="ddattr evaluate").require()


def test_a_folder_that_was_moved_still_loads(tmp_path):
    made(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "elsewhere")
    moved = Artifact(tmp_path / "elsewhere", CONFIG)
    assert moved.done()
    assert moved.require() is moved
    assert str(tmp_path / "a") not in (tmp_path / "elsewhere" / "manifest.json").read_text()


@pytest.mark.parametrize("before", [None, "whole"])
def test_an_atomic_write_that_fails_leaves_nothing_behind(tmp_path, before):
    path = tmp_path / "x.txt"
    if before:
        path.write_text(before)

    def write():
        with atomic(path) as part:
            part.write_text("ha")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write()
    assert [p.name for p in tmp_path.iterdir()] == (["x.txt"] if before else [])
    assert not before or path.read_text() == before


@pytest.mark.parametrize("before", [None, "whole"])
def test_an_atomic_write_never_shows_a_part(tmp_path, before):
    path = tmp_path / "deep" / "x.csv"
    if before:
        path.parent.mkdir()
        path.write_text(before)
    with atomic(path) as part:
        assert part.parent == path.parent
        assert part.suffix == path.suffix
        part.write_text("new, half")
        assert (path.read_text() if path.exists() else None) == before
        part.write_text("new, whole")
    assert path.read_text() == "new, whole"
    assert list(path.parent.iterdir()) == [path]


def _write_and_hang(path, begun):
    with atomic(path) as part:
        part.write_text("ha")
        begun.set()
        time.sleep(600)


def _lock_and_hang(folder, begun):
    with locked(folder):
        begun.set()
        time.sleep(600)


def hanging(work, *arguments) -> multiprocessing.Process:
    """A process that has begun its work and will never end it."""
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=work, args=(*arguments, begun))
    process.start()
    assert begun.wait(60)
    return process


def kill(process: multiprocessing.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    save_json(path, {"whole": True})
    kill(hanging(_write_and_hang, path))
    assert load_json(path) == {"whole": True}


def _make_and_tell(folder, made, done) -> None:
    made.value = Artifact(folder, CONFIG).make(0, lambda: (folder / "x").write_text("second"))
    done.set()


@pytest.mark.parametrize("finished", [True, False])
def test_a_second_process_waits_and_makes_it_only_if_the_first_did_not(tmp_path, capfd, finished):
    """The first ends well, or is killed: the system frees the lock either way, and the second never works beside it."""
    folder, context = tmp_path / "a", multiprocessing.get_context("fork")
    holder = hanging(_lock_and_hang, folder)
    made, done = context.Value("b", 2), context.Event()
    second = context.Process(target=_make_and_tell, args=(folder, made, done))
    second.start()
    try:
        assert not done.wait(0.3)
        assert not (folder / "x").exists()
        if finished:
            manifest = {"fingerprint": Artifact(folder, CONFIG).fingerprint, "config": CONFIG, "parents": {}}
            save_json(folder / "manifest.json", manifest)
    finally:
        kill(holder)
    assert done.wait(60)
    second.join()
    assert bool(made.value) != finished
    assert (folder / "x").exists() != finished
    assert f"a: another process is working on {folder}; waiting for it" in capfd.readouterr().out


def test_what_is_done_is_not_made_again(tmp_path):
    made(tmp_path / "a")
    before = (tmp_path / "a" / "manifest.json").stat().st_mtime_ns
    assert not Artifact(tmp_path / "a", CONFIG).make(0, lambda: pytest.fail("made again"))
    assert (tmp_path / "a" / "manifest.json").stat().st_mtime_ns == before


def test_what_was_made_with_another_config_is_not_made_over(tmp_path):
    made(tmp_path / "a")
    with pytest.raises(ValueError, match="was made with seed=0"):
        Artifact(tmp_path / "a", CONFIG | {"seed": 1}).make(0, lambda: pytest.fail("made over"))


def test_a_view_of_others_is_made_again_where_it_was_made_of_others(tmp_path):
    Artifact(tmp_path / "a", {"name": "x"}, {"set": "1"}, view=True).make(0, lambda: None)
    other, made_again = Artifact(tmp_path / "a", {"name": "x"}, {"set": "2"}, view=True), []
    assert not other.done()
    assert other.state() == "out of date"
    assert other.make(0, lambda: made_again.append(1))
    assert not other.make(0, lambda: made_again.append(2))
    assert made_again == [1]
    assert other.state() == "done"


def test_processes_beside_the_first_do_their_share_and_write_no_manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    shares = []
    assert Artifact(tmp_path / "a", CONFIG).make(0, lambda: shares.append(1))
    assert shares == [1]
    assert not Artifact(tmp_path / "a", CONFIG).done()


def test_tensors_come_back_with_their_bits_and_dtypes(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "b": torch.arange(5), "c": torch.tensor([float("nan")]).double()}
    save_tensors(tmp_path / "x.safetensors", tensors)
    loaded = load_tensors(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(
        loaded[k].dtype == v.dtype and torch.equal(loaded[k].nan_to_num(), v.nan_to_num()) for k, v in tensors.items()
    )


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_truncated_tensors_are_refused_in_one_line(tmp_path, kept):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"x": torch.arange(1000.0)})
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"is damaged .*make it again\.$") as error:
        load_tensors(path)
    assert "\n" not in str(error.value)


def test_foreign_tensors_and_damaged_json_are_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"not at all" * 100)
    (tmp_path / "x.json").write_text('{"half": ')
    with pytest.raises(ValueError, match="is damaged"):
        load_tensors(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="is damaged"):
        load_json(tmp_path / "x.json")
    assert load_json(tmp_path / "absent.json") is None


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_come_back(tmp_path, ending):
    table = pd.DataFrame({"unit": [0, 1], "score": [0.1234567, float("nan")], "set": ["label:3", "nearest:5"]})
    save_table(tmp_path / f"x.{ending}", table)
    pd.testing.assert_frame_equal(load_table(tmp_path / f"x.{ending}"), table)


def test_nothing_unpickles(tmp_path):
    """A pickle that would run code on loading is refused as what it is: no safetensors file."""

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    torch.save(Trap(), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="is damaged"):
        load_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "raised",
    [
        OSError(errno.ENOSPC, "no room, said by another library"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_what_the_file_system_does_not_take_is_told_with_its_path(tmp_path, raised):
    with pytest.raises(OSError, match="No space left on device") as caught, atomic(tmp_path / "x.bin"):
        raise raised
    assert caught.value.filename == str(tmp_path / "x.bin")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_held_while_its_process_lives(tmp_path):
    assert not held(tmp_path / "nowhere")
    with locked(tmp_path):
        assert held(tmp_path)
    assert not held(tmp_path)


def _write_late_and_hang(folder, begun):
    with locked(folder):
        (folder / "half").write_text("half")
        os.utime(folder / "half", (time.time() + 40, time.time() + 40))
        begun.set()
        time.sleep(600)


def test_seconds_of_attempts_that_were_killed_are_told_with_the_one_that_ends(tmp_path):
    """Two are killed, each 40 s by its last file; the third ends, and who comes after a manifest hears of none."""
    for _ in range(2):
        kill(hanging(_write_late_and_hang, tmp_path))
    artifact = made(tmp_path)
    assert 75 < artifact.manifest["earlier_seconds"] <= 81
    with locked(tmp_path) as earlier:
        assert earlier == 0


def _write_late_and_fail(folder):
    with locked(folder):
        (folder / "half").write_text("half")
        os.utime(folder / "half", (time.time() + 40, time.time() + 40))
        raise RuntimeError


def test_an_attempt_that_failed_counts_as_one(tmp_path):
    with pytest.raises(RuntimeError):
        _write_late_and_fail(tmp_path)
    with locked(tmp_path) as earlier:
        assert 35 < earlier <= 41


def test_a_lock_says_who_holds_it_and_since_when_while_it_is_held(tmp_path):
    assert holder(tmp_path / "nowhere") == {}
    for _ in range(2):
        before = time.time()
        with locked(tmp_path):
            said = holder(tmp_path)
        assert (said["host"], said["pid"]) == (socket.gethostname(), os.getpid())
        assert before <= said["since"] <= time.time()
    assert holder(tmp_path) == {}
    (tmp_path / ".lock").write_text("not said")
    with open(tmp_path / ".lock") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert holder(tmp_path) == {}


def test_where_two_hold_one_lock_the_earlier_writes_nothing_any_more(tmp_path, monkeypatch):
    """Two machines whose locks are each its own; one is played by a child, which has no part of the other's memory."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    folder = tmp_path / "a"
    with locked(folder):
        save_json(folder / "x.json", {"of": "the first"})
        kill(hanging(_lock_and_hang, folder))
        save_json(tmp_path / "elsewhere.json", {})
        for name in ("x.json", "manifest.json", "below/y.json"):
            with pytest.raises(OSError, match="another process works on it since") as caught:
                save_json(folder / name, {})
            assert (caught.value.errno, caught.value.filename) == (errno.ENOLCK, str(folder))
    assert load_json(folder / "x.json") == {"of": "the first"}
    assert load_json(folder / "manifest.json") is None
    assert Artifact(folder, CONFIG).make(0, lambda: save_json(folder / "x.json", {"of": "the next"}))


def test_a_file_system_without_locks_is_told_with_the_folder(tmp_path, monkeypatch):
    def no_lock(*_) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with pytest.raises(OSError, match=r"no lock can be had \(Function not implemented\)") as caught:
        Artifact(tmp_path, CONFIG).make(0, lambda: None)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOLCK, str(tmp_path))


def test_processes_of_one_number_on_two_machines_write_to_names_of_their_own(tmp_path):
    with atomic(tmp_path / "x") as one, atomic(tmp_path / "x") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "x").read_text() == "one"


def test_what_a_killed_process_had_half_written_is_cleared_by_the_next(tmp_path):
    """In its own folder and below, but not where another artifact lies there, which may be at work."""
    with locked(tmp_path / "other"):
        pass
    for folder in ("", "figures", "other"):
        kill(hanging(_write_and_hang, tmp_path / folder / "x.json"))
    assert len(list(tmp_path.rglob("*.part*"))) == 3
    Artifact(tmp_path, CONFIG).make(0, lambda: None)
    assert [path.parent.name for path in tmp_path.rglob("*.part*")] == ["other"]


def test_so_it_is_of_the_files_beside_its_folder_that_are_its_own(tmp_path):
    for name in ("units.csv", "others.csv"):
        kill(hanging(_write_and_hang, tmp_path / name))
    Artifact(tmp_path / "codebook", CONFIG, beside=["units.csv"]).make(0, lambda: None)
    assert [path.name.split(".")[1] for path in tmp_path.glob(".*.part*")] == ["others"]
