"""Commands of the app as forked processes, which import nothing again: to be killed, or hindered.

Moments are of processor time, so that a seed hits the same place however busy the machine is.
"""

import ctypes
import fcntl
import importlib
import os
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from conftest import TINY, Said, manifest
from hydra.core.global_hydra import GlobalHydra

from ddattr.artifacts import own_files
from ddattr.stages import attribute, evaluate, processes, reproduce, retrain, train, validate, verify  # noqa: F401

CONFIG = (  # of every verb, in as little time as there is
    *TINY,
    "data.source.count=17",
    "data.holdout=5",
    "attribution.queries=5",
    "attribution.denoisings=5",
    "quality.orders=1",
    "validation.retrained_units=0",
    "validation.retrained_members=2",
    "validation.replicates=1",
    "validation.lds_subsets=5",
    "validation.tuning_subsets=4",
    "validation.groups=null",
    "validation.removal_queries=0",
    "validation.peers=[]",
    "validation.draws=2",
    "root=run",
)
MEMBER = 2
STAGES = {  # the command, and what is not there before it
    "train": (["train", f"member={MEMBER}"], ["*"]),
    "evaluate": (["evaluate"], ["quality", "attribution", "validation"]),
    "attribute": (["attribute"], ["quality", "attribution", "validation"]),
    "retrain": (["retrain"], ["quality", "attribution", "validation"]),
    "export": (["export", f"member={MEMBER}"], ["exports"]),
    "validate": (["validate"], ["validation/[!r]*", "validation/retraining/halves/000*"]),
}
LORA = ("training=lora", "training.lora.target_modules=[conv1,conv2]")  # of a network that has no attention
ADAPTERS = {"train": (["train", f"member={MEMBER}", *LORA], ["*"])}
REMEDIES = {  # of an artifact whose folder was deleted, by the first word of its name that is here
    "codebook": ["train", "member=0"],
    "quality": ["evaluate"],
    "attribution": ["attribute"],
    "retraining": ["retrain"],
    "members": ["train"],
    "validation": ["validate"],
    "exports": ["export", f"member={MEMBER}"],
}
TIMED = ("cost.csv", "fig12_cost.csv", "fig12_cost.pdf", "fig12_cost.png", "peers.json")  # which say how long work took
_PATIENCE = 900  # seconds


class Whole(NamedTuple):
    """A run that nothing disturbed, the processor time of its stages in seconds, and its own overrides."""

    root: Path
    seconds: dict[str, float]
    words: tuple[str, ...] = ()

    @property
    def stages(self) -> dict[str, tuple[list[str], list[str]]]:
        return ADAPTERS if self.words else STAGES


class Forked(subprocess.Popen):
    """`python -m ddattr ...`, forked in place of started. `spent`: seconds of processor time, once it has ended."""

    _child_created = False  # by the base

    def __init__(self, command: list[str], fault: Callable[[], object] = lambda: None, **_):
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            _run(command[3:], fault)

    def poll(self) -> int | None:
        return self.wait(os.WNOHANG)

    def wait(self, how: int = 0) -> int | None:
        if self.returncode is None:
            ended, status, used = os.wait4(self.pid, how)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
            self.spent = used.ru_utime + used.ru_stime
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


def _run(argv: Iterable[str], fault: Callable[[], object] = lambda: None) -> None:
    """Ends this process as the console script would."""
    status = 1
    try:
        sys.argv = ["ddattr", *argv]
        GlobalHydra.instance().clear()
        fault()
        runpy.run_module("ddattr", run_name="__main__", alter_sys=True)  # whose name Lightning starts others by
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


@pytest.fixture
def forks(monkeypatch) -> None:
    """The children of `reproduce` and `validate` are forks. But for a sweep, which starts processes itself."""

    def begun(command: list[str], env: dict[str, str]) -> subprocess.Popen:
        return subprocess.Popen(command, env=env) if "-m" in command[3:] else Forked(command, partial(loud, env))

    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(Popen=begun))


def loud(env: dict[str, str]) -> None:
    """A process that was forked from one whose streams pytest reads says it where a started one would."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(env)
    sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115


def begin(folder: Path, *argv: str, fault: Callable[[], object] = lambda: None, name: str = "said") -> Forked:
    """A command of the app in a folder, with a fault that its process alone has; what it says goes to `name`."""

    def alone() -> None:
        os.setpgid(0, 0)
        os.chdir(folder)
        for stream, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(f"{name}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
        processes.subprocess = SimpleNamespace(Popen=Forked)  # type: ignore[attr-defined, misc]
        fault()

    process = Forked(["python", "-m", "ddattr", *argv, *CONFIG], alone)
    with suppress(OSError):  # whoever of the two comes first
        os.setpgid(process.pid, process.pid)
    return process


def ended(process: Forked, folder: Path, name: str = "said") -> Said:
    """What a command has answered; it is killed when it takes for ever."""
    end = time.monotonic() + _PATIENCE
    while process.poll() is None:
        if time.monotonic() > end:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.01)
    out, err = ((folder / f"{name}.{stream}").read_text() for stream in ("out", "err"))
    return Said(process.returncode or 0, out, err)


def answer(folder: Path, *argv: str, fault: Callable[[], object] = lambda: None) -> Said:
    return ended(begin(folder, *argv, fault=fault), folder)


def reached(process: Forked, at: float) -> bool:
    """Waits until a command has used a processor for so many seconds; False if it ended before."""
    while process.poll() is None:
        if seconds(process.pid) >= at:
            return True
        time.sleep(0.005)
    return False


def killed(process: Forked, at: float) -> bool:
    """Whether SIGKILL met a command, and all that it had begun, at a moment; False if it ended before."""
    if not reached(process, at):
        return False
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def seconds(process: int) -> float:
    """Processor time of a process, of its children, and of those that it has waited for; 0 when it is gone."""
    folder = Path("/proc", str(process))
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        children = (folder / "task" / str(process) / "children").read_text().split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(seconds(int(child)) for child in children)


def undisturbed(folder: Path, *words: str) -> Whole:
    """A run of every stage, in a folder; of members alone where it has overrides of its own."""
    whole = Whole(folder / "run", {}, words)

    def stage(*argv: str) -> float:
        process = begin(folder, *argv, fault=partial(tells_imports, folder / "imports"))
        said = ended(process, folder)
        assert said.status == 0, said
        for name in (folder / "imports").read_text().split():
            with suppress(Exception):  # of what only looks like a module
                importlib.import_module(name)
        return process.spent

    for name, (argv, _) in whole.stages.items():
        if name == "validate":
            shutil.rmtree(next((folder / "run" / "validation" / "retraining").glob("halves/000*")))
        whole.seconds[name] = stage(*argv)
        if name == "train":
            for member in {*range(6)} - {MEMBER}:
                stage("train", f"member={member}", *words)
    return whole


def tells_imports(path: Path) -> None:
    """Of a process: what it has imported lies in a file when it ends, for others to be forked with."""
    before, leave = set(sys.modules), os._exit

    def told(status: int) -> None:
        path.write_text("\n".join(name for name in sys.modules if name not in before))
        leave(status)

    os._exit = told  # type: ignore[assignment]


def start(whole: Whole, folder: Path, stage: str) -> tuple[list[str], Path]:
    """The command of a stage, and a copy of the run as it is before it."""
    argv, lacks = whole.stages[stage]
    root = shutil.copytree(whole.root, folder / "run", dirs_exist_ok=True)
    for pattern in lacks:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return argv, root


def differing(root: Path, whole: Path) -> list[str]:
    """Files that a run has otherwise than a whole one, lacks, or has beside it: names below the run's folder.

    Locks are left out, and what tells times: `TIMED`, and of manifests all but what was made, of what, and the digests.
    """
    here, there = _kept(root), _kept(whole)
    made = [name.removesuffix("manifest.json") for name in here if name.endswith("manifest.json")]
    due = {name for name in there if name.startswith(tuple(made))}
    return sorted(name for name in {*here, *due} if here.get(name) != there.get(name))


def _kept(root: Path) -> dict[str, object]:
    kept: dict[str, object] = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.name == "manifest.json":
            made = manifest(path.parent)
            files = {file: digest for file, digest in made["files"].items() if Path(file).name not in TIMED}
            assert sorted(made["files"]) == own_files(
                p.relative_to(path.parent).as_posix() for p in path.parent.rglob("*") if p.is_file()
            )
            kept[name] = [made[key] for key in ("fingerprint", "config", "parents", "seed", "read")] + [files]
        elif path.is_file() and path.name != ".lock" and path.name not in TIMED:
            kept[name] = path.read_bytes()
    return kept


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A file system of 16 MB in a folder, while the block runs: a tmpfs, which it takes root to mount."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def protect(root: Path) -> None:
    """Nobody may write to a folder, or to what lies in it; those whom modes do not bind excepted."""
    for path in [root, *root.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)


def fills_after(writes: int, disk: Path, left: int) -> None:
    """The disk is full, but for some bytes, from the end of this process's write number `writes` on."""
    replace, written = os.replace, 0

    def fill() -> None:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        with open(disk / "filler", "wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, max(1, free - left))

    def counted(part, path) -> None:
        nonlocal written
        replace(part, path)
        written += 1
        if written == writes:
            fill()

    os.replace = counted
    if not writes:
        fill()


def without_privileges() -> None:
    """Root may do no more than any user: it loses all capabilities (capset(2)), and keeps what it has imported."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def jumping_clock(seed: int) -> None:
    """The clock is an hour off, before or behind, and is set anew whenever it is read."""
    draw, right = random.Random(seed), time.time
    time.time = lambda: right() + draw.choice((-3600, 0, 3600))


def without_locks(host: str) -> None:
    """Another machine that shares the folder: its locks are its own, and its processes have the same numbers."""
    fcntl.flock = lambda *_: None
    socket.gethostname = lambda: host
    os.getpid = lambda: 7


def damage(path: Path, other: Path, draw: random.Random) -> str:
    """Does something to a file, and says what."""
    before = path.read_bytes()
    while path.exists() and path.read_bytes() == before:
        how = draw.choice(("truncated", "one bit", "another's", "foreign", "lost"))
        content = bytearray(before)
        if how == "truncated":
            content = content[: draw.randrange(len(before))]
        elif how == "one bit":
            content[draw.randrange(len(before))] ^= 1 << draw.randrange(8)
        elif how == "another's":
            content = bytearray(other.read_bytes())
        elif how == "foreign":
            content = bytearray(draw.randbytes(len(before)))
        path.write_bytes(content)
        if how == "lost":
            path.unlink()
    return how
