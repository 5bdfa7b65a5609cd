"""The progress of training."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer


def time_spent(trainer: Trainer) -> float:
    """Seconds of training so far, including those before it was resumed; 0 without a `Timer`."""
    timer = _timer(trainer)
    return 0.0 if timer is None else timer.time_elapsed()


def batches_seen(trainer: Trainer) -> int:
    """Batches that this process has trained on so far, including those before training was resumed."""
    # Lightning counts a batch as processed already before on_train_batch_end, where checkpoints are written.
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(progress.processed)


def progress_of(trainer: Trainer) -> float:
    """Completed share of training, 0 … 1: of its steps, epochs or time, whichever is furthest."""
    shares = [0.0]
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        batches = trainer.num_training_batches  # infinite before the data is set up, and for data without a length
        # Earlier epochs may have had batches of another size, so only those of the current epoch are counted.
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        within = min(progress.processed / batches, 1.0) if batches else 0.0
        shares.append((trainer.current_epoch + within) / trainer.max_epochs)
    timer = _timer(trainer)
    if timer is not None and (left := timer.time_remaining()) is not None:
        spent = timer.time_elapsed()
        shares.append(spent / max(spent + left, 1e-9))
    return min(max(shares), 1.0)


def shared_progress_of(trainer: Trainer) -> float:
    """`progress_of` the first process, whose clock may differ from the others'; every process must call this."""
    timer = _timer(trainer)
    if trainer.world_size == 1 or timer is None or timer.time_remaining() is None:
        return progress_of(trainer)
    return float(trainer.strategy.broadcast(progress_of(trainer)))


def _timer(trainer: Trainer) -> Timer | None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Timer)), None)
