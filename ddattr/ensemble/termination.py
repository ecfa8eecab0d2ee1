"""SIGTERM, of `kill` or of a cluster, ends a Trainer at once."""

import signal
import threading

import lightning as L


class Termination(L.Callback):
    """SIGTERM does what it did before Lightning took it over, for this process and those that it launched.

    Lightning's own handler takes note and goes on, to the end where it predicts; under DDP it first waits for the other
    processes, which may be waiting for this one. Nothing needs an orderly end here: what was computed is on disk.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._take_back()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._take_back()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if (launcher := trainer.strategy.launcher) is not None:
            launcher.kill(signal.SIGTERM)

    def _take_back(self) -> None:
        if threading.current_thread() is threading.main_thread():  # no other may
            signal.signal(signal.SIGTERM, self.handler)
