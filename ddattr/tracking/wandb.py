"""W&B: a view of the artifacts, never the truth. Only this module, `lineage`, `sync` and `dashboard` import it."""

import hashlib
import json
import netrc
import os
import re
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline runs would post telemetry otherwise
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("WANDB_INIT_TIMEOUT", "15")  # seconds that a server has to let a run begin,
os.environ.setdefault("WANDB_FINISH_TIMEOUT", "15")  # to take the rest of it at its end,
os.environ.setdefault("WANDB_HTTP_TIMEOUT", "15")  # and to let a table in

import numpy as np
from lightning.pytorch.loggers import Logger, WandbLogger
from torch import Tensor

from ddattr.artifacts import first_process

MODES = ("offline", "online", "disabled")


def client() -> Any:
    """W&B's client, imported by what tracks and by nothing else: an untracked run does not wait for it."""
    import wandb

    return wandb


class RunLogger(WandbLogger):
    """Lightning's logger of a W&B run. It raises nothing: what W&B's client refuses is missing there, and only there.

    `trouble` is the first error, in words.
    """

    trouble: str | None = None
    _next = 0

    @contextmanager
    def sparing(self) -> Iterator[None]:
        """Takes note of an error of the block, and goes on behind it."""
        try:
            yield
        except Exception as error:  # of a server that is away, or of a client whose own process has died
            self.trouble = self.trouble or _words(error)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self.sparing():
            super().log_metrics(metrics, step)

    def log_curve(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        """Logs those rows of a curve, by their steps, that were not logged yet.

        A step is W&B's own of the row: it keeps one row a step, so that a resumed run can log its whole curve again, of
        which W&B's client leaves out what W&B has.
        """
        for step, row in sorted(rows.items()):
            if step >= self._next:
                self._next = step + 1
                with self.sparing():
                    self.experiment.log({**row, "trainer/global_step": step}, step=step, commit=True)

    def worth_resuming(self) -> None:
        """Lets a W&B sweep give the job to an agent again, as the same run, if it ends before it is done."""
        if self.experiment.sweep_id:
            with self.sparing():
                self.experiment.mark_preempting()

    def finish(self, status: int) -> None:
        """Ends the run, in bounded time; when W&B has not taken all of it, a line says how to send it later."""
        run = self.experiment
        limit = 2 * run.settings.finish_timeout + 5
        with self.sparing(), redirect_stderr(StringIO()), _given_up_after(limit):  # of its tracebacks one line is said
            run.finish(status)
        self.trouble = self.trouble or _given_up(Path(run.settings.log_internal))
        if self.trouble:
            with suppress(Exception):
                client().teardown()  # else a client's process that has died would be asked again at exit
            _say(f"W&B did not take all of {run.name} ({self.trouble})", run)


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
        if mode == "online":
            require_key("mode=online")
        self.mode = mode
        self.project = project
        self.entity = entity

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
        settings = client().Settings(console="off", x_disable_stats=True, disable_git=True, finish_timeout_raises=True)
        begin = partial(
            client().init,
            project=self.project,
            entity=self.entity,
            group=group,
            job_type=job.partition("-")[0],
            name=job,
            id=run_id(group, job, fingerprint),
            dir=folder.absolute(),
            config=dict(config),
            resume="allow",
            reinit="finish_previous",
            settings=settings,
        )
        logger = RunLogger(experiment=self._begin(begin), save_dir=folder)
        status = 1
        try:
            with _staged(logger.experiment):
                with logger.sparing():
                    logger.experiment.define_metric("trainer/global_step")
                    logger.experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
                yield [logger]
            status = 0
        finally:
            logger.finish(status)

    def _begin(self, begin: Callable[..., Any]) -> Any:
        """A run; an offline one, and a line, when the server does not let it begin: no training waits for a server."""
        try:
            return begin(mode=self.mode)
        except Exception as error:
            client().teardown()  # its process still holds the run's id
            run = begin(mode="offline")  # raises again what is no fault of the server's
            _say(f"W&B did not let {run.name} begin, so it is logged offline ({_words(error)})", run)
            return run


@contextmanager
def _staged(run: Any) -> Iterator[None]:
    """Files of tables wait in the run's own folder, and not in the user's, until they are sent."""
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = str(run.settings.sync_dir)
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]
        else:
            os.environ["WANDB_DATA_DIR"] = before


def run_id(group: str, job: str, fingerprint: str) -> str:
    """A job's id at W&B: a head to read, and a digest that tells apart what the head does not.

    At most 62 characters, W&B takes 64; all of them may stand in the name of a file.
    """
    head = "-".join(re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:20] for name in (group, job))
    whole = json.dumps([group, job, fingerprint]).encode()
    return f"{head}-{hashlib.sha256(whole).hexdigest()[:20]}"


@contextmanager
def _given_up_after(seconds: float) -> Iterator[None]:
    """Ends W&B's own process if the block takes longer, which ends the block with an error.

    Its own limit does not count while an artifact is being sent: a server that falls silent then is waited for without
    end. Its log may lack the last that it was given, which the run's folder has.
    """

    def end() -> None:
        with suppress(Exception):  # of another version of the client: then it is waited for
            client().setup()._connection._proc._process.terminate()  # type: ignore[union-attr]

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _given_up(log: Path) -> str | None:
    """What W&B's own process says of an upload that it gave up; None when it gave up none."""
    with suppress(OSError):
        for line in log.read_text().splitlines():
            if "fatal error: " in line:
                return _words(line.partition("fatal error: ")[2].rstrip("}").rstrip('"'))
    return None


def _say(what: str, run: Any) -> None:
    online = [] if run.settings.mode == "offline" else ["--include-online"]
    sync = shlex.join(["wandb", "sync", *online, run.settings.sync_dir])
    print(f"tracking: {what}. Send it later: {sync}", file=sys.stderr, flush=True)


def _words(said: object) -> str:
    """An error on one line."""
    return " ".join(str(said).split()).rstrip(".")


def require_key(what: str) -> None:
    """Raises ValueError where W&B's client would find no key."""
    if not _has_key():
        raise ValueError(f"tracking: {what} needs a key. Run `wandb login`, or set WANDB_API_KEY.")


def _has_key() -> bool:
    """Whether W&B's client would find a key without asking: in the environment, or in the netrc of `wandb login`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or client().Settings().base_url).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def log_panels(loggers: Sequence[Logger], key: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A W&B table; tensors (C, H, W) become pictures."""
    if not rows:
        return
    for logger in loggers:
        if isinstance(logger, RunLogger):
            table = client().Table(columns=list(rows[0]))
            for row in rows:
                table.add_data(*[_picture(cell) if isinstance(cell, Tensor) else cell for cell in row.values()])
            with logger.sparing():
                logger.experiment.log({key: table})


def log_figures(loggers: Sequence[Logger], paths: Sequence[Path]) -> None:
    """Figures as W&B images, by their file names."""
    for logger in loggers:
        if isinstance(logger, RunLogger):
            with logger.sparing():
                logger.experiment.log({f"figures/{path.stem}": client().Image(str(path)) for path in paths})


def _picture(picture: Tensor) -> Any:
    pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    return client().Image(pixels.repeat(8, axis=0).repeat(8, axis=1))
