"""Training: of a member and of the base that it may be a fork of, and of the models of the ground truth."""

import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import Tensor

from ddattr.artifacts import Artifact, first_process
from ddattr.ensemble.member import AtomicCheckpointIO, MemberModule, address, resumed
from ddattr.files import load_json, save_json, save_tensors
from ddattr.stages import lineage
from ddattr.stages.run import Run
from ddattr.tracking.history import History
from ddattr.tracking.wandb import RunLogger
from ddattr.validation.training import Training


def train_member(run: Run, member: int) -> bool:
    """Trains a member, unless it is done; of a fork its base first, by whichever process comes first."""
    artifact = run.member_artifact(member)
    if run.fork is not None and not artifact.done():
        train_base(run)
    read = [run.codebook_artifact] if run.fork is None else [run.codebook_artifact, run.base_artifact]
    return _make(run, artifact, f"train-{member:03d}", f"member {member}", lambda: build(run, member), read)


def train_base(run: Run) -> bool:
    """Trains what members are forks of, unless it is done."""
    everyone = torch.ones(run.codebook.units, dtype=torch.bool)
    return _make(run, run.base_artifact, "train-base", "base", lambda: module(run, everyone, None, run.seed), [])


def _make(
    run: Run, artifact: Artifact, job: str, title: str, build: Callable[[], MemberModule], read: Sequence[Artifact]
) -> bool:
    """Trains what `build` gives, tracked, unless it is done; waits for another process that is at it.

    Args:
        read: artifacts that it is made of, beside the data.
    """

    def work() -> None:
        run.warn()
        with run.tracking.run(run.root, run.name, job, artifact.fingerprint, run.resolved()) as loggers:
            module = build()
            run.save_config()
            train(run, module, artifact, title, loggers)
            lineage.log(run, loggers, run.codebook_artifact, [], data=True)
            lineage.log(run, loggers, artifact, read, data=True)

    made = run.make(artifact, work)
    (artifact.folder / "last.ckpt").unlink(missing_ok=True)
    return made


def retrain(run: Run, models: list[Training], wait: bool = True) -> int:
    """Trains models; returns how many this process trained.

    Args:
        wait: at last for the models that other processes hold; else they are left to these.
    """
    trained = 0
    held = []
    for place, model in enumerate(models):
        title = f"retrain {place + 1} of {len(models)}, {model.name}"
        try:
            trained += _make_retrained(run, model, title, wait=False)
        except BlockingIOError:
            held.append((model, title))
    for model, title in held:  # some may be free: who held one was killed
        try:
            trained += _make_retrained(run, model, title, wait)
        except BlockingIOError:
            if wait:
                raise
    return trained


def _make_retrained(run: Run, model: Training, title: str, wait: bool) -> bool:
    artifact = run.retrained_artifact(model)
    seed = run.seed + model.replicate

    def work() -> None:
        built = module(run, model.units, model.member, seed)
        run.save_config()
        train(run, built, artifact, title)

    made = run.make(artifact, work, seed, wait)
    (artifact.folder / "last.ckpt").unlink(missing_ok=True)
    return made


def build(run: Run, member: int) -> MemberModule:
    """The module of a member, with the pictures of its column; a fork starts from the base, which must be there."""
    base = None if run.fork is None else run.load(run.base_artifact).state_dict()
    return module(run, run.codebook.subset(member), member, run.seed, base)


def module(
    run: Run, units: Tensor, member: int | None, seed: int, base: Mapping[str, Tensor] | None = None
) -> MemberModule:
    """A network that may see the pictures of some units, with a member's draws; `member` None has the common ones.

    It is trained whole, or, from the weights `base`, as `training.fork` says.
    """
    network = run.network(address(run.config.training.draws, member), seed)
    return run.build(
        "training",
        network=network,
        process=run.process,
        owned=units[run.data.unit_of],
        shape=run.shape,
        member=member,
        seed=seed,
        base=base,
        conditions=run.conditions,
    )


def train(run: Run, module: MemberModule, artifact: Artifact, title: str, loggers: Sequence[RunLogger] = ()) -> None:
    """Trains a module, from its checkpoint on if there is one, and writes member.safetensors.

    Args:
        loggers: what metrics.csv is shown to as well, from its first row on.
    """
    folder = artifact.folder
    fingerprint = artifact.fingerprint
    checkpoint = folder / "last.ckpt"
    history = History(folder / "metrics.csv")
    begun = load_json(folder / "status.json") or {}
    resume = checkpoint.exists() and begun.get("fingerprint") == fingerprint
    progress = Progress(folder, title, fingerprint, history, loggers)
    if resume and resumed(checkpoint, module):  # all but the writing of it was done
        progress.show(module.steps)
        _finish(folder, module)
        return
    _status(folder, "running", begun.get("step", 0) if resume else 0, fingerprint=fingerprint)
    run.seen.epoch_steps = module.epoch_steps
    callbacks: list[L.Callback] = [
        ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False),
        progress,
        *_quality(run),
    ]
    bar = sys.stderr.isatty() and sys.stdout.isatty()
    if bar:
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    try:
        trainer = run.trainer(
            [history],
            callbacks=callbacks,
            max_steps=module.steps,
            max_epochs=-1,
            enable_progress_bar=bar,
            num_sanity_val_steps=0,
            plugins=[AtomicCheckpointIO()],
            use_distributed_sampler=False,  # every device takes part in every step
        )
        if module.draws.batch % trainer.world_size:
            raise ValueError(
                f"trainer: {trainer.world_size} devices for training.batch={module.draws.batch}, expected a divisor of "
                "it: each takes an equal part. Set trainer.devices or training.batch."
            )
        trainer.fit(module, datamodule=run.seen, ckpt_path=checkpoint if resume else None)
        if trainer.global_step < module.steps:
            raise KeyboardInterrupt
    except BaseException as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"
        last = traceback.format_exception_only(error)[-1].strip()
        with suppress(OSError):  # of a disk that is full: that is what was raised
            _status(folder, reason, module.global_step, error=last, fingerprint=fingerprint)
        raise
    _finish(folder, module)


def _finish(folder: Path, module: MemberModule) -> None:
    if not first_process():
        return
    adapted = getattr(module.network, "base", None)
    about = None if adapted is None else adapted.about
    save_tensors(folder / "member.safetensors", module.network.state_dict(), about)
    _status(folder, "done", module.steps)


def _quality(run: Run) -> list[L.Callback]:
    """FID of the member while it trains, when that is asked for: it trains the extractor first."""
    if not run.config.quality.while_training:
        return []
    return [run.quality()]


def _status(folder: Path, state: str, step: int, **more: str | int | float) -> None:
    if first_process():
        save_json(folder / "status.json", {"state": state, "step": step, **more})


class Progress(L.Callback):
    """status.json and metrics.csv every epoch, and, where no bar is shown, a line: step, loss, time to go.

    Checkpoints come after it: what is resumed from one has the curve up to it. Loggers are shown what metrics.csv has.
    """

    def __init__(self, folder: Path, title: str, fingerprint: str, history: History, loggers: Sequence[RunLogger] = ()):
        self.folder = folder
        self.title = title
        self.fingerprint = fingerprint
        self.history = history
        self.loggers = loggers
        self.kept = False

    def show(self, step: int) -> None:
        """Shows loggers the curve before a step."""
        whole = {at: row for at, row in self.history.rows.items() if at < step}
        for logger in self.loggers:
            logger.log_curve(whole)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.history.resume(trainer.global_step)
        self.show(trainer.global_step)
        self.started = time.monotonic()
        self.first = trainer.global_step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step = trainer.global_step
        steps = trainer.max_steps
        if (found := trainer.callback_metrics.get("train/loss")) is None or not trainer.is_global_zero:
            return  # resumed where an epoch had ended
        if self.kept:
            for logger in self.loggers:
                logger.worth_resuming()
        self.kept = True  # soon: the checkpoint
        loss = float(found)
        self.history.log_metrics({"train/loss": loss}, step - 1)  # Lightning's line follows its checkpoint
        self.history.save()
        self.show(step)
        left = (time.monotonic() - self.started) / max(1, step - self.first) * (steps - step)
        _status(
            self.folder, "running", step, fingerprint=self.fingerprint, steps=steps, until=round(time.time() + left, 1)
        )
        if trainer.progress_bar_callback is None:
            print(f"{self.title}: step {step} of {steps}, loss {loss:.4f}, {left:.0f} s to go", flush=True)
