"""What is measured: sizes, number of iterations, and how dense the final codes are.

Every case codes x ~ N(0, 1) over SC-VAE's DCT dictionary (n = 256, K = 512); the sparsity λ is found that gives the
density asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from scvae_fast import dictionaries, soft_threshold


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
    gain: torch.Tensor  # ()


def released(t: Tensors, n_iter: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The released code's formula: sign·max and matmul, one kernel a step."""
    b = torch.matmul(t.x, t.W_e.T)
    z = torch.sign(b * t.gain) * torch.max(torch.abs(b * t.gain) - t.theta, torch.zeros_like(b))
    for _ in range(n_iter):
        u = torch.matmul(z, t.S.T) + b
        z = torch.sign(u) * torch.max(torch.abs(u) - t.theta, torch.zeros_like(u))
    return z, torch.matmul(z, t.D.T)


def clean(t: Tensors, n_iter: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Eager PyTorch as one would write it with care: addmm, and a threshold that is one kernel."""
    b = t.x @ t.W_e.T
    z = torch.nn.functional.softshrink(b * t.gain, t.theta.item())
    for _ in range(n_iter):
        z = torch.nn.functional.softshrink(torch.addmm(b, z, t.S.T), t.theta.item())
    return z, z @ t.D.T


def tensors(case: Case, n_features: int = 256, n_atoms: int = 512) -> Tensors:
    """Arguments of a case: the same on every machine but for rounding."""
    D = dictionaries.dct(n_features, n_atoms)
    c = torch.linalg.matrix_norm(D, ord=2) ** 2
    S = torch.eye(n_atoms) - D.T @ D / c
    x = torch.randn(case.rows, n_features, generator=torch.Generator().manual_seed(0))
    gain = c if case.official else torch.ones(())
    sample = Tensors(x[:256], D.T / c, S, torch.zeros(()), D, gain)
    return sample._replace(x=x, theta=_threshold(sample, case))


def _threshold(sample: Tensors, case: Case) -> torch.Tensor:
    """θ that gives the case's density on a sample of its rows, by bisection."""
    b = sample.x @ sample.W_e.T
    low, high = torch.zeros(()), (b * sample.gain).abs().max()
    for _ in range(30):
        theta = (low + high) / 2
        z = soft_threshold(b * sample.gain, theta)
        for _ in range(case.n_iter):
            z = soft_threshold(b + z @ sample.S.T, theta)
        dense = float((z != 0).float().mean()) > case.density
        low, high = (theta, high) if dense else (low, theta)
    return (low + high) / 2
