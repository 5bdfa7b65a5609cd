"""How sparse codes are, and which atoms they use."""

import torch
from torch import Tensor


class CodeStatistics:
    """Counts of the entries of codes that are not zero, gathered piece by piece.

    Args:
        n_atoms: K.
    """

    def __init__(self, n_atoms: int) -> None:
        self.usage = torch.zeros(n_atoms, dtype=torch.int64)  # (K,), how many codes use each atom
        self.n_codes = 0

    def update(self, codes: Tensor) -> None:  # (..., K)
        """Count codes in.

        Raises:
            ValueError: the last dimension of codes is not K.
        """
        if codes.dim() == 0 or codes.shape[-1] != len(self.usage):
            raise ValueError(f"CodeStatistics: codes must be (..., {len(self.usage)}), got {tuple(codes.shape)}")
        support = (codes != 0).reshape(-1, len(self.usage))
        self.add(support.sum(0), len(support))

    def add(self, usage: Tensor, n_codes: int) -> None:
        """Count in `n_codes` codes, of which usage[k] use atom k.

        Raises:
            ValueError: usage is not (K,).
        """
        if usage.shape != self.usage.shape:
            raise ValueError(f"CodeStatistics: usage must be {tuple(self.usage.shape)}, got {tuple(usage.shape)}")
        self.usage += usage.to(self.usage)
        self.n_codes += n_codes

    @property
    def density(self) -> float:
        """Share of all entries that are not zero, 0 … 1; NaN before anything was counted."""
        return float(self.usage.sum()) / (self.n_codes * len(self.usage)) if self.n_codes else float("nan")

    @property
    def atoms_in_use(self) -> int:
        """Number of atoms that at least one code uses."""
        return int((self.usage > 0).sum())
