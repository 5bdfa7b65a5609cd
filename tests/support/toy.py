"""A small training, for tests of the module and its callbacks."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from pictures import TINY, photographs

from scvae_fast.data import RandomCrops
from scvae_fast.training import data
from scvae_fast.training.callbacks import AtomicCheckpointIO, History, KeepCheckpoint, LossGuard, StopOnSignal
from scvae_fast.training.lightning_messages import lightning_messages_silenced
from scvae_fast.training.module import SCVAEModule
from scvae_fast.training.settings import LossSettings, OptimiserSettings

LOSS = LossSettings(code_weight=6000.0)
OPTIMISER = OptimiserSettings(learning_rate=1e-3, betas=(0.9, 0.99), warm_up=0.05, last_learning_rate=0.02)


class Toy(data.Photographs):
    """Crops of made-up photographs."""

    def __init__(self, batch_size: int = 2) -> None:
        super().__init__(resolution=16, batch_size=batch_size)

    def find(self) -> data.Found:
        crops = RandomCrops(photographs(), self.crops, seed=self.seed)
        return data.Found(lambda workers: crops, self.samples, None)


class Run:
    """A trainer over `Toy` that keeps its state in a folder."""

    def __init__(self, folder: Path, steps: int, *others: Callback, accumulate: int = 1, **module: Any) -> None:
        torch.manual_seed(0)
        self.module = SCVAEModule(TINY, LOSS, OPTIMISER, **module)
        self.history, self.stop, self.state = History(every=1), StopOnSignal(), folder / "training.ckpt"
        self.trainer = Trainer(
            accelerator="cpu",
            max_steps=steps,
            max_epochs=-1,
            limit_val_batches=0,
            callbacks=[LossGuard(), self.history, self.stop, *others, KeepCheckpoint(self.state)],
            plugins=[AtomicCheckpointIO()],
            gradient_clip_val=1.0,
            accumulate_grad_batches=accumulate,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def fit(self, *, resume: bool = False, batch_size: int = 2) -> "Run":
        """Train; returns itself."""
        with lightning_messages_silenced():
            self.trainer.fit(self.module, datamodule=Toy(batch_size), ckpt_path=self.state if resume else None)
        return self

    @property
    def losses(self) -> list[dict[str, float]]:
        """The logged figures, without those that differ from run to run."""
        unsteady = ("seconds", "pictures_per_second")
        return [{name: value for name, value in row.items() if name not in unsteady} for row in self.history.rows]
