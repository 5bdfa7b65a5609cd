"""Figures and pictures to monitor training: atoms in use, speed, reconstructions, atoms, α, supports."""

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from scvae_fast.metrics.psnr import psnr_of
from scvae_fast.models import SCVAE
from scvae_fast.models.atoms import decode_atoms
from scvae_fast.plotting import figures
from scvae_fast.plotting.figures import Figure
from scvae_fast.training.data import PictureData

# Number of validation pictures to draw.
_DRAWN = 4


class CodeMonitor(Callback):
    """Logs the number of atoms in use and of pictures per second; warns when atoms die.

    An atom has died if it was used before and is not used by any code of a window. A warning is given whenever the
    number of dead atoms reaches a new maximum.

    Args:
        window: number of batches evaluated together.
    """

    def __init__(self, window: int = 100) -> None:
        self.window = window
        self._usage: Tensor | None = None  # (K,), counts of the window so far
        self._used: Tensor | None = None  # (K,) bool, before the window
        self._died = 0
        self._pictures = self._batches = 0
        self._since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin_window()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Tensor, *args: Any
    ) -> None:
        """Add a batch."""
        usage = outputs["usage"]
        self._usage = usage.clone() if self._usage is None else self._usage + usage
        self._batches += 1
        self._pictures += len(batch) * trainer.world_size
        if self._batches == self.window:
            self._end_window(trainer, pl_module)

    def _end_window(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._usage is not None
        usage = self._usage.float()
        if trainer.world_size > 1:
            usage = trainer.strategy.reduce(usage, reduce_op="sum")
        active = (usage > 0).cpu()
        seconds = max(time.monotonic() - self._since, 1e-9)
        pl_module.log_dict(
            {"atoms_in_use": float(active.sum()), "pictures_per_second": self._pictures / seconds},
            rank_zero_only=True,
        )
        self._warn_of_the_dead(active, trainer)
        self._begin_window()

    def _warn_of_the_dead(self, active: Tensor, trainer: Trainer) -> None:
        used = active if self._used is None else self._used
        died = int((used & ~active).sum())
        self._used = used | active
        if died > self._died and trainer.is_global_zero:
            warnings.warn(
                f"{died} of {len(active)} atoms that were in use are in none of the codes of the last "
                f"{self._pictures} pictures (step {trainer.global_step})",
                stacklevel=2,
            )
        self._died = max(died, self._died)

    def _begin_window(self) -> None:
        self._usage, self._pictures, self._batches, self._since = None, 0, 0, time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """State for the checkpoint."""
        return {"used": self._used, "died": self._died}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self._used, self._died = state_dict["used"], state_dict["died"]


class PictureMonitor(Callback):
    """After each validation and at the end, draws what the model makes of the first validation pictures.

    `reconstructions`, `atoms`, `supports` and, if the model's `attention` is not constant, `alpha` are sent to the
    TensorBoard and Weights & Biases loggers in use, and the latest are written to a folder as PNG files.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._batch: Tensor | None = None
        self._step = -1  # step of the last drawing

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Tensor, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first pictures."""
        if batch_idx == 0:
            self._batch = batch[:_DRAWN]

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Tensor, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Draw while the model has the validated weights, which may be averaged ones."""
        if batch_idx == 0 and not trainer.sanity_checking and trainer.is_global_zero and self._batch is not None:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw the final state, unless it was drawn in validation."""
        if not trainer.is_global_zero or self._step == trainer.global_step:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if self._batch is None and isinstance(data, PictureData):
            self._batch = data.first_validated(_DRAWN)
        if self._batch is not None:
            self._batch = self._batch.to(pl_module.device)
            self._draw(trainer, pl_module)

    def _draw(self, trainer: Trainer, pl_module: Any) -> None:
        assert self._batch is not None
        self._step = trainer.global_step
        view = look(pl_module.model, self._batch)
        for name, figure in view.figures.items():
            figures.save(self.folder / f"{name}.png", figure, dpi=100)
        for logger in trainer.loggers:
            _log_view(logger, view, trainer.global_step)


class View(NamedTuple):
    """A model's results for some pictures: drawings, and the numbers for a histogram."""

    figures: Mapping[str, Figure]
    supports: Tensor  # (codes,), nonzero entries of each code
    usage: Tensor  # (K,), codes that use each atom


@torch.no_grad()
def look(model: SCVAE, pictures: Tensor) -> View:
    """Draw a model's results for pictures (B, C, H, W) in −1 … 1."""
    training = model.training
    output = model.eval()(pictures)
    support = (output.codes != 0).flatten(0, -2).cpu()
    usage, counts = support.sum(0), support.sum(1)
    originals, rebuilt = (list(each.float().cpu()) for each in (pictures, output.x_hat))
    captions = [f"{float(psnr_of((a - b).square().mean())):.1f} dB" for a, b in zip(originals, rebuilt, strict=True)]
    names = [str(number) for number in range(1, len(originals) + 1)]
    drawn = {
        "reconstructions": figures.reconstructions("Validation pictures", names, originals, rebuilt, captions),
        "atoms": figures.atom_patches(decode_atoms(model).cpu(), usage),
        "supports": figures.support_histogram(counts, support.shape[1]),
    }
    if model.config.attention != "constant":
        drawn["alpha"] = figures.alpha_maps(originals, output.alpha.float().mean(-1).cpu())  # (B, h, w)
    model.train(training)
    return View(drawn, counts, usage)


def _log_view(logger: Any, view: View, step: int) -> None:
    if isinstance(logger, TensorBoardLogger):
        for name, figure in view.figures.items():
            logger.experiment.add_image(f"pictures/{name}", figures.pixels_of(figure), step, dataformats="HWC")
        logger.experiment.add_histogram("codes/support", view.supports, step)
        logger.experiment.add_histogram("codes/usage_of_atoms", view.usage, step)
    elif isinstance(logger, WandbLogger):
        for name, figure in view.figures.items():
            logger.log_image(f"pictures/{name}", [figures.pixels_of(figure)], step=step)
