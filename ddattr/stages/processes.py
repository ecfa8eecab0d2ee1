"""Processes of a machine: how many it takes, and command lines that run side by side."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

import ddattr
from ddattr.stages.forked import Fork, entry
from ddattr.stages.run import Run
from ddattr.stages.saved import conf

Child = Fork | subprocess.Popen


def cores() -> int:
    """Of this machine."""
    return os.cpu_count() or 1


def launched() -> int:
    """Processes that train members side by side: a core each, or as many as the launcher that was chosen starts."""
    hydra = HydraConfig.get()
    if hydra.runtime.choices["hydra/launcher"] == "basic":  # for which `reproduce` takes `processes`
        return cores()
    if (jobs := hydra.launcher.get("array_parallelism")) is not None:
        return jobs
    jobs = hydra.launcher.get("n_jobs")
    return 1 if jobs is None else max(1, jobs if jobs > 0 else cores() + 1 + jobs)


def launcher() -> list[str]:
    """The overrides by which `reproduce` has its steps launched: those that chose and set a launcher, else processes.

    In a sweep of several runs none, where the user chose one: it has launched this run.
    """
    hydra = HydraConfig.get()
    if hydra.runtime.choices["hydra/launcher"] == "basic":
        return ["hydra/launcher=processes"]
    if hydra.mode is RunMode.MULTIRUN:
        return []
    return [word for word in hydra.overrides.hydra if word.lstrip("+").startswith(("hydra/launcher", "hydra.launcher"))]


def queued() -> bool:
    """Whether that launcher has jobs wait in a cluster's queue, each with resources of its own."""
    return "array_parallelism" in HydraConfig.get().launcher and bool(launcher())


def spread(run: Run) -> list[str]:
    """The override by which a stage uses two cores: where there is no accelerator, and nobody chose a trainer."""
    several = run.config.attribution.queries > run.config.attribution.batch
    default = OmegaConf.load(Path(conf()) / "trainer" / "default.yaml")
    chosen = run.config.trainer != default or any(override.startswith("trainer") for override in run.overrides)
    spread = several and not chosen and cores() > 1 and not torch.accelerator.is_available()
    return ["trainer=processes"] if spread else []


def _environment() -> dict[str, str]:
    """Of a child: it finds this package, and imports nothing from the folder that it is started in."""
    paths = [str(Path(ddattr.__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(paths)}


@contextmanager
def beside(steps: list[list[str]], run: Run) -> Iterator[list[Child]]:
    """Command lines that run while the block does; its end waits for them.

    Forks of this process where there can be any, else started anew, as a sweep is, which starts processes itself.

    Raises:
        ValueError: one of them failed; its own line says why.
    """
    children: list[Child] = []
    try:
        for step in steps:
            arguments = run.words(*step)
            print(f"$ ddattr {shlex.join(arguments)}", flush=True)
            if "-m" not in step and (main := entry()) is not None:
                children.append(Fork(main, arguments, _environment()))
            else:
                children.append(subprocess.Popen([sys.executable, "-m", "ddattr", *arguments], env=_environment()))
        yield children
        ended = [child.wait() for child in children]
    except BaseException:
        for child in children:
            child.terminate()
        for child in children:  # the locks are free when this process is gone
            child.wait()
        raise
    if 128 + signal.SIGPIPE in ended:
        raise BrokenPipeError  # nobody reads what they print, nor what this would
    failed = [step[0] for step, status in zip(steps, ended, strict=True) if status != 0]
    if failed:
        raise ValueError(
            f"{run.config.stage}: {failed[0]} failed; what was computed is kept. Mend it, and run the same again."
        )


def together(steps: list[list[str]], run: Run) -> None:
    """Runs command lines side by side, and waits for all of them."""
    with beside(steps, run):
        pass
