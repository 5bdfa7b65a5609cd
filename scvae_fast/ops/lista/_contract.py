"""What a call of lista must satisfy, and what it returns, for every backend.

Symbols: M rows, K atoms, T iterations; b (..., K), S (K, K), theta one value or (K,), gain one value, z0 (..., K).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from scvae_fast.ops import _checks
from scvae_fast.ops._library import one_value, packed, rows

ARGUMENTS = "Tensor b, Tensor S, Tensor theta, Tensor? gain, Tensor? z0, SymInt n_iter"
# Those that have a row for each row of the results; all rows share the others.
ROWS = ("b", "z0")


def check_iteration(
    op: str,
    of: str,
    shape: tuple[int, ...],
    S: torch.Tensor,
    theta: torch.Tensor,
    gain: torch.Tensor | None,
    z0: torch.Tensor | None,
    n_iter: int,
) -> None:
    """Raises unless the arguments go with codes of that shape, (..., K), K being the atoms of the argument `of`."""
    K = shape[-1]
    _checks.has_shape(op, "S", S, (K, K), f"(K, K), K being the atoms of {of},")
    _checks.is_scalar_or_per_atom(op, "theta", theta, K)
    if gain is not None:
        _checks.is_scalar(op, "gain", gain)
    if z0 is not None:
        _checks.has_shape(op, "z0", z0, shape, "(..., K), a code for every row,")
    _checks.count(op, "n_iter", n_iter)


class Problem(NamedTuple):
    """z_0 = h(γ b) or the given z0; z_{t+1} = h(b + z_t Sᵀ), T times."""

    b: torch.Tensor  # (..., K); (M, K) in rows
    S: torch.Tensor  # (K, K)
    theta: torch.Tensor  # one value or (K,)
    gain: torch.Tensor | None  # one value; None stands for 1
    z0: torch.Tensor | None  # like b
    n_iter: int

    def check(self) -> None:
        """Raises TypeError or ValueError unless this is a valid call."""
        _checks.agree("lista", self._fields[:5], self[:5], ("theta", "gain"), may_be_bfloat16=("S",))
        _checks.has_rows("lista", "b", self.b, "(..., K)")
        check_iteration("lista", "b", self.b.shape, *self[1:])

    def rows(self) -> Problem:
        """The same problem as matrices with packed rows."""
        theta, gain = packed(one_value(self.theta)), one_value(self.gain)
        return Problem(rows(self.b), packed(self.S), theta, gain, rows(self.z0), self.n_iter)

    def result_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the codes."""
        return (self.b.shape,)
