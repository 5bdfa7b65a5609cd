"""The training of an `SCVAE` as a Lightning module."""

from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel

from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE, SCVAEConfig
from scvae_fast.ops.backends import prepare
from scvae_fast.training.base import AutoencoderModule, Objective, Start
from scvae_fast.training.callbacks import any_process
from scvae_fast.training.progress import batches_seen, progress_of
from scvae_fast.training.restarts import AtomRestarts, restart_atoms
from scvae_fast.training.second_stage import SecondStageSettings
from scvae_fast.training.settings import LossSettings, OptimiserSettings
from scvae_fast.training.start import start_as_linear_coder

# Number of batches between two projections of c, each of which costs a singular value decomposition of D, and the
# multiple of ‖D‖₂² to which they raise c, as a margin for the steps in between.
_PROJECT_EVERY = 10
_MARGIN_OF_C = 1.01
# Share of training after which no atoms are restarted, because new atoms need time to settle.
_LAST_RESTART = 0.8

_LOSS, _OPTIMISER = LossSettings(), OptimiserSettings()


class SCVAEModule(AutoencoderModule):
    """Trains an `SCVAE` with Adam on batches (B, C, H, W) of pictures in −1 … 1.

    The learning rate depends on the completed share of training, by the trainer's `max_steps`, `max_epochs` or time.
    The random numbers of a step depend only on the seed and the step, so resuming does not change the training.

    Args:
        network: the architecture, see `SCVAEConfig`.
        loss: see `LossSettings`.
        optimiser: see `OptimiserSettings`.
        second_stage: perceptual and adversarial terms; None leaves them out.
        start: initial weights: "random", or "linear" for a transform coder fitted to the first pictures, see
            `scvae_fast.training.start`; "linear" needs a network with `norm_out=False`.
        project_c: whether the bottleneck's step constant c is raised to ‖D‖₂² regularly, if it is smaller, so that
            the iterations converge for any D. The released code doesn't do this.
        restart_atoms: number of batches after which atoms that hardly any of their codes used get new directions,
            see `scvae_fast.training.restarts`; only in the first 80 % of training. None never restarts atoms, like
            the released code.
        restart_share: atoms are restarted if fewer than this share of the codes used them.
        channels_last: memory format of pictures; None chooses the fastest on the device, see `SpeedSettings`.
        compile: whether encoder and decoder are compiled with torch.compile; None chooses as above.
        seed: for the randomness within each step.

    Raises:
        ValueError: start is not one of these two, or does not suit the network; restart_atoms is less than 1;
            restart_share is not in 0 … 1.
        UsageError: the weights of the perceptual term can't be found.

    Example:
        >>> from scvae_fast import SCVAEConfig
        >>> from scvae_fast.training.module import SCVAEModule
        >>> module = SCVAEModule(SCVAEConfig.preset("pictures64"))
        >>> module.model.config.resolution
        64
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
        restart_atoms: int | None = None,
        restart_share: float = 1e-4,
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
        if restart_atoms is not None and restart_atoms < 1:
            raise ValueError(f"SCVAEModule: restart_atoms must be None or at least 1, got {restart_atoms}")
        if not 0 <= restart_share <= 1:
            raise ValueError(f"SCVAEModule: restart_share must be in 0 … 1, got {restart_share}")
        self.loss, self.project_c = loss, project_c
        self._restarts = None if restart_atoms is None else AtomRestarts(restart_atoms, restart_share)

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
        """Find out now which kernels run on each rank's card: during a step, ranks would wait for each other."""
        super().on_fit_start()
        prepare(self.device)
        if self._restarts is not None and self.sharded() is not None:
            raise UsageError("SCVAEModule: restart_atoms needs whole weights in each process; leave it out under FSDP")

    def training_step(self, batch: Tensor, batch_idx: int) -> dict[str, Tensor]:
        """See `AutoencoderModule`; counts how often each atom is used."""
        outputs = super().training_step(batch, batch_idx)
        if self._restarts is not None:
            stride = self.model.config.stride
            self._restarts.count(outputs["usage"], batch[:, 0].numel() // stride**2)
        return outputs

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Seed this step, give unused atoms new directions if it is time, and keep c at ‖D‖₂² or above."""
        super().on_train_batch_start(batch, batch_idx)
        restarted = self._restart_atoms(batch)
        if self.project_c and (restarted or batches_seen(self.trainer) % _PROJECT_EVERY == 0):
            sharded = self.sharded()
            with nullcontext() if sharded is None else FullyShardedDataParallel.summon_full_params(sharded):
                self.model.bottleneck.raise_c(_MARGIN_OF_C)

    def _restart_atoms(self, batch: Tensor) -> int:
        """Restart unused atoms if it is time, and return their number."""
        if self._restarts is None:
            return 0
        places = self._restarts.seldom_used(self.trainer)
        restarted = 0
        # The clocks of the processes may differ, but all must decide alike.
        if places is not None and not any_process(self.trainer, progress_of(self.trainer) > _LAST_RESTART):
            optimizer = cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False))
            restarted = restart_atoms(self.model, places, batch, optimizer, self.trainer)
        self._restarts.restarted += restarted
        # Log the total so far, so that restarts in a step that is not logged still show up later.
        self.log("atoms_restarted", float(self._restarts.restarted), rank_zero_only=True)
        return restarted

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the usage counts."""
        if self._restarts is not None and "restarts" in checkpoint:
            self._restarts.load_state_dict(checkpoint["restarts"], self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the network's configuration, for loading only the weights, and the usage counts of the atoms."""
        checkpoint["network"] = self.model.config.to_dict()
        if self._restarts is not None:
            checkpoint["restarts"] = self._restarts.state_dict(self.trainer)
