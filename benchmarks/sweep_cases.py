"""Problems of every size and density, for the sweep: the density asked for is reached at once and stays.

The drive b has entries of N(0, 1), and S of N(0, σ²/K) with σ = 1/4, so that its spectral norm is about 1/2. An entry
of u = b + z Sᵀ is then close to N(0, s²), s² = 1 + σ² E[z²], and a threshold θ = a s leaves the same part of every
iterate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any, NamedTuple

import torch

import scvae_fast
from benchmarks import cases, formulas, run
from benchmarks.cases import Tensors

SIGMA = 0.25
OURS = "cpu"


class SweepCase(NamedTuple):
    """One problem of an operation: M rows, K atoms, T iterations, density of all iterates; and how it is called."""

    op: str
    rows: int
    atoms: int
    n_iter: int
    threads: int
    what: str
    density: float

    @property
    def line(self) -> str:
        """The row of the table that it belongs to: all of it but the density."""
        threads = f"{self.threads} thread" + "s" * (self.threads > 1)
        return f"{self.op}, M = {self.rows}, K = {self.atoms}, T = {self.n_iter}, {threads}, {self.what}"

    @property
    def multiply_adds(self) -> int:
        """What the iterations of a dense forward pass take, the measure of its size."""
        return self.rows * self.atoms**2 * (self.n_iter + 1)


class Drive(NamedTuple):
    """Arguments of lista."""

    b: torch.Tensor  # (M, K)
    S: torch.Tensor  # (K, K)
    theta: torch.Tensor  # ()

    def double(self) -> Drive:
        """The same in float64."""
        return Drive._make(tensor.double() for tensor in self)


def contestants(op: str) -> dict[str, Callable[[Any, int], tuple[torch.Tensor, ...]]]:
    """The rivals and our backend; each takes a Drive (lista) or Tensors (sparse_code), and T."""
    if op == "sparse_code":
        return {run.RELEASED: cases.released, run.CLEAN: cases.clean, OURS: functools.partial(run.fused, OURS)}
    return {
        run.RELEASED: lambda t, n_iter: (formulas.released(t.b, t.S, t.theta, n_iter),),
        run.CLEAN: lambda t, n_iter: (formulas.clean(t.b, t.S, t.theta, n_iter),),
        OURS: lambda t, n_iter: (scvae_fast.lista(t.b, t.S, t.theta, n_iter, backend=OURS),),
    }


def threshold(density: float, largest: float) -> float:
    """θ for that density of all iterates; for 0 one that no entry reaches if none of b is over `largest`."""
    if density == 0:
        return 2 * largest
    normal = NormalDist()
    a = normal.inv_cdf(1 - density / 2)
    # E[h_a(g)²] for g ~ N(0, 1), and from it the fixed point s² = 1 + σ² s² E[h_a(g)²].
    second_moment = 2 * ((1 + a * a) * normal.cdf(-a) - a * normal.pdf(a))
    return a / (1 - SIGMA**2 * second_moment) ** 0.5


@functools.lru_cache(maxsize=1)
def _at_any_density(op: str, rows: int, atoms: int) -> Drive | Tensors:
    """The arguments but for the threshold. sparse_code has half as many features as atoms, as SC-VAE."""
    generator = torch.Generator().manual_seed(0)
    S = torch.randn(atoms, atoms, generator=generator) * (SIGMA / atoms**0.5)
    if op == "lista":
        return Drive(torch.randn(rows, atoms, generator=generator), S, torch.zeros(()))
    features = atoms // 2
    W_e = torch.randn(atoms, features, generator=generator) / features**0.5
    D = torch.randn(features, atoms, generator=generator) / atoms**0.5
    return Tensors(torch.randn(rows, features, generator=generator), W_e, S, torch.zeros(()), D, None)


def arguments(case: SweepCase) -> Drive | Tensors:
    """Arguments of a case: the same on every machine."""
    t = _at_any_density(case.op, case.rows, case.atoms)
    largest = float(_drive(t).abs().max()) if case.density == 0 else 0.0
    return t._replace(theta=torch.tensor(threshold(case.density, largest)))


def sampled(t: Drive | Tensors, step: int) -> Drive | Tensors:
    """Every step-th row of the problem."""
    return t._replace(b=t.b[::step]) if isinstance(t, Drive) else t._replace(x=t.x[::step])


def iterates(t: Drive | Tensors, n_iter: int) -> Iterator[torch.Tensor]:
    """z_0 … z_T, each (M, K), one after the other."""
    return formulas.iterates(_drive(t), t.S, t.theta, n_iter)


def _drive(t: Drive | Tensors) -> torch.Tensor:
    return t.b if isinstance(t, Drive) else t.x @ t.W_e.T
