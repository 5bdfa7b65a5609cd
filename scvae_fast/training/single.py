"""A Lightning trainer for one device, with nothing of its own on the terminal or the disk."""

from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from scvae_fast.models.speed import SpeedSettings
from scvae_fast.training.callbacks import AtomicCheckpointIO


def single_trainer(
    callbacks: Sequence[Callback], *, clip: float, precision: str | None = None, max_steps: int = -1
) -> Trainer:
    """A trainer without validation, logs or checkpoints but those of its callbacks, on a GPU where there is one.

    Args:
        callbacks: in their order.
        clip: norm that gradients are clipped to.
        precision: Lightning's; None is what is fastest on the device.
        max_steps: where the training ends; −1 leaves that to a callback.
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
