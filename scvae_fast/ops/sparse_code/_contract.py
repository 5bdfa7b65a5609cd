"""What a call of sparse_code must satisfy, and what it returns, for every backend.

Symbols: M rows, n features, K atoms, T iterations; x (..., n), W_e (K, n), S (K, K), theta one value or (K,),
D (n, K), gain one value, z0 (..., K); the results are z (..., K) and x̂ (..., n).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from scvae_fast.ops import _checks
from scvae_fast.ops._library import one_value, packed, rows
from scvae_fast.ops.lista import _contract as lista

ARGUMENTS = "Tensor x, Tensor W_e, Tensor S, Tensor theta, Tensor D, Tensor? gain, Tensor? z0, SymInt n_iter"
# Those that have a row for each row of the results; all rows share the others.
ROWS = ("x", "z0")


class Problem(NamedTuple):
    """b = x W_eᵀ; z = lista(b, …); x̂ = z Dᵀ."""

    x: torch.Tensor  # (..., n); (M, n) in rows
    W_e: torch.Tensor  # (K, n)
    S: torch.Tensor  # (K, K)
    theta: torch.Tensor  # one value or (K,)
    D: torch.Tensor  # (n, K)
    gain: torch.Tensor | None  # one value; None stands for 1
    z0: torch.Tensor | None  # (..., K); (M, K) in rows
    n_iter: int

    def check(self) -> None:
        """Raises TypeError or ValueError unless this is a valid call."""
        op = "sparse_code"
        _checks.agree(op, self._fields[:7], self[:7], ("theta", "gain"), may_be_bfloat16=("S",))
        n = _checks.has_rows(op, "x", self.x, "(..., n)")
        K = _checks.is_matrix(op, "W_e", self.W_e, n, "(K, n)")
        _checks.has_shape(op, "D", self.D, (n, K), "(n, K), W_e being (K, n),")
        shape = (*self.x.shape[:-1], K)
        lista.check_iteration(op, "W_e", shape, self.S, self.theta, self.gain, self.z0, self.n_iter)

    def rows(self) -> Problem:
        """The same problem as matrices with packed rows."""
        return Problem(
            rows(self.x),
            packed(self.W_e),
            packed(self.S),
            packed(one_value(self.theta)),
            packed(self.D),
            one_value(self.gain),
            rows(self.z0),
            self.n_iter,
        )

    def result_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the codes and of the reconstruction."""
        return (*self.x.shape[:-1], self.W_e.shape[0]), self.x.shape

    def lista(self) -> lista.Problem:
        """The iteration alone, its drive b = x W_eᵀ (M, K) computed."""
        return lista.Problem(
            torch.nn.functional.linear(self.x, self.W_e), self.S, self.theta, self.gain, self.z0, self.n_iter
        )
