"""One member: a diffusion model trained on the units of its column."""

import io
import pickle
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import torch
from annotated_types import Ge, Gt, Interval
from jaxtyping import Bool
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from ddattr.data.pictures import Images
from ddattr.diffusion.adapters import Lora
from ddattr.diffusion.captions import Conditions
from ddattr.diffusion.noise import Stream, TrainingDraws, seeded_torch
from ddattr.diffusion.process import Process
from ddattr.files import atomic


@dataclass(frozen=True)
class Fork:
    """How a member leaves the base, a model of all units: a short training on its own units only, with a new optimiser.

    Args:
        steps: of the fork, after all those of the base.
        learning_rate: its peak; the schedule is the base's.
        warmup: steps of its linear warm-up.
    """

    steps: Annotated[int, Ge(1)]
    learning_rate: Annotated[float, Ge(0)]
    warmup: Annotated[int, Ge(0)]


class MemberModule(L.LightningModule):
    """Trains one network on the pictures it owns, with every draw addressed by the step.

    Args:
        network: the network, initialised.
        process: its forward process.
        owned: (images,) which pictures it may see.
        shape: (C, H, W).
        member: its number, part of the draws' address when they are `independent`; None for a model that is no member.
        seed: of the draws.
        steps: optimiser steps.
        batch: pictures a step.
        learning_rate: peak, of AdamW, after a linear warm-up over `warmup` steps.
        schedule: of the rate after that: `linear`, down to 1 % of it, or `constant`.
        weight_decay: of AdamW.
        warmup: steps.
        ema: decay of the average of the weights, which is what the member becomes; None trains without one.
        gradient_clip: largest gradient norm; None does not clip.
        draws: `common` (all members share the draws and differ by what they own) or `independent`.
        epoch_steps: steps between two lines of the log and two checkpoints; changes no result.
        fork: the training of one that starts from a `base`, in place of `steps`, `learning_rate` and `warmup`. Its
            draws are those of the steps that follow the base's: it sees no noise that the base saw.
        base: weights to fork from; None trains whole, whatever `fork` is.
        lora: the adapter that the network is, if it is one. What a network shares is no part of its parameters, and is
            not trained.
        conditions: what pictures are shown under; None: networks are given pictures alone.
    Raises:
        ValueError: draws of another name, a member that owns nothing, or a loss that is not finite.
    """

    def __init__(
        self,
        network: nn.Module,
        process: Process,
        owned: Bool[Tensor, "images"],
        shape: tuple[int, ...],
        member: int | None,
        seed: int,
        steps: Annotated[int, Ge(1)],
        batch: Annotated[int, Ge(1)],
        learning_rate: Annotated[float, Ge(0)],
        weight_decay: Annotated[float, Ge(0)] = 0.01,
        warmup: Annotated[int, Ge(0)] = 100,
        schedule: str = "linear",
        ema: Annotated[float, Interval(ge=0, le=1)] | None = 0.995,
        gradient_clip: Annotated[float, Gt(0)] | None = 1.0,
        draws: str = "common",
        epoch_steps: Annotated[int, Ge(1)] = 200,
        fork: Fork | None = None,
        base: Mapping[str, Tensor] | None = None,
        lora: Lora | None = None,
        conditions: Conditions | None = None,
    ):
        super().__init__()
        self.flips = False
        self.first = 0
        self.rate_key = "training.learning_rate"
        if fork is not None and base is not None:
            network.load_state_dict(base)
            self.first = steps
            self.rate_key = "training.fork.learning_rate"
            steps, learning_rate, warmup = fork.steps, fork.learning_rate, fork.warmup
        self.network = network
        self.process = process
        self.steps = steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup = warmup
        if schedule not in ("linear", "constant"):
            raise ValueError(f"training: schedule={schedule}, expected linear or constant. Set training.schedule.")
        self.schedule = schedule
        self.ema = ema
        self.gradient_clip = gradient_clip
        self.epoch_steps = min(epoch_steps, steps)
        self.conditions = conditions
        own = address(draws, member)
        self.draws = TrainingDraws(seed, owned, batch, process.timesteps, shape, own)
        unseen = ~owned if not owned.all() else owned
        self.held_out = TrainingDraws(seed + 1, unseen, batch, process.timesteps, shape, own)

    def on_fit_start(self) -> None:
        """All pictures on the device, or bytes that go there when seen; set after the average has copied it."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.images: Images = data.images.to(self.device)
        self.flips = data.flips
        self.trained = list(self.network.parameters())  # walked once: at every step that takes as long as clipping
        self.drops = any(isinstance(module, nn.Dropout) and module.p for module in self.network.modules())

    def training_step(self, tick: int, index: int) -> Tensor:
        with self._dropout():
            loss = self._loss(self.draws, self.first + self.global_step)
        if not loss.isfinite():
            rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
            raise ValueError(
                f"training: the loss is {loss.item()} at step {self.global_step}, learning rate {rate:.3g}. "
                f"Lower {self.rate_key} or training.gradient_clip."
            )
        self.log(
            "train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=self.draws.batch, sync_dist=True
        )
        return loss

    def on_train_epoch_end(self) -> None:
        if "train/loss" in self.trainer.callback_metrics:  # it is not where a resumed epoch had ended
            self._log_step(self.global_step - 1)

    def _log_step(self, step: int) -> None:
        """Where a curve's points lie: Lightning counts one step too many after a resume."""
        self.log("step", float(step), on_step=False, on_epoch=True, reduce_fx="max", batch_size=1)

    def _dropout(self) -> AbstractContextManager[None]:
        """A network that drops units draws them at an address as well."""
        if not self.drops:
            return nullcontext()
        return seeded_torch(self.draws.seed, Stream.DROPOUT, self.draws.member, self.first + self.global_step)

    def validation_step(self, tick: int, index: int) -> None:
        """Loss of the average on pictures that the member does not own, the same draws every time."""
        loss = self._loss(self.held_out, 0)
        self.log("val/loss_unseen", loss, prog_bar=True, batch_size=self.draws.batch, sync_dist=True)
        self._log_step(self.global_step - 1)

    @cached_property
    def _unseen(self) -> Tensor:
        """Pictures that it is validated on. Where it lacks few of many, candidates go on for long."""
        return self.held_out.images(0)

    def _loss(self, draws: TrainingDraws, step: int) -> Tensor:
        chosen = self._unseen if draws is self.held_out else draws.images(step)
        images = self.images[chosen]
        if self.flips:
            images = torch.where(draws.flips(step).to(self.device)[:, None, None, None], images.flip(-1), images)
        noise, times = draws.noise(step).to(self.device), draws.times(step).to(self.device)
        condition = []
        if self.conditions is not None:
            shown = self.conditions.shown(chosen, draws.dropped(step, self.conditions.dropout))
            condition.append(shown.to(self.device))
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        own = slice(torch.distributed.get_rank(), None, torch.distributed.get_world_size()) if together else slice(None)
        given = images[own], noise[own], times[own], *(shown[own] for shown in condition)
        return self.process.loss(self.network, *given).mean()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.network.parameters(), self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        # a plain function: the attributes of anything else would go into the checkpoint
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        left = 1 - step / self.steps if self.schedule == "linear" else 1.0
        return max(0.01, min(1.0, (step + 1) / max(1, self.warmup)) * left)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        if self.gradient_clip is not None:  # not by Lightning, which refuses a fused optimiser in bf16
            nn.utils.clip_grad_norm_(self.trained, self.gradient_clip)

    def configure_callbacks(self) -> list[L.Callback]:
        return [] if self.ema is None else [WeightAverage(self.ema)]


class WeightAverage(WeightAveraging):
    """Exponential moving average of the weights whose decay warms up as (1 + s) / (10 + s), at step s.

    All weights at once, and both networks walked once: one by one averaging costs a twelfth of a small network's
    training, and walking them at every step four times as much as averaging them.
    """

    def __init__(self, decay: float):
        super().__init__()
        self.decay = decay

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """The average goes where the module is about to: Lightning, asked before that, would leave it on the CPU, and
        every step would bring all weights there. Its count stays, as it is read at every step."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            self._average_model.n_averaged = torch.zeros((), dtype=torch.long)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        average = self._average_model.module  # type: ignore[union-attr]
        self.averages, self.weights = _held(average), _held(pl_module)
        self.counts, self.latest = _held(average, whole=True), _held(pl_module, whole=True)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self._latest_update_step:
            return
        self._latest_update_step = trainer.global_step
        s = self._average_model.n_averaged  # type: ignore[union-attr]
        current = [weight.to(average.device) for weight, average in zip(self.weights, self.averages, strict=True)]
        if s == 0:
            torch._foreach_copy_(self.averages, current)
        else:
            torch._foreach_lerp_(self.averages, current, 1 - torch.clamp((1 + s) / (10 + s), max=self.decay).item())
        for count, latest in zip(self.counts, self.latest, strict=True):
            count.copy_(latest)
        s += 1


def _held(module: nn.Module, whole: bool = False) -> list[Tensor]:
    """A module's weights and buffers, which change where they lie; or those of whole numbers, which have no average."""
    held = (*module.parameters(), *module.buffers())
    return [weight.detach() for weight in held if weight.is_floating_point() != whole]


_CHECKPOINT = {"global_step", "state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"}


def resumed(path: Path, module: MemberModule) -> bool:
    """Whether a checkpoint is of the training's last step; its average is then the module's weights.

    Lightning would find nothing left to do, and leave the weights of the last step in place of their average.

    Raises:
        ValueError: the file is damaged, or no checkpoint of this network's training.
    """
    checkpoint = AtomicCheckpointIO().load_checkpoint(path)
    own, weights = module.state_dict(), checkpoint["state_dict"]
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in weights.items()}:
        raise ValueError(f"{path} is of another network. Delete that file: the training starts again without it.")
    if checkpoint["global_step"] < module.steps:
        return False
    module.load_state_dict(weights)
    return True


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        whole = io.BytesIO()  # torch does not say why it cannot write
        torch.save(checkpoint, whole)
        with atomic(Path(path)) as part:
            part.write_bytes(whole.getbuffer())

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """What a checkpoint holds; nothing in it is executed.

        Raises:
            ValueError: the file is damaged, or no checkpoint.
        """
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError):
            checkpoint = None
        if not (isinstance(checkpoint, dict) and set(checkpoint) >= _CHECKPOINT):
            raise ValueError(
                f"{path} is damaged, or no checkpoint. Delete that file: the training starts again without it."
            )
        return checkpoint


def address(draws: str, member: int | None) -> int | None:
    """Member number in the address of a draw: None when draws are common to all members.

    Raises:
        ValueError: draws of another name.
    """
    if draws not in ("common", "independent"):
        raise ValueError(f"training: draws={draws}, expected common or independent. Set training.draws.")
    return member if draws == "independent" else None
