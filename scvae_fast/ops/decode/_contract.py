"""What a call of decode must satisfy, and what it returns, for every backend. z (..., K), D (n, K), x̂ (..., n)."""

from __future__ import annotations

from typing import NamedTuple

import torch

from scvae_fast.ops import _checks
from scvae_fast.ops._library import packed, rows

ARGUMENTS = "Tensor z, Tensor D"
# Those that have a row for each row of the results; all rows share the others.
ROWS = ("z",)


class Problem(NamedTuple):
    """x̂ = z Dᵀ."""

    z: torch.Tensor  # (..., K); (M, K) in rows
    D: torch.Tensor  # (n, K)

    def check(self) -> None:
        """Raises TypeError or ValueError unless this is a valid call."""
        _checks.agree("decode", self._fields, self)
        atoms = _checks.has_rows("decode", "z", self.z, "(..., K)")
        _checks.is_matrix("decode", "D", self.D, atoms, "(n, K)")

    def rows(self) -> Problem:
        """The same problem as matrices with packed rows."""
        return Problem(rows(self.z), packed(self.D))

    def result_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the reconstruction."""
        return ((*self.z.shape[:-1], self.D.shape[0]),)
