"""W&B: a view of the artefacts, never the truth. The only module that imports it."""

import hashlib
import json
import netrc
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline runs would post telemetry otherwise

import numpy as np
import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from torch import Tensor

from ddattr.artifacts import first_process

MODES = ("offline", "online", "disabled")


class Tracking:
    """One W&B run for every member and stage, grouped by the experiment's name.

    Args:
        mode: `offline` (default: no key, no prompt, no network; `wandb sync` sends it later), `online`, `disabled`.
        project, entity: W&B's.
    Raises:
        ValueError: a mode of another name, or online without a key.
    """

    def __init__(self, mode: str, project: str, entity: str | None = None):
        if mode not in MODES:
            raise ValueError(f"tracking: mode={mode}, expected {', '.join(MODES)}. Set tracking.mode.")
        if mode == "online" and not _has_key():
            raise ValueError("tracking: mode=online needs a key. Run `wandb login`, or set WANDB_API_KEY.")
        self.mode, self.project, self.entity = mode, project, entity

    @contextmanager
    def run(
        self, folder: Path, group: str, job: str, fingerprint: str, config: Mapping[str, Any]
    ) -> Iterator[list[Logger]]:
        """Loggers of a run that is finished when the block ends; none when disabled, nor in a process of rank above 0.

        The run's id comes from the fingerprint: a resumed job goes on in the run that it began.
        """
        if self.mode == "disabled" or not first_process():
            yield []
            return
        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True)
        run = wandb.init(
            project=self.project, entity=self.entity, group=group, job_type=job.partition("-")[0], name=job,
            id=run_id(group, job, fingerprint), dir=folder.absolute(), mode=self.mode,  # type: ignore[arg-type]
            config=dict(config), resume="allow", reinit="finish_previous", settings=settings,
        )  # fmt: skip
        with run:
            run.define_metric("trainer/global_step")
            run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
            yield [WandbLogger(experiment=run, save_dir=folder)]


def run_id(group: str, job: str, fingerprint: str) -> str:
    """A job's id at W&B: a head to read, and a digest that tells apart what the head does not.

    At most 62 characters, W&B takes 64; all of them may stand in the name of a file.
    """
    head = "-".join(re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:20] for name in (group, job))
    whole = json.dumps([group, job, fingerprint]).encode()
    return f"{head}-{hashlib.sha256(whole).hexdigest()[:20]}"


def _has_key() -> bool:
    """Whether W&B's client would find a key without asking: in the environment, or in the netrc of `wandb login`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_panels(loggers: Sequence[Logger], key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A W&B table; tensors (C, H, W) become pictures."""
    if not rows:
        return
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            table = wandb.Table(columns=list(rows[0]))
            for row in rows:
                table.add_data(*[_picture(cell) if isinstance(cell, Tensor) else cell for cell in row.values()])
            logger.experiment.log({key: table})


def log_figures(loggers: Sequence[Logger], paths: Sequence[Path]) -> None:
    """Figures as W&B images, by their file names."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in paths})


def _picture(picture: Tensor) -> wandb.Image:
    pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return wandb.Image(pixels.repeat(8, axis=0).repeat(8, axis=1))
