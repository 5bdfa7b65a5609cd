"""The base class for training autoencoders, a Lightning module."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from scvae_fast.errors import UsageError
from scvae_fast.metrics.psnr import psnr_of
from scvae_fast.models import SCVAEConfig
from scvae_fast.models.decoder import Decoder
from scvae_fast.models.speed import SpeedSettings
from scvae_fast.training.data import PictureData
from scvae_fast.training.progress import batches_seen, shared_progress_of
from scvae_fast.training.second_stage import SecondStage, SecondStageSettings
from scvae_fast.training.settings import OptimiserSettings

Start = Literal["random", "linear"]

# Number of pictures to which the linear start is fitted.
_START_PICTURES = 96

# Lower bound of a mean squared error in the logged PSNR, which keeps the PSNR finite.
_LEAST_ERROR = 1e-12


class Objective(NamedTuple):
    """The loss of a batch before the second stage, with its details."""

    total: Tensor  # ()
    figures: dict[str, Tensor]  # to log: "loss/total", "loss/image" (the mean squared error) and more
    x_hat: Tensor  # (B, C, H, W)
    outputs: dict[str, Tensor]  # for callbacks


class AutoencoderModule(LightningModule, ABC):
    """Trains `model`, which has an `encoder` and a `decoder`, with Adam on pictures (B, C, H, W) in −1 … 1.

    The learning rate depends on the completed share of training, by the trainer's `max_steps`, `max_epochs` or time.
    The random numbers of a step depend only on the seed and the step, so resuming does not change the training.

    Args:
        model: the model to train.
        network: the configuration of its encoder and decoder.
        optimiser: see `OptimiserSettings`.
        second_stage: perceptual and adversarial terms; None leaves them out.
        start: initial weights, "random" or "linear", see `scvae_fast.training.start`.
        channels_last: memory format of pictures; None chooses the fastest on the device, see `SpeedSettings`.
        compile: whether encoder and decoder are compiled with torch.compile; None chooses as above.
        seed: for the randomness within each step.

    Raises:
        ValueError: start is not one of these two, or does not suit the network.
        UsageError: the weights of the perceptual term can't be found.
    """

    def __init__(
        self,
        model: nn.Module,
        network: SCVAEConfig,
        optimiser: OptimiserSettings,
        *,
        second_stage: SecondStageSettings | None,
        start: Start,
        channels_last: bool | None,
        compile: bool | None,
        seed: int,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if start not in get_args(Start):
            raise ValueError(f"{name}: start must be one of {get_args(Start)}, got {start!r}")
        if start == "linear" and network.norm_out:
            raise ValueError(f'{name}: start="linear" needs a network with norm_out=False')
        self.model = model
        self.optimiser, self.start, self.seed = optimiser, start, seed
        self.second_stage = None if second_stage is None else _second_stage(second_stage, network.in_channels)
        self._speed = (channels_last, compile)

    @abstractmethod
    def objective(self, batch: Tensor) -> Objective:
        """The loss of pictures (B, C, H, W), without the second stage."""

    @abstractmethod
    def start_linearly(self, pictures: Tensor) -> None:
        """Fit the initial weights to pictures (B, C, H, W)."""

    def setup(self, stage: str) -> None:
        """Initialise the weights, unless training is resumed, and apply the speed settings."""
        if stage != "fit":
            return
        if self.start == "linear" and not self.trainer.ckpt_path:
            self.start_linearly(self._first_pictures())
        device = self.trainer.strategy.root_device
        fastest = SpeedSettings.of(device)
        channels_last, compile = self._speed
        speed = SpeedSettings(
            channels_last=fastest.channels_last if channels_last is None else channels_last,
            compile=fastest.compile if compile is None else compile,
        )
        if self.second_stage is not None:
            self.second_stage.prepare(device)
            if speed.compile:
                # The adaptive weight backpropagates through the decoder's graph more than once.
                torch._functorch.config.donated_buffer = False
        speed.prepare(self.model)

    def training_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """The loss of a batch and the data that callbacks need; logs the loss terms and other figures."""
        total, figures, x_hat, outputs = self.objective(batch)
        if self.second_stage is not None:
            last_layer = cast(Decoder, self.model.decoder).conv_out.weight
            more = self.second_stage(batch, x_hat, figures["loss/image"], last_layer, self.global_step)
            total = total + more.total
            figures = figures | more.figures | {"loss/total": total}
        self._log({name: value.detach() for name, value in figures.items()})
        return {"loss": total, **outputs}

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Log the same figures as training, averaged over pictures, and the mean PSNR of the pictures."""
        _, terms, x_hat, _ = self.objective(batch)
        sq_err = (batch - x_hat.clamp(-1, 1)).square().flatten(1).mean(1)
        psnr = psnr_of(sq_err.clamp_min(_LEAST_ERROR)).mean()
        figures = {f"val/{name}": value for name, value in terms.items()} | {"val/psnr": psnr}
        self.log_dict(figures, on_epoch=True, sync_dist=True, batch_size=len(batch))

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Seed this step."""
        batches = batches_seen(self.trainer)
        torch.manual_seed(int(np.random.SeedSequence((self.seed, batches, self.global_rank)).generate_state(1)[0]))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam and the schedule of its learning rate."""
        settings = self.optimiser
        optimizer = torch.optim.AdamW(
            self.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            # With float16 a fused optimiser would get scaled gradients, which can't be clipped.
            fused=self.trainer.precision != "16-mixed",
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda _: self.optimiser.factor(shared_progress_of(self.trainer))
        )
        for group in optimizer.param_groups:
            group.update(self._schedule)  # for the checkpoint, so that a change is noticed
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the model's gradients and, separately, of the discriminator's gradients.

        Lightning's own clipping refuses fused optimisers under autocast.
        """
        if self.second_stage is not None and not self.second_stage.started(self.global_step):
            for parameter in self.second_stage.parameters():
                parameter.grad = None  # with zeros, Adam would still take a step
        if not gradient_clip_val:
            return
        if (sharded := self.sharded()) is not None:
            sharded.clip_grad_norm_(gradient_clip_val)
        elif gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        else:
            for part in self.children():
                if parameters := list(part.parameters()):
                    torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def on_train_start(self) -> None:
        """If training is resumed with other optimiser settings, let the new ones take effect."""
        optimizer, settings = cast(torch.optim.Optimizer, self.optimizers()), self.optimiser
        scheduler = cast(torch.optim.lr_scheduler.LambdaLR, self.lr_schedulers())
        given = {"initial_lr": settings.learning_rate, "betas": settings.betas, "weight_decay": settings.weight_decay}
        given |= self._schedule
        for group in optimizer.param_groups:
            found = {name: tuple(group[name]) if name == "betas" else group.get(name) for name in given}
            if found == given:
                continue
            group.update(given)
            group["lr"] = settings.learning_rate * settings.factor(shared_progress_of(self.trainer))
            scheduler.base_lrs = [settings.learning_rate] * len(optimizer.param_groups)
            scheduler._last_lr = [each["lr"] for each in optimizer.param_groups]
            if self.trainer.is_global_zero:
                changed = (f"{name} {found[name]} -> {given[name]}" for name in given if found[name] != given[name])
                print(f"resumed with different optimiser settings: {', '.join(changed)}", flush=True)

    @property
    def _schedule(self) -> dict[str, float]:
        return {"warm_up": self.optimiser.warm_up, "last_learning_rate": self.optimiser.last_learning_rate}

    def sharded(self) -> FullyShardedDataParallel | None:
        """The module that shards the weights over processes, if there is one."""
        model = self.trainer.strategy.model
        return model if isinstance(model, FullyShardedDataParallel) else None

    def _log(self, figures: dict[str, Tensor]) -> None:
        """Log means over all processes, in one exchange, and the PSNR of all their pictures."""
        values = torch.stack([value.float() for value in figures.values()])
        if self.trainer.world_size > 1:
            values = self.trainer.strategy.reduce(values, reduce_op="mean")
        figures = dict(zip(figures, values, strict=True))
        self.log_dict(figures | {"psnr": psnr_of(figures["loss/image"].clamp_min(_LEAST_ERROR))})

    def _first_pictures(self) -> Tensor:  # -> (B, C, H, W)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, PictureData):
            raise ValueError(f'{type(self).__name__}: start="linear" needs a PictureData module in Trainer.fit')
        return data.first_samples(_START_PICTURES)


def _second_stage(settings: SecondStageSettings, in_channels: int) -> SecondStage:
    perceptual = None
    if settings.perceptual_weight > 0:
        from scvae_fast.metrics.perceptual import load_lpips
        from scvae_fast.metrics.weights import UnavailableError

        folder = settings.perceptual_weights
        try:
            perceptual = load_lpips("vgg", None if folder is None else Path(folder))
        except UnavailableError as error:
            raise UsageError(
                f"second_stage: LPIPS (perceptual_weight {settings.perceptual_weight:g}, 0 leaves it out): {error}"
            ) from error
    return SecondStage(settings, in_channels, perceptual)
