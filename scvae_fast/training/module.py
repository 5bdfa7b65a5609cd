"""The training of an `SCVAE` as a Lightning module."""

from contextlib import nullcontext
from typing import Any

from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from scvae_fast.models import SCVAE, SCVAEConfig
from scvae_fast.ops.backends import prepare
from scvae_fast.training.base import AutoencoderModule, Objective, Start
from scvae_fast.training.progress import batches_seen
from scvae_fast.training.second_stage import SecondStageSettings
from scvae_fast.training.settings import LossSettings, OptimiserSettings
from scvae_fast.training.start import start_as_linear_coder

# Batches between two projections of c, each of which costs a singular value decomposition of D; and how far above
# ‖D‖₂² they keep it, for the steps between.
_PROJECT_EVERY = 10
_MARGIN_OF_C = 1.01

_LOSS, _OPTIMISER = LossSettings(), OptimiserSettings()


class SCVAEModule(AutoencoderModule):
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
        project_c: whether the step constant c of the bottleneck is raised to ‖D‖₂² now and then, if it is less, so
            that the iterations converge whatever D has become. The released code doesn't.
        channels_last: memory format of pictures; None is what is fastest on the device, see `SpeedSettings`.
        compile: whether encoder and decoder go through torch.compile; None as before.
        seed: of what is random within a step.

    Raises:
        ValueError: start is none of these two, or does not suit the network.
        UsageError: the weights of the perceptual term are not to be found.
    """

    model: SCVAE

    def __init__(
        self,
        network: SCVAEConfig,
        loss: LossSettings = _LOSS,
        optimiser: OptimiserSettings = _OPTIMISER,
        second_stage: SecondStageSettings | None = None,
        start: Start = "random",
        project_c: bool = True,
        channels_last: bool | None = None,
        compile: bool | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            SCVAE(network),
            network,
            optimiser,
            second_stage=second_stage,
            start=start,
            channels_last=channels_last,
            compile=compile,
            seed=seed,
        )
        self.loss, self.project_c = loss, project_c

    def start_linearly(self, pictures: Tensor) -> None:
        """See `start_as_linear_coder`."""
        start_as_linear_coder(self.model, pictures)

    def objective(self, batch: Tensor) -> Objective:
        """The loss of a batch, the density of its codes, and how many of them use each atom."""
        output = self.model(batch)
        loss = self.loss.of(batch, output, self.model.config.lmbda)
        usage = (output.codes.detach() != 0).flatten(0, -2).sum(0)  # (K,)
        figures = {f"loss/{name}": term for name, term in loss._asdict().items()}
        figures["density"] = usage.sum() / output.codes.numel()
        return Objective(loss.total, figures, output.x_hat, {"usage": usage})

    def on_fit_start(self) -> None:
        """Let every rank find out which kernels run on its card: within a step one rank would wait for another."""
        super().on_fit_start()
        prepare(self.device)

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Seed this step; keep c at ‖D‖₂² or above."""
        super().on_train_batch_start(batch, batch_idx)
        if self.project_c and batches_seen(self.trainer) % _PROJECT_EVERY == 0:
            sharded = self.sharded()
            with nullcontext() if sharded is None else FullyShardedDataParallel.summon_full_params(sharded):
                self.model.bottleneck.raise_c(_MARGIN_OF_C)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give c's moments the dimension that c has: checkpoints in which it had none are resumed as well."""
        for optimizer in checkpoint["optimizer_states"]:
            for moments in optimizer["state"].values():
                for name, value in moments.items():
                    if name != "step" and isinstance(value, Tensor) and value.dim() == 0:
                        moments[name] = value.reshape(1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what the network is, for those who load the weights alone."""
        checkpoint["network"] = self.model.config.to_dict()
