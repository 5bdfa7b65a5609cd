"""The training of an `SCVAE` as a Lightning module."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from scvae_fast.data import RandomCrops
from scvae_fast.losses import scvae_loss
from scvae_fast.models import SCVAE
from scvae_fast.training.progress import progress_of


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Optimisation of an `SCVAE`.

    Args:
        batch_size: crops in a step.
        learning_rate: the highest, reached after the warm-up.
        warm_up: share of the training in which the learning rate rises from 0.
        last_learning_rate: what it falls to, along half a cosine, relative to the highest.
        betas: of Adam.
        clip: limit on the norm of the gradient.
        code_weight: w in the loss, per value of a picture: (‖x − x̂‖² + w Σ α (‖E − Dz‖² + λ‖z‖₁)) / (C·H·W). The
            paper has w = 1; but α there adds up to 1 over all positions and features, so that codes cost nearly
            nothing and become dense.
        seed: of the crops and of the first weights.
    """

    batch_size: int = 8
    learning_rate: float = 3e-4
    warm_up: float = 0.05
    last_learning_rate: float = 0.02
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    code_weight: float = 6000.0
    seed: int = 0


# Steps between two projections of c, each of which costs a singular value decomposition of D; and how far above ‖D‖₂²
# they keep it, for the steps between.
_PROJECT_EVERY = 10
_STEP_MARGIN = 1.01


class SCVAEModule(LightningModule):
    """Trains an `SCVAE` on random crops with Adam, a warm-up and half a cosine.

    The learning rate follows the share of the training that is over: steps out of the trainer's `max_steps`, or the
    time of a `Timer` callback with a duration, whichever is further. Step i, counted from 0, sees the crops i·B …
    (i+1)·B − 1, also after a resumption. Every few steps the step constant c of the bottleneck is raised to ‖D‖₂², if
    it is less.

    Args:
        model: what to train.
        crops: what to train it on.
        settings: see `TrainingSettings`.
    """

    def __init__(self, model: SCVAE, crops: RandomCrops, settings: TrainingSettings) -> None:
        super().__init__()
        self.model, self.crops, self.settings = model, crops, settings

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:  # (B, C, H, W) -> ()
        """The loss of a batch; its terms, the PSNR and the density of the codes are logged."""
        output = self.model(batch)
        per_value = 1 / batch[0].numel()
        weight = self.settings.code_weight * per_value
        loss = scvae_loss(
            batch,
            output,
            sparsity=self.model.config.sparsity * weight,
            image_weight=per_value,
            latent_weight=weight,
        )
        density = (output.codes.detach() != 0).float().mean()
        # Of the image term, the mean squared error of values in −1 … 1.
        psnr = 10 * torch.log10(4 / loss.image.detach().clamp_min(1e-12))
        self.log_dict({f"loss/{name}": term.detach() for name, term in loss._asdict().items()})
        self.log_dict({"psnr": psnr, "density": density})
        return loss.total

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Keep c at ‖D‖₂² or above, so that the iterations of the bottleneck converge whatever D has become."""
        if self.global_step % _PROJECT_EVERY == 0:
            self.model.bottleneck.raise_step(_STEP_MARGIN)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam and the schedule of its learning rate."""
        optimizer = torch.optim.Adam(
            self.model.parameters(), lr=self.settings.learning_rate, betas=self.settings.betas, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: self._learning_rate_factor())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients.

        Lightning's own clipping refuses fused optimizers under autocast: with float16 they would see scaled gradients.
        """
        if gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Crops without end, from the first that no step has seen."""
        batches = _Batches(self.global_step, self.settings.batch_size)
        return DataLoader(self.crops, batch_sampler=batches)

    def _learning_rate_factor(self) -> float:
        progress, settings = progress_of(self.trainer), self.settings
        if progress < settings.warm_up:
            # Not 0 at the first step: that would be a step for nothing.
            return max(progress / settings.warm_up, 0.01)
        fall = (progress - settings.warm_up) / (1 - settings.warm_up)
        last = settings.last_learning_rate
        return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * fall))


class _Batches(Sampler[list[int]]):
    """Consecutive batches of indices, without end; no length, so that an epoch is as long as the training."""

    def __init__(self, first: int, batch_size: int) -> None:
        self.first, self.batch_size = first, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.first
        while True:
            yield list(range(batch * self.batch_size, (batch + 1) * self.batch_size))
            batch += 1
