"""How far a training has come."""

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer


def time_spent(trainer: Trainer) -> float:
    """Seconds of training so far, those before a resumption included; 0 without a `Timer`."""
    timer = _timer(trainer)
    return 0.0 if timer is None else timer.time_elapsed()


def progress_of(trainer: Trainer) -> float:
    """Share of the training that is over, 0 … 1: of the trainer's `max_steps` or of its timer's time, the larger."""
    share = trainer.global_step / trainer.max_steps if trainer.max_steps > 0 else 0.0
    timer = _timer(trainer)
    if timer is not None and (left := timer.time_remaining()) is not None:
        spent = timer.time_elapsed()
        share = max(share, spent / max(spent + left, 1e-9))
    return min(share, 1.0)


def _timer(trainer: Trainer) -> Timer | None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Timer)), None)
