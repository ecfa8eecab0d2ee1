"""`ddattr train member=3`: trains one member. Done ones are skipped, broken ones go on from their checkpoint."""

import sys
import time
import traceback
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar

from ddattr.artifacts import load_json, save_json, save_tensors
from ddattr.ensemble.member import AtomicCheckpointIO, MemberModule, address
from ddattr.stages.run import Run
from ddattr.tracking.history import History


def run(run: Run) -> None:
    """Trains the member that `member` names."""
    member, n = run.config.member, run.codebook.members
    if member is None:
        sweep = run.command("train", "-m", f"'member=range(0,{n})'")
        raise ValueError(f"train: member is missing, expected 0 to {n - 1}. Name one, or sweep them all: {sweep}")
    run.codebook.check_member(member)
    artefact = run.member_artefact(member)
    _ = run.tracking  # refuses, if it must, before anything is written
    run.write_codebook()

    def work() -> None:
        weights = fit(run, member, artefact.folder, artefact.fingerprint)
        save_tensors(artefact.folder / "member.safetensors", weights)
        _status(artefact.folder, "done", run.config.training.steps)

    if not artefact.make(run.seed, work):
        print(f"member {member}: already done", flush=True)
    (artefact.folder / "last.ckpt").unlink(missing_ok=True)


def build(run: Run, member: int) -> MemberModule:
    """The module of a member, with the pictures of its column."""
    owned = run.codebook.subset(member)[run.data.unit_of]
    network = run.network(address(run.config.training.draws, member))
    return run.build(
        "training", network=network, process=run.process, owned=owned, shape=run.data.shape, member=member,
        seed=run.seed,
    )  # fmt: skip


def fit(run: Run, member: int, folder: Path, fingerprint: str) -> dict:
    """Weights of a member, trained from its checkpoint on if there is one."""
    module, checkpoint, history = build(run, member), folder / "last.ckpt", History(folder / "metrics.csv")
    begun = load_json(folder / "status.json") or {}
    resume = checkpoint.exists() and begun.get("fingerprint") == fingerprint
    _status(folder, "running", begun.get("step", 0) if resume else 0, fingerprint=fingerprint)
    run.data.epoch_steps = module.epoch_steps
    callbacks: list[L.Callback] = [
        ModelCheckpoint(folder, "last", every_n_train_steps=module.epoch_steps, enable_version_counter=False),
        Progress(folder, member, fingerprint, history),
        *_quality(run),
    ]
    bar = sys.stderr.isatty() and sys.stdout.isatty()
    if bar:
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    try:
        with run.tracking.run(run.root, run.config.name, f"train-{member:03d}", fingerprint, run.resolved()) as loggers:
            trainer = run.trainer(
                [history, *loggers], callbacks=callbacks, max_steps=module.steps, max_epochs=-1,
                enable_progress_bar=bar, num_sanity_val_steps=0, plugins=[AtomicCheckpointIO()],
            )  # fmt: skip
            trainer.fit(module, datamodule=run.data, ckpt_path=checkpoint if resume else None)
            if trainer.global_step < module.steps:
                raise KeyboardInterrupt
    except BaseException as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"
        last = traceback.format_exception_only(error)[-1].strip()
        _status(folder, reason, module.global_step, error=last, fingerprint=fingerprint)
        raise
    return module.network.state_dict()


def _quality(run: Run) -> list[L.Callback]:
    """FID of the member while it trains, when that is asked for: it trains the extractor first."""
    if not run.config.quality.while_training:
        return []
    return [run.quality()]


def _status(folder: Path, state: str, step: int, **more: str) -> None:
    save_json(folder / "status.json", {"state": state, "step": step, **more})


class Progress(L.Callback):
    """status.json every epoch, and, where no bar is shown, a line: step, loss, time to go."""

    def __init__(self, folder: Path, member: int, fingerprint: str, history: History):
        self.folder, self.member, self.fingerprint, self.history = folder, member, fingerprint, history

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.history.resume(trainer.global_step)
        self.started, self.first = time.time(), trainer.global_step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step, steps = trainer.global_step, trainer.max_steps
        _status(self.folder, "running", step, fingerprint=self.fingerprint)
        if trainer.progress_bar_callback is None:
            loss = float(trainer.callback_metrics.get("train/loss", float("nan")))
            left = (time.time() - self.started) / max(1, step - self.first) * (steps - step)
            print(f"member {self.member}: step {step} of {steps}, loss {loss:.4f}, {left:.0f} s to go", flush=True)
