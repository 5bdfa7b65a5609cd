"""The training of an `SCVAE` as a Lightning module."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE, SCVAEConfig
from scvae_fast.speed import Speed
from scvae_fast.training.data import PictureData
from scvae_fast.training.progress import batches_seen, progress_of
from scvae_fast.training.second_stage import SecondStage, SecondStageSettings
from scvae_fast.training.settings import LossSettings, OptimiserSettings
from scvae_fast.training.start import start_as_linear_coder

Start = Literal["random", "linear"]

# Batches between two projections of c, each of which costs a singular value decomposition of D; and how far above
# ‖D‖₂² they keep it, for the steps between.
_PROJECT_EVERY = 10
_STEP_MARGIN = 1.01
# The linear start is fitted to so many pictures.
_START_PICTURES = 96

_LOSS, _OPTIMISER = LossSettings(), OptimiserSettings()


class SCVAEModule(LightningModule):
    """Trains an `SCVAE` with Adam on batches (B, C, H, W) of pictures in −1 … 1.

    The learning rate follows the share of the training that is over, by the trainer's `max_steps`, `max_epochs` or
    time. Random numbers of a step depend on the seed and on the step alone, so a resumed training is the same training.

    Args:
        network: what to train, see `SCVAEConfig`.
        loss: see `LossSettings`.
        optimiser: see `OptimiserSettings`.
        second_stage: perceptual and adversarial terms; None leaves them out.
        start: the first weights: "random", or "linear" for a transform coder fitted to the first pictures, see
            `scvae_fast.training.start`; that needs a network with `norm_out=False`.
        project_step: whether the step constant c of the bottleneck is raised to ‖D‖₂² now and then, if it is less, so
            that the iterations converge whatever D has become. The released code doesn't.
        channels_last: memory format of pictures; None is what is fastest on the device, see `Speed`.
        compile: whether encoder and decoder go through torch.compile; None as before.
        seed: of what is random within a step.

    Raises:
        ValueError: start is none of these two, or does not suit the network.
        UsageError: the weights of the perceptual term are not to be found.
    """

    def __init__(
        self,
        network: SCVAEConfig,
        loss: LossSettings = _LOSS,
        optimiser: OptimiserSettings = _OPTIMISER,
        second_stage: SecondStageSettings | None = None,
        start: Start = "random",
        project_step: bool = True,
        channels_last: bool | None = None,
        compile: bool | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if start not in get_args(Start):
            raise ValueError(f"SCVAEModule: start must be one of {get_args(Start)}, got {start!r}")
        if start == "linear" and network.norm_out:
            raise ValueError('SCVAEModule: start="linear" needs a network with norm_out=False')
        self.model = SCVAE(network)
        self.loss, self.optimiser, self.start, self.project_step = loss, optimiser, start, project_step
        self.second_stage = None if second_stage is None else _second_stage(second_stage, network.in_channels)
        self._speed = (channels_last, compile)
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Give the weights their start, unless a training is resumed, and make the model fast."""
        if stage != "fit":
            return
        if self.start == "linear" and not self.trainer.ckpt_path:
            start_as_linear_coder(self.model, self._first_pictures())
        device = self.trainer.strategy.root_device
        fastest = Speed.of(device)
        channels_last, compile = self._speed
        speed = Speed(
            channels_last=fastest.channels_last if channels_last is None else channels_last,
            compile=fastest.compile if compile is None else compile,
        )
        if self.second_stage is not None:
            self.second_stage.prepare(device)
            if speed.compile:
                # The adaptive weight goes through the decoder's graph more than once.
                torch._functorch.config.donated_buffer = False
        speed.prepare(self.model)

    def training_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """The loss of a batch, and how many of its codes use each atom; the terms of the loss and more are logged."""
        output = self.model(batch)
        loss = self.loss.of(batch, output, self.model.config.sparsity)
        total, figures = loss.total, {f"loss/{name}": term.detach() for name, term in loss._asdict().items()}
        if self.second_stage is not None:
            last_layer = self.model.decoder.conv_out.weight
            more = self.second_stage(batch, output.x_hat, loss.image, last_layer, self.global_step)
            total = total + more.total
            figures |= more.figures | {"loss/total": total.detach()}
        usage = (output.codes.detach() != 0).flatten(0, -2).sum(0)  # (K,)
        figures["density"] = usage.sum() / output.codes.numel()
        self._log(figures)
        return {"loss": total, "usage": usage}

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Log the mean over pictures of the terms of the loss, of the PSNR of each and of the density of its codes."""
        output = self.model(batch)
        loss = self.loss.of(batch, output, self.model.config.sparsity)
        sq_err = (batch - output.x_hat.clamp(-1, 1)).square().flatten(1).mean(1)
        figures = {f"val/loss/{name}": term for name, term in loss._asdict().items()}
        figures["val/psnr"] = _psnr(sq_err).mean()
        figures["val/density"] = (output.codes != 0).float().mean()
        self.log_dict(figures, on_epoch=True, sync_dist=True, batch_size=len(batch))

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Seed this step; keep c at ‖D‖₂² or above."""
        batches = batches_seen(self.trainer)
        torch.manual_seed(int(np.random.SeedSequence((self.seed, batches, self.global_rank)).generate_state(1)[0]))
        if self.project_step and batches % _PROJECT_EVERY == 0:
            sharded = self._sharded()
            with nullcontext() if sharded is None else FullyShardedDataParallel.summon_full_params(sharded):
                self.model.bottleneck.raise_step(_STEP_MARGIN)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam and the schedule of its learning rate."""
        settings = self.optimiser
        optimizer = torch.optim.AdamW(
            self.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            # With float16 a fused optimiser would take scaled gradients, which can't be clipped.
            fused=self.trainer.precision != "16-mixed",
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda _: self.optimiser.factor(progress_of(self.trainer))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the model's gradients, and of the discriminator's by itself.

        Lightning's own clipping refuses fused optimisers under autocast.
        """
        if self.second_stage is not None and not self.second_stage.started(self.global_step):
            for parameter in self.second_stage.parameters():
                parameter.grad = None  # a gradient of zeros would still count as a step of Adam
        if not gradient_clip_val:
            return
        if (sharded := self._sharded()) is not None:
            sharded.clip_grad_norm_(gradient_clip_val)
        elif gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        else:
            for part in self.children():
                torch.nn.utils.clip_grad_norm_(part.parameters(), gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what the network is, for those who load the weights alone."""
        checkpoint["network"] = self.model.config.to_dict()

    def _sharded(self) -> FullyShardedDataParallel | None:
        """What holds the weights where they are spread over processes."""
        model = self.trainer.strategy.model
        return model if isinstance(model, FullyShardedDataParallel) else None

    def _log(self, figures: dict[str, Tensor]) -> None:
        """Log means over all processes, which costs one exchange, and the PSNR of all their pictures."""
        values = torch.stack([value.float() for value in figures.values()])
        if self.trainer.world_size > 1:
            values = self.trainer.strategy.reduce(values, reduce_op="mean")
        figures = dict(zip(figures, values, strict=True))
        self.log_dict(figures | {"psnr": _psnr(figures["loss/image"])})

    def _first_pictures(self) -> Tensor:  # -> (B, C, H, W)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, PictureData):
            raise ValueError('SCVAEModule: start="linear" needs a PictureData module in Trainer.fit')
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


def _psnr(mse: Tensor) -> Tensor:
    """In dB, of values in −1 … 1."""
    return 10 * torch.log10(4 / mse.clamp_min(1e-12))
