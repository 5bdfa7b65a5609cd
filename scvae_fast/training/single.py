"""A Lightning trainer for one device that itself writes nothing to the terminal or disk."""

from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from scvae_fast.models.speed import SpeedSettings
from scvae_fast.training.callbacks import AtomicCheckpointIO


def single_trainer(
    callbacks: Sequence[Callback], *, clip: float, precision: str | None = None, max_steps: int = -1
) -> Trainer:
    """A trainer without validation, and with logs and checkpoints only from its callbacks; on a GPU if there is one.

    Args:
        callbacks: in this order.
        clip: norm that gradients are clipped to.
        precision: Lightning's; None chooses the fastest on the device.
        max_steps: number of steps; −1 leaves the end to a callback.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        precision=precision or SpeedSettings.of(device).lightning_precision,  # type: ignore[arg-type]
        max_steps=max_steps,
        max_epochs=-1,
        limit_val_batches=0,
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
        gradient_clip_val=clip,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
