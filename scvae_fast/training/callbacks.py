"""Callbacks: a record of the losses, checkpoints, and a clean stop."""

import math
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.tensor import DTensor

from scvae_fast._files import write_atomically
from scvae_fast.errors import UsageError
from scvae_fast.training.progress import batches_seen, progress_of, time_spent


class TrainingDivergedError(UsageError):
    """The loss or the weights are not finite; no checkpoint contains them."""


# Prefix for the name of the checkpoint that the newest one has replaced.
BEFORE = "before-"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin, with atomic writes; it keeps the replaced checkpoint as `before-NAME`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint atomically.

        Raises:
            UsageError: it can't be written, for example because the disk is full; the last one is untouched.
        """
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO: storage_options must be None")
        try:
            before = f"{BEFORE}{Path(path).name}"
            write_atomically(path, lambda temporary: torch.save(checkpoint, temporary), before=before)
        # torch's writer raises a RuntimeError if the disk is full.
        except (OSError, RuntimeError) as error:
            raise UsageError(f"the checkpoint {path} can't be written; the previous one is kept: {error}") from error


class History(Callback):
    """Keeps the mean of all logged figures over each `every` steps; part of the checkpoint.

    `rows` holds dictionaries with `step` (the last one averaged), `seconds` (of training so far) and the logged
    figures.
    """

    def __init__(self, every: int = 20) -> None:
        self.every = every
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._count = 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Add the figures of the step; sums stay on the device, so nothing waits for it."""
        self._count += 1
        for name, value in trainer.callback_metrics.items():
            if not name.startswith("val/"):
                self._sums[name] = self._sums.get(name, 0.0) + value.double()
                self._counts[name] = self._counts.get(name, 0) + 1
        if self._count == self.every:
            means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
            self.rows.append({"step": trainer.global_step, "seconds": time_spent(trainer), **means})
            self._sums, self._counts, self._count = {}, {}, 0

    def state_dict(self) -> dict[str, Any]:
        """State for the checkpoint."""
        sums = {name: float(total) for name, total in self._sums.items()}
        return {"rows": self.rows, "sums": sums, "counts": dict(self._counts), "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.rows, self._counts, self._count = state_dict["rows"], state_dict["counts"], state_dict["count"]
        self._sums = {name: torch.tensor(total, dtype=torch.float64) for name, total in state_dict["sums"].items()}


class KeepCheckpoint(Callback):
    """Writes the whole training state to one file: at intervals, at the end of epochs, and when training stops.

    It must be the last callback, so that the other callbacks have completed the step.

    Args:
        path: the file; with `AtomicCheckpointIO` it replaces the last one atomically.
        every: seconds between two checkpoints.
    """

    def __init__(self, path: Path, every: float = 60.0) -> None:
        self.path, self.every = path, every
        self._last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Save, if it is time and no gradients are accumulated, which a checkpoint doesn't contain."""
        if _accumulates(trainer):
            return
        over = trainer.should_stop or trainer.is_last_batch or trainer.global_step == trainer.max_steps
        if any_process(trainer, over or time.monotonic() - self._last >= self.every):
            trainer.save_checkpoint(self.path)
            self._last = time.monotonic()


class LossGuard(Callback):
    """Ends training when the loss or the weights are not finite, before they are saved.

    A loss is checked one step later, when the device has computed it anyway, or before a checkpoint is saved. Weights
    and moments, which a single gradient can spoil after a finite loss, are checked before they are saved.
    """

    def __init__(self) -> None:
        self._pending: tuple[int, Tensor] | None = None

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Check the loss of the previous step."""
        self._look()
        self._pending = (batches_seen(trainer), trainer.callback_metrics["loss/total"])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the loss of the last step, and everything in the checkpoint."""
        self._look()
        kept = [checkpoint.get(name) for name in _TENSORS_OF_CHECKPOINTS]
        if any_process(trainer, not _finite(kept)):
            raise TrainingDivergedError(
                f"the weights are not finite after step {trainer.global_step}, though the loss was; training is stopped"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the loss of the last step."""
        self._look()

    def _look(self) -> None:
        if self._pending is None:
            return
        (batch, loss), self._pending = self._pending, None
        if not math.isfinite(float(loss)):
            raise TrainingDivergedError(f"the loss of batch {batch} is {float(loss)}; training is stopped")


# The parts of a checkpoint that must be finite. Callbacks may have an infinite best score.
_TENSORS_OF_CHECKPOINTS = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")


def _finite(tree: Any) -> bool:
    """Whether all floating-point tensors in dictionaries and lists are finite."""
    if isinstance(tree, DTensor):
        tree = tree.to_local()
    if isinstance(tree, Tensor):
        return not tree.is_floating_point() or bool(tree.isfinite().all())
    if isinstance(tree, dict):
        return all(map(_finite, tree.values()))
    return not isinstance(tree, (list, tuple)) or all(map(_finite, tree))


class StopOnSignal(Callback):
    """On Ctrl-C or SIGTERM, ends training after the current step; a second signal ends it at once.

    No validation follows.

    `number` is the signal, or None; SIGTERM if only another process received one. `stopped` says whether it ended
    training early.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.stopped = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install handlers for both signals; only the main thread can do that."""
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self.number is not None:
                raise KeyboardInterrupt
            self.number = number
            print("\nstopping after this step …", file=sys.stderr)

        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, stop)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """End training in all processes if one of them got a signal."""
        if not _accumulates(trainer) and any_process(trainer, self.number is not None):
            self.number = self.number or signal.SIGTERM
            self.stopped = progress_of(trainer) < 1
            trainer.should_stop = True
            trainer.limit_val_batches = 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the signal handlers."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


def _accumulates(trainer: Trainer) -> bool:
    """Whether gradients of this batch wait for those of further batches."""
    return bool(trainer.fit_loop._should_accumulate())


def any_process(trainer: Trainer, decision: bool) -> bool:
    """Whether `decision` is true in any process; every process must call this."""
    if trainer.world_size == 1:
        return decision
    return bool(trainer.strategy.reduce_boolean_decision(decision, all=False))
