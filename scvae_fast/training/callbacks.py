"""What goes on around the steps: a record of the losses, checkpoints, and a clean stop."""

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
from scvae_fast.training.progress import batches_seen, time_spent


class TrainingDivergedError(UsageError):
    """The loss or the weights are not finite; no checkpoint holds what came of it."""


# Before the name of the checkpoint that the newest one has replaced.
BEFORE = "before-"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin that writes a checkpoint whole, and keeps the one that it replaces under `before-NAME`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint whole, or not at all.

        Raises:
            UsageError: it can't be written, for example because the disk is full; the last one is untouched.
        """
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO: storage_options must be None")
        try:
            before = f"{BEFORE}{Path(path).name}"
            write_atomically(path, lambda temporary: torch.save(checkpoint, temporary), before=before)
        # torch's writer reports a full disk as a RuntimeError.
        except (OSError, RuntimeError) as error:
            raise UsageError(f"the checkpoint {path} can't be written; the previous one is kept: {error}") from error


class History(Callback):
    """Keeps the mean of everything logged over each `every` steps; a part of the checkpoint.

    `rows` holds dictionaries of `step` (the last one of the mean), `seconds` (of training so far) and what was logged.
    """

    def __init__(self, every: int = 20) -> None:
        self.every = every
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._count = 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Take in what the step has logged; sums stay on the device, which need not be waited for."""
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
        """For the checkpoint."""
        sums = {name: float(total) for name, total in self._sums.items()}
        return {"rows": self.rows, "sums": sums, "counts": dict(self._counts), "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.rows, self._counts, self._count = state_dict["rows"], state_dict["counts"], state_dict["count"]
        self._sums = {name: torch.tensor(total, dtype=torch.float64) for name, total in state_dict["sums"].items()}


class KeepCheckpoint(Callback):
    """Writes the whole state of the training to one file: now and then, at the end of epochs, and when it stops.

    It must be the last of the callbacks, so that the state of the others is that after the step.

    Args:
        path: the file; it appears whole, in the place of the last one, if the trainer has `AtomicCheckpointIO`.
        every: seconds between two checkpoints.
    """

    def __init__(self, path: Path, every: float = 60.0) -> None:
        self.path, self.every = path, every
        self._last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Save, if it is time for that."""
        over = trainer.should_stop or trainer.is_last_batch or trainer.global_step == trainer.max_steps
        if any_process(trainer, over or time.monotonic() - self._last >= self.every):
            trainer.save_checkpoint(self.path)
            self._last = time.monotonic()


class LossGuard(Callback):
    """Ends the training when the loss or the weights are not finite, before a checkpoint is made of that.

    A loss is looked at one step later, when the device has computed it anyway, or when a checkpoint is to be saved.
    Weights and moments, which one gradient can spoil after a finite loss, are looked at before they are saved.
    """

    def __init__(self) -> None:
        self._pending: tuple[int, Tensor] | None = None

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Look at the loss of the step before."""
        self._look()
        self._pending = (batches_seen(trainer), trainer.callback_metrics["loss/total"])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look at the loss of the last step, and at all that the checkpoint would keep."""
        self._look()
        kept = [checkpoint.get(name) for name in _TENSORS_OF_CHECKPOINTS]
        if any_process(trainer, not _finite(kept)):
            raise TrainingDivergedError(
                f"the weights are not finite after step {trainer.global_step}, though the loss was; the training is "
                "stopped"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the loss of the last step."""
        self._look()

    def _look(self) -> None:
        if self._pending is None:
            return
        (batch, loss), self._pending = self._pending, None
        if not math.isfinite(float(loss)):
            raise TrainingDivergedError(f"the loss of batch {batch} is {float(loss)}; the training is stopped")


# Of a checkpoint: what is lost if it isn't finite. Callbacks may keep an infinite best score.
_TENSORS_OF_CHECKPOINTS = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")


def _finite(tree: Any) -> bool:
    """Whether all floating-point tensors are, in dictionaries and lists."""
    if isinstance(tree, DTensor):
        tree = tree.to_local()
    if isinstance(tree, Tensor):
        return not tree.is_floating_point() or bool(tree.isfinite().all())
    if isinstance(tree, dict):
        return all(map(_finite, tree.values()))
    return not isinstance(tree, (list, tuple)) or all(map(_finite, tree))


class StopOnSignal(Callback):
    """Ctrl-C or SIGTERM end the training after the step that is under way; a second one ends it at once.

    There is no validation then.

    `number` is the signal that did so, None as long as none has; where there are several processes, that of any.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def stopped(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over both signals; only the main thread may do that."""
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self.stopped:
                raise KeyboardInterrupt
            self.number = number
            print("\nstopping after this step …", file=sys.stderr)

        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, stop)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """End the training in all processes, if one has got a signal."""
        if any_process(trainer, self.stopped):
            self.number = self.number or signal.SIGTERM
            trainer.should_stop = True
            trainer.limit_val_batches = 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


def any_process(trainer: Trainer, decision: bool) -> bool:
    """Whether any of the processes has decided so; all of them have to ask."""
    if trainer.world_size == 1:
        return decision
    return bool(trainer.strategy.reduce_boolean_decision(decision, all=False))
