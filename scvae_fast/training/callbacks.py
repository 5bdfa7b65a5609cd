"""What goes on around the steps: a record of the losses, checkpoints, a clean stop, and a progress bar."""

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm  # type: ignore[import-untyped]

from scvae_fast._files import write_atomically
from scvae_fast.training.progress import progress_of, time_spent


class History(Callback):
    """Keeps the mean of everything logged over each `every` steps; a part of the checkpoint.

    `rows` holds dictionaries of `step` (the last one of the mean), `seconds` (of training so far) and what was logged.
    """

    def __init__(self, every: int = 20) -> None:
        self.every = every
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._count = 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Take in what the step has logged."""
        self._count += 1
        for name, value in trainer.callback_metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        if self._count == self.every:
            means = {name: total / self._count for name, total in self._sums.items()}
            self.rows.append({"step": trainer.global_step, "seconds": time_spent(trainer), **means})
            self._sums, self._count = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"rows": self.rows, "sums": self._sums, "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.rows, self._sums, self._count = state_dict["rows"], state_dict["sums"], state_dict["count"]


class KeepCheckpoint(Callback):
    """Writes the whole state of the training to one file, now and then and when training ends in any way.

    Args:
        path: the file; it appears whole, in the place of the last one.
        every: seconds between two checkpoints.
    """

    def __init__(self, path: Path, every: float = 60.0) -> None:
        self.path, self.every = path, every
        self._last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._last = time_spent(trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Save, if it is time for that."""
        if time_spent(trainer) - self._last >= self.every:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end, or where the training was stopped."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        write_atomically(self.path, trainer.save_checkpoint)
        self._last = time_spent(trainer)


class StopOnSignal(Callback):
    """Ctrl-C or SIGTERM end the training after the step that is under way; a second one ends it at once.

    `stopped` tells whether that has happened.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over both signals; only the main thread may do that."""
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self.stopped:
                raise KeyboardInterrupt
            self.stopped = trainer.should_stop = True
            print("\nstopping after this step …", file=sys.stderr)

        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, stop)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


class TimeBar(Callback):
    """A progress bar over the time that the training may take, with the newest figures of the training."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar."""
        # A log file gets a line every half minute, a terminal a bar that moves.
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(total=1.0, desc="training", mininterval=interval, bar_format="{bar:20} {desc}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Move it."""
        if self._bar is None:
            return
        progress = progress_of(trainer)
        spent, figures = time_spent(trainer), trainer.callback_metrics
        left = spent * (1 - progress) / max(progress, 1e-9)
        self._bar.set_description_str(
            f"{progress:4.0%}, {clock(spent)}, {clock(left)} left | step {trainer.global_step}: "
            f"{float(figures['psnr']):.1f} dB, {float(figures['density']):.1%} of the code entries not zero",
            refresh=False,
        )
        self._bar.update(progress - self._bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave it standing."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave it standing."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss."""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
