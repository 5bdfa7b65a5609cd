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

# Batches between two projections of c, each of which costs a singular value decomposition of D; and how far above
# ‖D‖₂² they keep it, for the steps between.
_PROJECT_EVERY = 10
_MARGIN_OF_C = 1.01
# Share of the training after which no atom starts anew: the last ones need time to settle.
_LAST_RESTART = 0.8

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
        restart_atoms: after every so many batches, atoms that hardly any of their codes has used get new directions,
            see `scvae_fast.training.restarts`, in the first 80 % of the training. None leaves them as they are, as the
            released code does.
        restart_share: atoms in fewer than this share of the codes are meant.
        channels_last: memory format of pictures; None is what is fastest on the device, see `SpeedSettings`.
        compile: whether encoder and decoder go through torch.compile; None as before.
        seed: of what is random within a step.

    Raises:
        ValueError: start is none of these two, or does not suit the network; restart_atoms is less than 1;
            restart_share is not in 0 … 1.
        UsageError: the weights of the perceptual term are not to be found.

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
        """Let every rank find out which kernels run on its card: within a step one rank would wait for another."""
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
        """Seed this step; give atoms that are out of use new directions; keep c at ‖D‖₂² or above."""
        super().on_train_batch_start(batch, batch_idx)
        restarted = self._restart_atoms(batch)
        if self.project_c and (restarted or batches_seen(self.trainer) % _PROJECT_EVERY == 0):
            sharded = self.sharded()
            with nullcontext() if sharded is None else FullyShardedDataParallel.summon_full_params(sharded):
                self.model.bottleneck.raise_c(_MARGIN_OF_C)

    def _restart_atoms(self, batch: Tensor) -> int:
        """How many atoms got a new direction before this batch."""
        if self._restarts is None:
            return 0
        places = self._restarts.seldom_used(self.trainer)
        restarted = 0
        # The clocks of the processes may differ.
        if places is not None and not any_process(self.trainer, progress_of(self.trainer) > _LAST_RESTART):
            optimizer = cast(torch.optim.Optimizer, self.optimizers(use_pl_optimizer=False))
            restarted = restart_atoms(self.model, places, batch, optimizer, self.trainer)
        self._restarts.restarted += restarted
        # The sum of all, which no step in which nothing is logged can hide.
        self.log("atoms_restarted", float(self._restarts.restarted), rank_zero_only=True)
        return restarted

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the counts of atoms."""
        if self._restarts is not None and "restarts" in checkpoint:
            self._restarts.load_state_dict(checkpoint["restarts"], self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the network's configuration, for loading the weights alone, and the counts of atoms."""
        checkpoint["network"] = self.model.config.to_dict()
        if self._restarts is not None:
            checkpoint["restarts"] = self._restarts.state_dict(self.trainer)
