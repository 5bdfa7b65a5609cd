"""The arguments of the operations as every backend takes them, and what makes them a valid call.

Symbols: M rows, n features, K atoms, T iterations.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch

from scvae_fast.ops import checks

_T = TypeVar("_T", torch.Tensor, torch.Tensor | None)


def matrix_of(tensor: _T) -> _T:
    """(..., K) as (M, K) with packed rows that don't overlap; copies only where strides demand it."""
    if tensor is None or (tensor.dim() == 2 and tensor.is_contiguous()):
        return tensor
    return tensor.reshape(-1, tensor.shape[-1]).contiguous()


def _packed(tensor: _T) -> _T:
    return None if tensor is None else tensor.contiguous()


def _one_value(tensor: _T) -> _T:
    """A tensor of one element without dimensions, any other as it is."""
    return tensor if tensor is None or tensor.dim() == 0 or tensor.numel() != 1 else tensor.reshape(())


class Problem(NamedTuple):
    """The bottleneck: b = x W_eᵀ; z_0 = h(γ b) or the given z0; z_{t+1} = h(b + z_t Sᵀ), T times; x̂ = z Dᵀ.

    `sparse_code` has all of it. `lista` is the iteration alone: W_e and D are None, and x is the drive b.
    """

    x: torch.Tensor  # (..., n), or b (..., K)
    W_e: torch.Tensor | None  # (K, n)
    S: torch.Tensor  # (K, K)
    theta: torch.Tensor  # one value or (K,)
    D: torch.Tensor | None  # (n, K)
    gain: torch.Tensor | None  # γ, one value; None stands for 1
    z0: torch.Tensor | None  # (..., K)
    n_iter: int  # T

    def check(self) -> None:
        """Raises TypeError or ValueError unless this is a valid call."""
        tensors: dict[str, torch.Tensor | None] = {"S": self.S, "theta": self.theta, "gain": self.gain, "z0": self.z0}
        if self.W_e is None or self.D is None:
            op, of, tensors = "lista", "b", {"b": self.x, **tensors}
        else:
            op, of, tensors = "sparse_code", "W_e", {"x": self.x, "W_e": self.W_e, **tensors, "D": self.D}
        checks.agree(op, list(tensors), tensors.values(), ("theta", "gain"), may_be_bfloat16=("S",))
        K = self._check_ends(op)
        checks.has_shape(op, "S", self.S, (K, K), f"(K, K), K being the atoms of {of},")
        checks.is_scalar_or_per_atom(op, "theta", self.theta, K)
        if self.gain is not None:
            checks.is_scalar(op, "gain", self.gain)
        if self.z0 is not None:
            checks.has_shape(op, "z0", self.z0, (*self.x.shape[:-1], K), "(..., K), a code for every row,")
        checks.count(op, "n_iter", self.n_iter)

    def _check_ends(self, op: str) -> int:
        """K; raises ValueError unless x, W_e and D fit together."""
        if self.W_e is None or self.D is None:
            return checks.has_rows(op, "b", self.x, "(..., K)")
        n = checks.has_rows(op, "x", self.x, "(..., n)")
        K = checks.is_matrix(op, "W_e", self.W_e, n, "(K, n)")
        checks.has_shape(op, "D", self.D, (n, K), "(n, K), W_e being (K, n),")
        return K

    def in_matrices(self) -> Problem:
        """The same problem with x (M, n) and z0 (M, K), all tensors packed, and one value without dimensions."""
        theta, gain = _packed(_one_value(self.theta)), _one_value(self.gain)
        x, z0 = matrix_of(self.x), matrix_of(self.z0)
        return Problem(x, _packed(self.W_e), _packed(self.S), theta, _packed(self.D), gain, z0, self.n_iter)

    def result_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the codes; and of the reconstruction where there is a dictionary."""
        codes = (*self.x.shape[:-1], self.S.shape[0])
        return (codes,) if self.D is None else (codes, self.x.shape)

    def drive(self) -> torch.Tensor:
        """B (..., K)."""
        return self.x if self.W_e is None else torch.nn.functional.linear(self.x, self.W_e)

    def rows(self, begin: int, end: int) -> Problem:
        """Some of the rows of a problem in matrices."""
        return self._replace(x=self.x[begin:end], z0=None if self.z0 is None else self.z0[begin:end])


class Decoding(NamedTuple):
    """x̂ = z Dᵀ."""

    z: torch.Tensor  # (..., K)
    D: torch.Tensor  # (n, K)

    def check(self) -> None:
        """Raises TypeError or ValueError unless this is a valid call."""
        checks.agree("decode", self._fields, self)
        atoms = checks.has_rows("decode", "z", self.z, "(..., K)")
        checks.is_matrix("decode", "D", self.D, atoms, "(n, K)")

    def in_matrices(self) -> Decoding:
        """The same problem with z (M, K), both packed."""
        return Decoding(matrix_of(self.z), _packed(self.D))

    def result_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the reconstruction."""
        return ((*self.z.shape[:-1], self.D.shape[0]),)


Record = Problem | Decoding
Results = tuple[torch.Tensor, ...]
"""Codes z (M, K), and x̂ (M, n) where there is a dictionary; of a `Decoding` x̂ (M, n) alone."""


class Incoming(NamedTuple):
    """What the backward pass of a `Problem` starts from: gradients of its results, one at least, and its codes."""

    grad_z: torch.Tensor | None  # (M, K)
    grad_x_hat: torch.Tensor | None  # (M, n)
    z: torch.Tensor  # (M, K)

    def rows(self, begin: int, end: int) -> Incoming:
        """Some of the rows."""
        return Incoming._make(None if t is None else t[begin:end] for t in self)


Needed = frozenset[str]
"""Names of the fields of a record whose gradients are needed; none of them is None."""

Gradients = dict[str, torch.Tensor]
"""By the name of its field, the gradient of each tensor of `Needed`, in its dtype."""
