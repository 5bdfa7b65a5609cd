"""The progress bar of training."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm  # type: ignore[import-untyped]

from scvae_fast.training.progress import progress_of, time_spent

# Format of the figures that are shown if logged, in this order.
_SHOWN = (
    ("loss/total", "loss {:.4g}"),
    ("loss/image", "image {:.4g}"),
    ("loss/latent", "latent {:.3g}"),
    ("loss/sparsity", "sparsity {:.3g}"),
    ("loss/perceptual", "perceptual {:.3g}"),
    ("loss/adversarial", "adversarial {:.3g}"),
    ("loss/discriminator", "discriminator {:.3g}"),
    ("psnr", "{:.1f} dB"),
    ("density", "density {:.1%}"),
    ("atoms_in_use", "{:.0f} atoms in use"),
    ("pictures_per_second", "{:.1f} pictures/s"),
)


class TrainingBar(Callback):
    """A bar over the whole training with the latest figures; in a log file, a line every half minute."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._shown = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar, in the first process only."""
        if trainer.is_global_zero:
            # Without miniters=0, tqdm would derive it from the first update, which is large when training is resumed.
            self._bar = tqdm(total=1.0, desc="training", mininterval=0, miniters=0, bar_format="{bar:20} {desc}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Update the bar, but not at every step: reading the figures waits for the GPU."""
        now = time.monotonic()
        if self._bar is None or now - self._shown < (0.5 if sys.stderr.isatty() else 30.0):
            return
        self._shown = now
        progress, spent = progress_of(trainer), time_spent(trainer)
        left = spent * (1 - progress) / max(progress, 1e-9)
        self._bar.set_description_str(
            f"{progress:4.0%}, {clock(spent)}, {clock(left)} left | step {trainer.global_step}: "
            + figures_line(trainer.callback_metrics),
            refresh=False,
        )
        self._bar.update(progress - self._bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar, but leave it on the screen."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, but leave it on the screen."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def figures_line(figures: Mapping[str, Any]) -> str:
    """The figures that the bar shows, in one line."""
    return ", ".join(text.format(float(figures[name])) for name, text in _SHOWN if name in figures)


def clock(seconds: float) -> str:
    """Format seconds as m:ss, or h:mm:ss."""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
