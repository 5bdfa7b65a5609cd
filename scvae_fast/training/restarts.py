"""Restarts of atoms that hardly any code uses, as in dictionary learning."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from scvae_fast.models import SCVAE

_MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam
# At most one in this many atoms is restarted at a time, because the codes have to adapt to new atoms.
_ONE_IN = 32
# Number of latent vectors considered for each new direction.
_CANDIDATES = 4
# Largest relative residual that is attributed to rounding, for a vector in the span of the atoms.
_ROUNDING = 1e-4


class AtomRestarts:
    """Finds the atoms of an `SCVAE` that hardly any code of a window of batches uses.

    Mairal et al., "Online Learning for Matrix Factorization and Sparse Coding" (JMLR 2010), section 3.4, also replace
    seldom-used atoms.

    Args:
        window: number of batches per process that are evaluated together.
        share: atoms used by fewer than this share of their codes are restarted, the least used first.

    Attributes:
        restarted: number of restarts so far, over all atoms.
    """

    def __init__(self, window: int, share: float) -> None:
        self.window, self.share = window, share
        self.restarted = 0
        self._usage: Tensor | None = None  # (K,), number of codes of this window so far that use each atom
        self._batches = self._codes = 0

    def count(self, usage: Tensor, n_codes: int) -> None:
        """Add a batch: usage (K,) is the number of its n_codes codes that use each atom."""
        self._usage = usage if self._usage is None else self._usage + usage
        self._codes += n_codes
        self._batches += 1

    def seldom_used(self, trainer: Trainer) -> Tensor | None:
        """The indices of the atoms to restart, at the end of a window; None before the end."""
        if self._usage is None or self._batches < self.window:
            return None
        usage, codes = self._of_all(trainer), self._codes * trainer.world_size
        self._usage, self._batches, self._codes = None, 0, 0
        order = usage.argsort(stable=True)[: max(1, len(usage) // _ONE_IN)]
        return order[usage[order] < max(1.0, self.share * codes)]

    def state_dict(self, trainer: Trainer) -> dict[str, Any]:
        """State for a checkpoint; every process must call this."""
        usage = None if self._usage is None else self._of_all(trainer).cpu()
        return {"usage": usage, "batches": self._batches, "codes": self._codes, "restarted": self.restarted}

    def load_state_dict(self, state: dict[str, Any], trainer: Trainer) -> None:
        """Restore the state, in every process."""
        usage, self._batches, self._codes = state["usage"], state["batches"], state["codes"]
        self.restarted = state["restarted"]
        if usage is not None:
            # These are the counts of all processes together, so only one process starts with them.
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
    model: SCVAE, places: Tensor, pictures: Tensor, optimizer: torch.optim.Optimizer, trainer: Trainer
) -> int:
    """Give atoms new directions, in place, and reset Adam's moments for them.

    A new direction is the residual x − D_S D_S⁺ x of a latent vector x of this batch, where S is the support of its
    code. The error x − Dz is used only if the atoms in S span x: the threshold shrinks all codes, so most of the error
    lies along the atoms in use. The vectors are drawn from a random sample of latent vectors, with probabilities
    proportional to the squared residual. The norm is the mean norm of the other atoms. All processes get the
    directions that the first one draws.

    Args:
        model: the model whose dictionary is changed.
        places: indices of the atoms.
        pictures: (B, C, H, W) in −1 … 1; their latent vectors provide the directions.
        optimizer: Adam or AdamW.
        trainer: for communication between the processes.

    Returns:
        The number of atoms that got a new direction, lower than requested if too few latent vectors have a residual.
    """
    if not len(places):
        return 0
    D = model.bottleneck.dictionary  # (n, K)
    rows = model.encoder(pictures).permute(0, 2, 3, 1).flatten(0, 2)  # (M, n)
    rows = rows[torch.randperm(len(rows))[: _CANDIDATES * len(places)].to(rows.device)]
    codes, rows_hat = model.bottleneck(rows)
    rests = _beyond_support(*(each.float().cpu() for each in (rows, codes, rows_hat, D)))
    weights = rests.square().sum(1)
    places = places[: int((weights > 0).sum())].cpu()
    others = torch.ones(D.shape[1], dtype=torch.bool).index_fill(0, places, False).to(D.device)
    norm = D[:, others if others.any() else ~others].norm(dim=0).mean()
    chosen = rests[weights.multinomial(len(places))] if len(places) else rests[:0]
    atoms = torch.nn.functional.normalize(chosen, dim=1).T * norm.cpu()  # (n, count)
    places, atoms = (each.to(D.device) for each in trainer.strategy.broadcast((places, atoms)))
    D[:, places] = atoms.to(D)
    for name in _MOMENTS:
        if name in (moments := optimizer.state.get(D, {})):
            moments[name][:, places] = 0
    return len(places)


def _beyond_support(rows: Tensor, codes: Tensor, rows_hat: Tensor, D: Tensor) -> Tensor:
    """Each row (M, n) minus its projection onto the atoms of its code (M, K); its error x − Dz if they span it."""
    rests = rows.clone()
    for rest, code in zip(rests, codes, strict=True):
        atoms = D[:, code != 0]  # (n, S)
        if atoms.shape[1]:
            rest -= atoms @ torch.linalg.lstsq(atoms, rest[:, None], driver="gelsd").solution[:, 0]
    spanned = rests.norm(dim=1, keepdim=True) <= _ROUNDING * rows.norm(dim=1, keepdim=True)
    return torch.where(spanned, rows - rows_hat, rests)
