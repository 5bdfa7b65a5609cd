"""The lasso over a dictionary, ½‖x − Dz‖² + α‖z‖₁ for each row x, solved by iterations of `lista`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scvae_fast.ops.backends.reference import shrink
from scvae_fast.ops.operations import LISTA

ALGORITHMS = ("fista", "ista")
_LOOK_EVERY = 16  # iterations between two looks at the duality gap, which costs about as much as one of them


class Lasso(NamedTuple):
    """Problems over one dictionary: α is the field's λ, c = ‖D‖₂²."""

    D: Tensor  # (n, K)
    alpha: float
    c: float

    @classmethod
    def over(cls, D: Tensor, alpha: float) -> Lasso:
        """That of D (n, K), which is not zero."""
        return cls(D, alpha, float(torch.linalg.matrix_norm(D.double(), ord=2) ** 2))

    def objective(self, x: Tensor, z: Tensor) -> Tensor:  # (M, n), (M, K) -> (M,)
        """½‖x − Dz‖² + α‖z‖₁ of each row, in float64."""
        return 0.5 * (x - z @ self.D.T).double().square().sum(1) + self.alpha * z.double().abs().sum(1)

    def relative_gap(self, x: Tensor, z: Tensor) -> Tensor:  # (M, n), (M, K) -> (M,)
        """Duality gap of each row as a share of ½‖x‖²: an upper bound of what its objective exceeds the minimum by.

        The dual point is the residual r, scaled so that ‖Dᵀr‖_∞ ≤ α. Each row is divided by its largest entry first, so
        that no square underflows or overflows. A row of zeros has the gap 0.
        """
        size = x.abs().amax(1, keepdim=True)
        size = torch.where(size > 0, size, 1)
        x, z, alpha = x / size, z / size, self.alpha / size
        r = x - z @ self.D.T
        tiny = torch.finfo(x.dtype).tiny
        largest = (r @ self.D).abs().amax(1, keepdim=True).clamp_min(tiny)
        energy = x.square().sum(1)
        dual = 0.5 * (energy - (x - (alpha / largest).clamp_max(1) * r).square().sum(1))
        primal = 0.5 * r.square().sum(1) + (alpha * z.abs()).sum(1)
        return (primal - dual) / (0.5 * energy).clamp_min(tiny)


def unit_of(alpha: float) -> float:
    """A power of two near α. Dividing data and α by it and multiplying the codes rounds nothing."""
    return math.ldexp(1.0, math.frexp(alpha)[1] - 1)


class _Iterate(NamedTuple):
    z: Tensor  # (M, K)
    y: Tensor  # (M, K), where the momentum leads
    t: Tensor  # (M, 1), the momentum's counter

    def at(self, rows: Tensor) -> _Iterate:
        return _Iterate(*(each[rows] for each in self))


# Takes b, S, θ, where it is, and a number of iterations.
_Advance = Callable[[Tensor, Tensor, Tensor, _Iterate, int], _Iterate]


def solve(problem: Lasso, x: Tensor, *, algorithm: str, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    """Codes z (M, K) of x (M, n), and the relative duality gap (M,) of each; see `unfinished`.

    From z_0 = h_θ(b), each row goes on until its duality gap is at most tol · ½‖x‖², its objective at z = 0. Neither
    the other rows nor the unit of x and α change its codes. "ista" is `lista` with W_e = Dᵀ/c, S = I − DᵀD/c and
    θ = α/c; "fista" is FISTA (Beck & Teboulle 2009) with the restarts of O'Donoghue & Candès (2015).

    Args:
        problem: in the dtype and on the device of x.
        x: float32 or float64.
        algorithm: one of `ALGORITHMS`.
        max_iter: T ≥ 0, the iterations of a row at most.
        tol: 0 makes exactly max_iter iterations.
    """
    unit = unit_of(problem.alpha)
    codes, gap = _solve(problem._replace(alpha=problem.alpha / unit), x / unit, algorithm, max_iter, tol)
    return codes * unit, gap


def _solve(problem: Lasso, x: Tensor, algorithm: str, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    advance: _Advance = _ista if algorithm == "ista" else _fista
    D, c = problem.D, problem.c
    S = torch.eye(D.shape[1], dtype=D.dtype, device=D.device) - D.T @ D / c
    b, theta = x @ D / c, problem.alpha / c
    threshold = torch.full((), theta, dtype=b.dtype, device=b.device)
    start = shrink(b, threshold)
    iterate = _Iterate(start, start, torch.ones_like(b[:, :1]))
    if tol == 0:
        codes = advance(b, S, threshold, iterate, max_iter).z
        return codes, problem.relative_gap(x, codes)
    codes, gaps = torch.empty_like(b), torch.empty_like(b[:, 0])
    rows, done = torch.arange(len(x), device=x.device), 0
    while True:
        codes[rows], gaps[rows] = iterate.z, problem.relative_gap(x, iterate.z)
        going = unfinished(gaps[rows], tol)
        rows, x, b, iterate = rows[going], x[going], b[going], iterate.at(going)
        if done == max_iter or not len(rows):
            return codes, gaps
        steps = min(_LOOK_EVERY, max_iter - done)
        iterate = advance(b, S, threshold, iterate, steps)
        done += steps


def unfinished(gap: Tensor, tol: float) -> Tensor:  # (M,) -> (M,) bool
    """Which rows have not reached the tolerance; a gap that is NaN has not."""
    return ~(gap <= tol)


def _ista(b: Tensor, S: Tensor, theta: Tensor, at: _Iterate, n_iter: int) -> _Iterate:
    return at._replace(z=LISTA(b, S, theta, None, at.z, n_iter, False, None)[0])


def _fista(b: Tensor, S: Tensor, theta: Tensor, at: _Iterate, n_iter: int) -> _Iterate:
    z, y, t = at
    for _ in range(n_iter):
        new, _ = LISTA(b, S, theta, None, y, 1, False, None)
        uphill = ((y - new) * (new - z)).sum(1, keepdim=True) > 0
        t = torch.where(uphill, 1.0, t)
        following = (1 + (1 + 4 * t * t).sqrt()) / 2
        z, y, t = new, new + (t - 1) / following * (new - z), following
    return _Iterate(z, y, t)
