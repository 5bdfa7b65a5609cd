"""Atoms that no code uses start anew, as they do in dictionary learning."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from scvae_fast.models import SCVAE

_MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam


class AtomRestarts:
    """Finds the atoms of an `SCVAE` that no code of a window of batches uses, and gives them new directions.

    A new direction is the error x − Dz of a latent vector x of the current batch, which is drawn with a probability
    proportional to ‖x − Dz‖². Its norm is the mean norm of the other atoms. Mairal et al., "Online Learning for Matrix
    Factorization and Sparse Coding" (JMLR 2010), section 3.4, replace atoms that are seldom used by samples.

    Args:
        window: batches of each process that are looked at together.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self._usage: Tensor | None = None  # (K,), how many codes of this window so far use each atom
        self._batches = 0

    def count(self, usage: Tensor) -> None:  # (K,)
        """Count in how many codes of a batch use each atom."""
        self._usage = usage if self._usage is None else self._usage + usage
        self._batches += 1

    def unused(self, trainer: Trainer) -> Tensor | None:
        """Which atoms (K,) no code has used in any process, at the end of a window; None before it."""
        if self._usage is None or self._batches < self.window:
            return None
        usage = self._of_all(trainer)
        self._usage, self._batches = None, 0
        return usage == 0

    def state_dict(self, trainer: Trainer) -> dict[str, Any]:
        """For a checkpoint; all processes have to ask."""
        return {"usage": None if self._usage is None else self._of_all(trainer).cpu(), "batches": self._batches}

    def load_state_dict(self, state: dict[str, Any], trainer: Trainer) -> None:
        """From a checkpoint, in all processes."""
        usage, self._batches = state["usage"], state["batches"]
        if usage is not None:
            # It holds the counts of all processes, so one of them goes on with it.
            usage = usage if trainer.is_global_zero else torch.zeros_like(usage)
            usage = usage.to(trainer.strategy.root_device)
        self._usage = usage

    def _of_all(self, trainer: Trainer) -> Tensor:
        assert self._usage is not None
        if trainer.world_size == 1:
            return self._usage
        return trainer.strategy.reduce(self._usage.clone(), reduce_op="sum")


@torch.no_grad()
def restart_atoms(
    model: SCVAE, unused: Tensor, pictures: Tensor, optimizer: torch.optim.Optimizer, trainer: Trainer
) -> int:
    """Give unused atoms new directions, in place, and forget Adam's moments of the old ones.

    All processes get the directions that the first one draws.

    Args:
        model: whose dictionary is changed.
        unused: (K,) bool.
        pictures: (B, C, H, W) in −1 … 1, whose latent vectors the directions are drawn from.
        optimizer: Adam or AdamW.
        trainer: of the processes.

    Returns:
        How many atoms got a new direction; the others had to wait because too few latent vectors have an error.
    """
    if not unused.any():
        return 0
    D = model.bottleneck.dictionary  # (n, K)
    rows = model.encoder(pictures).permute(0, 2, 3, 1).flatten(0, 2)  # (M, n)
    errors = (rows - model.bottleneck(rows)[1]).float()
    weights = errors.square().sum(1)
    places = unused.nonzero()[:, 0][: int((weights > 0).sum())]
    chosen = errors[weights.multinomial(len(places))] if len(places) else errors[:0]
    norm = D[:, ~unused].norm(dim=0).mean() if not unused.all() else D.norm(dim=0).mean()
    atoms = torch.nn.functional.normalize(chosen, dim=1).T.to(D) * norm  # (n, count)
    places, atoms = (each.to(D.device) for each in trainer.strategy.broadcast((places.cpu(), atoms.cpu())))
    D[:, places] = atoms
    for name in _MOMENTS:
        if name in (moments := optimizer.state.get(D, {})):
            moments[name][:, places] = 0
    return len(places)
