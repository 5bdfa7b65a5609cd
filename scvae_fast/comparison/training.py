"""The training runs of a comparison, one after the other, each resumable."""

from typing import Any

import torch
from torch import nn

from scvae_fast._extras import extra
from scvae_fast._files import write_json
from scvae_fast.comparison.bottlenecks import QuantiserBottleneck
from scvae_fast.comparison.folder import MethodFolder
from scvae_fast.comparison.module import make_module
from scvae_fast.comparison.rating import Model
from scvae_fast.comparison.settings import ComparisonSettings
from scvae_fast.errors import UsageError
from scvae_fast.evaluation.record import versions
from scvae_fast.models.loading import read_training_state
from scvae_fast.training.bar import TrainingBar
from scvae_fast.training.base import AutoencoderModule
from scvae_fast.training.callbacks import History, KeepCheckpoint, LossGuard, StopOnSignal
from scvae_fast.training.data import PictureData
from scvae_fast.training.lightning_messages import lightning_messages_silenced
from scvae_fast.training.progress import time_spent
from scvae_fast.training.single import single_trainer

with extra("scvae_fast.comparison", "lightning"):
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import Callback, Timer


def train_method(
    method: str, settings: ComparisonSettings, data: PictureData, folder: MethodFolder, *others: Callback
) -> int | None:
    """Train a method, resuming from the state in its folder if there is one, and write the record once it is trained.

    Args:
        method: a name in `METHODS`.
        settings: of the comparison.
        data: new for each call, because it counts its samples.
        folder: of the method.
        others: additional callbacks.

    Returns:
        None, or the number of a signal to stop; the folder then holds the training's state, or its result.

    Raises:
        UsageError: the loss is not finite, or the state can't be written.
    """
    module = make_module(method, settings)
    history, stop = History(), StopOnSignal()
    keep = KeepCheckpoint(folder.state, every=60 * settings.checkpoint_minutes)
    with lightning_messages_silenced():
        trainer = single_trainer(
            [Timer(verbose=False), LossGuard(), history, stop, TrainingBar(), *others, keep],
            clip=settings.clip,
            precision=settings.precision,
            max_steps=settings.steps,
        )
        trainer.fit(module, datamodule=data, ckpt_path=folder.state if folder.state.exists() else None)
    if stop.stopped:
        return stop.number
    if trainer.global_step < settings.steps:
        raise UsageError(f"{method}: the data ended after {trainer.global_step} of {settings.steps} steps")
    write_json(folder.trained, _record(method, module, trainer, history))
    return stop.number  # a signal that came too late to stop this training


def _record(method: str, module: AutoencoderModule, trainer: Trainer, history: History) -> dict[str, Any]:
    return {
        "method": method,
        "steps": trainer.global_step,
        "seconds": time_spent(trainer),
        "parameters": count_parameters(module.model),
        "of_bottleneck": count_parameters(module.model.bottleneck),  # type: ignore[arg-type]
        "device": str(trainer.strategy.root_device),
        "precision": str(trainer.precision),
        "threads": torch.get_num_threads(),
        "versions": versions("scvae-fast", "torch", "lightning", "vector-quantize-pytorch"),
        "history": history.rows,
    }


def trained_module(method: str, settings: ComparisonSettings, folder: MethodFolder) -> AutoencoderModule:
    """The module of a finished training run, on the CPU.

    Raises:
        UsageError: its state can't be read.
    """
    module = make_module(method, settings)
    try:
        module.load_state_dict(read_training_state(folder.state)["state_dict"])
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{folder.state} can't be read as the state of {method}: {error}") from error
    return module


def model_of(module: AutoencoderModule) -> Model:
    """The model that a module trains."""
    model: Model = module.model  # type: ignore[assignment]
    return model


def count_parameters(module: nn.Module) -> int:
    """Number of values that training sets: parameters and codebooks, which are running means, not parameters."""
    count = sum(parameter.numel() for parameter in module.parameters())
    for part in module.modules():
        if isinstance(part, QuantiserBottleneck):
            count += part.codebook.numel()
    return count
