"""Where a result comes from: the command, the commit, the versions, the device and the threads that made it."""

import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_VERSIONS = ("ddattr", "torch", "lightning", "diffusers", "torchmetrics", "numpy")


def provenance() -> dict[str, Any]:
    """What a manifest says of the program that writes it."""
    return {
        "command": _command(),
        "commit": _commit(),
        "versions": {name: _version(name) for name in _VERSIONS},
        "device": device_name(),
        "threads": torch.get_num_threads(),
    }


def _command() -> str:
    """The command line as a person types it: the verb first."""
    verbs = [argument.partition("=")[2] for argument in sys.argv[1:] if argument.startswith("stage=")]
    rest = [argument for argument in sys.argv[1:] if not argument.startswith("stage=")]
    return shlex.join(["ddattr", *verbs[-1:], *rest])


def _version(name: str) -> str | None:
    """Version of an installed package; None of one that runs from a checkout alone."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def device_name() -> str:
    """The accelerator, or the processor with the instructions that torch uses: it makes a factor of two in time."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(models or [platform.processor() or 'cpu'])[0]}, {torch.backends.cpu.get_cpu_capability()}"


def _commit() -> str | None:
    """Commit of the checkout that runs, with a + when it has changes; None when installed without one."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", here, "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip()
