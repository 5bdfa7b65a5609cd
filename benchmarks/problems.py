"""The tensors of a case: x ~ N(0, 1) coded over a dictionary, with the threshold that gives the requested density."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from benchmarks import formulas
from benchmarks.cases import Case
from scvae_fast import dictionaries

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
MARGIN = 1e-5  # distance from the threshold that rounding of a float32 drive can't bridge
# Limit on the multiply-adds of each iteration in the search for a threshold.
_SEARCHED = 2**31


class Problem(NamedTuple):
    """Arguments of sparse_code; `c` is γ for the released code's start."""

    x: torch.Tensor  # (M, n)
    W_e: torch.Tensor  # (K, n)
    S: torch.Tensor  # (K, K)
    theta: torch.Tensor  # ()
    D: torch.Tensor  # (n, K)
    c: torch.Tensor  # ()
    official: bool
    n_iter: int

    @property
    def gain(self) -> torch.Tensor | None:
        """γ; None stands for 1."""
        return self.c if self.official else None

    @property
    def b(self) -> torch.Tensor:
        """The drive x W_eᵀ (M, K)."""
        return self.x @ self.W_e.T

    def to(self, *, device: str | None = None, dtype: torch.dtype | None = None) -> Problem:
        """The same problem on another device, or in another dtype."""
        return Problem._make(v.to(device=device, dtype=dtype) if isinstance(v, torch.Tensor) else v for v in self)

    def sampled(self, most: int) -> tuple[Problem, int]:
        """Every step-th row, about `most` of them at most, and the step."""
        step = max(1, len(self.x) // most)
        return self._replace(x=self.x[::step].contiguous()), step


def problem(case: Case, device: str = "cpu") -> Problem:
    """Tensors of a case, rounded to its dtype; the same on every machine except for the device's random numbers."""
    D, W_e, S, c = _weights(case.dictionary, case.atoms)
    theta = _threshold(case.dictionary, case.atoms, case.n_iter, case.density, case.start)
    drawn = torch.Generator(device).manual_seed(0)
    x = torch.randn(case.rows, case.features, generator=drawn, device=device)
    held = Problem(x, W_e, S, theta, D, c, case.start == "official", case.n_iter)
    return held.to(device=device, dtype=DTYPES[case.dtype])


def iterates(p: Problem) -> Iterator[torch.Tensor]:
    """Yields z_0 … z_T, each (M, K)."""
    return formulas.iterates(p.b, p.S, p.theta, p.n_iter, p.gain)


def near_a_tie(p: Problem) -> torch.Tensor:
    """(M,): whether any drive of a row is within MARGIN of the threshold; p is in float64.

    Rounding could switch such a code on or off, which would outweigh all other rounding errors of a gradient.
    """
    b = p.b
    near = torch.zeros(len(b), dtype=torch.bool, device=b.device)
    start = b if p.gain is None else b * p.gain
    for u in itertools.chain([start], (b + z @ p.S.T for z in itertools.islice(iterates(p), p.n_iter))):
        near |= ((u.abs() - p.theta).abs() < MARGIN).any(dim=1)
    return near


@functools.lru_cache(maxsize=2)
def _weights(dictionary: str, atoms: int) -> tuple[torch.Tensor, ...]:
    """D, W_e, S, c."""
    features = atoms // 2
    if dictionary == "dct":
        D = dictionaries.dct(features, atoms)
    else:
        D = dictionaries.random_unit(features, atoms, generator=torch.Generator().manual_seed(0))
    # In float64, like the layers do it: in float32 rounding would differ between machines by more than results may.
    c = (torch.linalg.matrix_norm(D.double(), ord=2) ** 2).to(D.dtype)
    return D, D.T / c, torch.eye(atoms) - D.T @ D / c, c


@functools.cache
def _threshold(dictionary: str, atoms: int, n_iter: int, density: float, start: str) -> torch.Tensor:
    """The θ that gives z_T the density, by bisection on other vectors than the measured ones."""
    if density >= 1:
        return torch.zeros(())
    D, W_e, S, c = _weights(dictionary, atoms)
    rows = min(256, max(16, _SEARCHED // ((n_iter + 1) * atoms**2)))
    x = torch.randn(rows, atoms // 2, generator=torch.Generator().manual_seed(1))
    sample = Problem(x, W_e, S, torch.zeros(()), D, c, start == "official", n_iter)

    def codes(theta: torch.Tensor) -> torch.Tensor:
        *_, z = iterates(sample._replace(theta=theta))
        return z

    return threshold_of(density, codes, (sample.b * (c if sample.official else 1)).abs().max(), 24)


def threshold_of(
    density: float, codes: Callable[[torch.Tensor], torch.Tensor], high: torch.Tensor, rounds: int
) -> torch.Tensor:
    """The θ (), between 0 and `high`, with which codes have the density, by a number of rounds of bisection."""
    low = torch.zeros(())
    for _ in range(rounds):
        theta = (low + high) / 2
        low, high = (theta, high) if formulas.density(codes(theta)) > density else (low, theta)
    return (low + high) / 2
