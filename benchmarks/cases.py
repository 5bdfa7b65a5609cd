"""What is measured: sizes, number of iterations, and how dense the final codes are.

Every case codes x ~ N(0, 1) over SC-VAE's DCT dictionary (n = 256, K = 512); the sparsity λ is found that gives the
density asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from benchmarks import formulas
from scvae_fast import dictionaries


class Case(NamedTuple):
    """One problem: M rows, T iterations, density of z_T; `official` starts from γ = c as the released code does."""

    rows: int
    n_iter: int
    density: float
    official: bool

    @property
    def name(self) -> str:
        """For tables and for --case."""
        start = "official" if self.official else "paper"
        return f"M{self.rows}-T{self.n_iter}-d{self.density:g}-{start}"


CASES = [
    Case(rows, n_iter, density, official)
    for official in (True, False)
    for rows in (256, 4096)
    for n_iter in (5, 30)
    for density in (0.5, 0.05)
]


class Tensors(NamedTuple):
    """Arguments of sparse_code for a case."""

    x: torch.Tensor  # (M, n)
    W_e: torch.Tensor  # (K, n)
    S: torch.Tensor  # (K, K)
    theta: torch.Tensor  # ()
    D: torch.Tensor  # (n, K)
    gain: torch.Tensor | None  # (); None stands for 1

    def double(self) -> Tensors:
        """The same in float64."""
        return Tensors._make(None if tensor is None else tensor.double() for tensor in self)


def released(t: Tensors, n_iter: int) -> tuple[torch.Tensor, torch.Tensor]:
    """sparse_code by the released code's formula."""
    z = formulas.released(torch.matmul(t.x, t.W_e.T), t.S, t.theta, n_iter, t.gain)
    return z, torch.matmul(z, t.D.T)


def clean(t: Tensors, n_iter: int) -> tuple[torch.Tensor, torch.Tensor]:
    """sparse_code in eager PyTorch as one would write it with care."""
    z = formulas.clean(t.x @ t.W_e.T, t.S, t.theta, n_iter, t.gain)
    return z, z @ t.D.T


def tensors(case: Case, n_features: int = 256, n_atoms: int = 512) -> Tensors:
    """Arguments of a case: the same on every machine but for rounding."""
    D = dictionaries.dct(n_features, n_atoms)
    c = torch.linalg.matrix_norm(D, ord=2) ** 2
    S = torch.eye(n_atoms) - D.T @ D / c
    x = torch.randn(case.rows, n_features, generator=torch.Generator().manual_seed(0))
    sample = Tensors(x[:256], D.T / c, S, torch.zeros(()), D, c if case.official else None)
    return sample._replace(x=x, theta=_threshold(sample, case))


def iterates(t: Tensors, n_iter: int) -> Iterator[torch.Tensor]:
    """z_0 … z_T, each (M, K), one after the other."""
    return formulas.iterates(t.x @ t.W_e.T, t.S, t.theta, n_iter, t.gain)


def _threshold(sample: Tensors, case: Case) -> torch.Tensor:
    """θ that gives the case's density on a sample of its rows, by bisection."""
    b = sample.x @ sample.W_e.T
    low, high = torch.zeros(()), (b if sample.gain is None else b * sample.gain).abs().max()
    for _ in range(30):
        theta = (low + high) / 2
        *_, codes = iterates(sample._replace(theta=theta), case.n_iter)
        low, high = (theta, high) if formulas.density(codes) > case.density else (low, theta)
    return (low + high) / 2
