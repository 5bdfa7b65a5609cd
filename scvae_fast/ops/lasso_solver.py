"""The lasso over a dictionary, ½‖x − Dz‖² + Σ α_k|z_k| for each row x: the problem, its certificate and its solvers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scvae_fast.ops import native
from scvae_fast.ops.backends.reference import shrink
from scvae_fast.ops.operations import LISTA

ALGORITHMS = ("cd", "fista", "ista")
_LOOK_EVERY = 16  # iterations of FISTA between two checks of the duality gap; a check costs about one iteration
# Largest Gram matrix, in bytes, that coordinate descent forms. The choice does not depend on the number of rows: codes
# with and without the Gram matrix differ within the tolerance, and a row's codes must not depend on other rows.
_MOST_GRAM = 64 << 20
_NAMED = 8  # largest number of rows that a warning names


class Lasso(NamedTuple):
    """Lasso problems over one dictionary. α is usually called λ; c = ‖D‖₂² is the step constant of FISTA and ISTA."""

    D: Tensor  # (n, K)
    alpha: float | Tensor  # ≥ 0: one value, (K,), (M, 1) or (M, K)
    c: float = math.nan
    positive: bool = False

    @classmethod
    def over(cls, D: Tensor, alpha: float | Tensor, positive: bool = False) -> Lasso:
        """The problem over D (n, K), not zero, with its c."""
        return cls(D, alpha, float(torch.linalg.matrix_norm(D.double(), ord=2) ** 2), positive)

    def weights(self, dtype: torch.dtype) -> Tensor:
        """α as a tensor."""
        return torch.as_tensor(self.alpha, dtype=dtype, device=self.D.device)

    def objective(self, x: Tensor, z: Tensor) -> Tensor:  # (M, n), (M, K) -> (M,)
        """½‖x − Dz‖² + Σ α_k|z_k| of each row, in float64."""
        left = (x - z @ self.D.T).double()
        return 0.5 * left.square().sum(1) + (self.weights(torch.float64) * z.double().abs()).sum(1)

    def relative_gap(self, x: Tensor, z: Tensor) -> Tensor:  # (M, n), (M, K) -> (M,)
        """Duality gap of each row as a share of ½‖x‖², in float64: it bounds the objective minus its minimum.

        With r = x − Dz, let y be r minus its projection onto the span of the atoms with α_k = 0 (for non-negative
        codes, only those with z_k > 0, or else d_kᵀy > 0), and s ≤ 1 the largest factor with s|d_kᵀy| ≤ α_k for the
        other atoms (for non-negative codes, s d_kᵀy ≤ α_k). Then s y is dual feasible, and the gap is
        ½‖r − y‖² + ½(1 − s)²‖y‖² + Σ (α_k|z_k| − s z_k d_kᵀy). No term is negative, so nothing cancels. Each row is
        first divided by a power of two near its largest entry. A zero row with zero codes has gap 0.
        """
        D, x, z, alpha = self.D.double(), x.double(), z.double(), self.weights(torch.float64)
        unit, size = _power_of_two(x.abs().amax(1, keepdim=True)), _power_of_two(D.abs().amax())
        D, x, z, alpha = D / size, x / unit, z / unit * size, alpha / unit / size
        r = x - z @ D.T
        y, correlations = self._feasible(r, D, z, (alpha == 0).expand_as(z))
        reached = correlations if self.positive else correlations.abs()
        bound = torch.where((alpha > 0) & (reached > alpha), alpha / reached, 1.0)
        s = bound.amin(1, keepdim=True)
        slack = torch.where(alpha > 0, alpha * z.abs() - s * z * correlations, 0.0)
        squares = (r - y).square().sum(1) + ((1 - s) * y).square().sum(1)
        energy = 0.5 * x.square().sum(1)
        gap = 0.5 * squares + slack.sum(1).clamp_min(0)
        return torch.where(energy > 0, gap / energy, torch.where(gap > 0, math.inf, gap))

    def _feasible(self, r: Tensor, D: Tensor, z: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """The y of `relative_gap`, and its correlations (M, K) with the atoms; `free` (M, K) marks atoms with α = 0."""
        taken = free & (z > 0) if self.positive else free
        while True:
            y = _without_span(r, D, taken)
            correlations = y @ D
            if not self.positive:
                return y, correlations
            rounding = D.shape[0] * torch.finfo(D.dtype).eps * y.norm(dim=1, keepdim=True) * D.norm(dim=0)
            more = free & ~taken & (correlations > rounding)
            if not bool(more.any()):
                return y, correlations
            taken = taken | more


def _power_of_two(size: Tensor) -> Tensor:
    """The largest power of two that is at most size, for sizes > 0; 1 for 0. Dividing by it is exact."""
    _, exponent = torch.frexp(torch.where(size > 0, size, 1.0).double())
    return torch.ldexp(torch.ones_like(size, dtype=torch.float64), exponent - 1)


def _without_span(r: Tensor, D: Tensor, free: Tensor) -> Tensor:
    """Rows r (M, n) minus their projections onto the span of the atoms marked in `free` (M, K)."""
    if not bool(free.any()):
        return r
    patterns, which = torch.unique(free, dim=0, return_inverse=True)
    left = r.clone()
    for i, pattern in enumerate(patterns):
        if bool(pattern.any()):
            U, sizes, _ = torch.linalg.svd(D[:, pattern], full_matrices=False)
            U = U[:, sizes > sizes[0] * max(D.shape) * torch.finfo(D.dtype).eps]
            rows = which == i
            left[rows] = r[rows] - r[rows] @ U @ U.T
    return left


def unit_of(alpha: float) -> float:
    """A power of two near α. Dividing data and α by it, and multiplying the codes by it, is exact."""
    return math.ldexp(1.0, math.frexp(alpha)[1] - 1)


def choose(algorithm: str | None, problem: Lasso) -> str:
    """The requested algorithm; by default, coordinate descent if it supports the problem, otherwise FISTA.

    Raises:
        ValueError: "cd" was requested and doesn't support the problem.
    """
    on_cpu = problem.D.device.type == "cpu" and native.missing is None
    takes = on_cpu and bool((problem.weights(torch.float64) > 0).all())
    if algorithm == "cd" and not takes:
        raise ValueError('lasso: algorithm "cd" needs tensors on a CPU, the compiled module, and every alpha > 0')
    return algorithm or ("cd" if takes else "fista")


def is_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless all numbers are finite."""
    # The sum is quick. If it is finite, so are all numbers; if not, it may have overflowed, so look at each number.
    if not (math.isfinite(tensor.sum()) or bool(torch.isfinite(tensor).all())):
        raise ValueError(f"lasso: {name} must be finite, got NaN or infinity")


def is_dictionary(D: Tensor) -> None:
    """Raise ValueError unless all numbers are finite and no atom is zero."""
    is_finite("D", D)
    present = (D != 0).any(0)
    if not bool(present.all()):
        raise ValueError(f"lasso: D must have no atom that is zero, got column {int(present.int().argmin())}")


def solve(
    problem: Lasso, x: Tensor, *, algorithm: str | None, max_iter: int, tol: float, z0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Codes z (M, K) of x (M, n), and the relative duality gap (M,) of each row, in float64; see `unfinished`.

    Each row is iterated until its duality gap is at most tol · ½‖x‖², where ½‖x‖² is its objective at z = 0. Its codes
    depend neither on other rows nor on the unit of x and α. "ista" is `lista` with W_e = Dᵀ/c, S = I − DᵀD/c and
    θ = α/c; "fista" is FISTA (Beck & Teboulle 2009) with the restarts of O'Donoghue & Candès (2015); "cd" is the
    coordinate descent of csrc/cpu/lasso.h. Unless codes must be non-negative, a row with only zeros in α gets the
    least-squares codes of least norm.

    Args:
        problem: in x's dtype and on x's device; c may be missing.
        x: float32 or float64, finite.
        algorithm: one of `ALGORITHMS`; None chooses.
        max_iter: T ≥ 0, largest number of iterations per row; for "cd", of sweeps over its working set.
        tol: with 0, FISTA and ISTA make exactly max_iter iterations, and "cd" continues until rounding stops it.
        z0: (M, K) codes to start from; None stands for h_θ(b), or for 0 with "cd".

    Raises:
        ValueError: D is not finite or has a zero atom, or "cd" was requested and doesn't support the problem.
    """
    if not x.numel():
        is_dictionary(problem.D)
        return x.new_zeros(len(x), problem.D.shape[1]), x.new_zeros(len(x), dtype=torch.float64)
    algorithm = choose(algorithm, problem)
    if z0 is not None:
        z0 = torch.where(x.any(1, keepdim=True), z0.clamp_min(0) if problem.positive else z0, 0.0)
    if algorithm == "cd":
        return _descend(problem, x, z0, max_iter, tol)
    is_dictionary(problem.D)
    if math.isnan(problem.c):
        problem = Lasso.over(problem.D, problem.alpha, problem.positive)
    return _iterate(problem, x, z0, algorithm, max_iter, tol)


def unfinished(gap: Tensor, tol: float) -> Tensor:  # (M,) -> (M,) bool
    """Whether each row has missed the tolerance; a row with a gap of NaN has."""
    return ~(gap <= tol)


def warn_of_unfinished(gap: Tensor, tol: float, max_iter: int) -> None:
    """Warn once about the rows that missed the tolerance: their number and the first indices; never if tol is 0."""
    rows = unfinished(gap, tol).nonzero().flatten() if tol > 0 else gap[:0]
    if len(rows):
        named = ", ".join(str(int(row)) for row in rows[:_NAMED]) + (", …" if len(rows) > _NAMED else "")
        warnings.warn(
            f"lasso: {len(rows)} of {len(gap)} rows did not reach a duality gap of {tol:g} times ½‖x‖² in {max_iter} "
            f"iterations, rows {named}: raise max_iter or tol",
            RuntimeWarning,
            stacklevel=2,
        )


# Coordinate descent


def _descend(problem: Lasso, x: Tensor, z0: Tensor | None, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    (n, K), M = problem.D.shape, len(x)
    alpha = problem.weights(x.dtype)
    alpha = alpha.expand(alpha.shape[0] if alpha.dim() == 2 else 1, K).contiguous()
    x, D, start = x.contiguous(), problem.D.contiguous(), None if z0 is None else z0.contiguous()
    codes, gap = x.new_empty(M, K), x.new_empty(M, dtype=torch.float64)
    valid = native.module.lasso(
        x.dtype is torch.float64,
        (M, K, n),
        x.data_ptr(),
        D.data_ptr(),
        K**2 * x.element_size() <= _MOST_GRAM,
        (alpha.data_ptr(), len(alpha) > 1),
        native.address(start),
        problem.positive,
        tol,
        max_iter,
        codes.data_ptr(),
        gap.data_ptr(),
        native.threads(),
    )
    if not valid:
        is_dictionary(problem.D)
        raise AssertionError("lasso: D was refused, and nothing is wrong with it")
    return codes, gap


# FISTA and ISTA


class _Iterate(NamedTuple):
    z: Tensor  # (M, K)
    y: Tensor  # (M, K), z extrapolated by the momentum
    t: Tensor  # (M, 1), FISTA's momentum parameter, reset to 1 by a restart
    b: Tensor  # (M, K), the drive xD/c
    theta: Tensor  # α/c: (), (K,), or (M, 1) or (M, K)

    def at(self, rows: Tensor) -> _Iterate:
        return _Iterate(*(each[rows] if each.dim() == 2 else each for each in self))


# Arguments: S, whether codes are non-negative, the iterate, and the number of iterations.
_Advance = Callable[[Tensor, bool, _Iterate, int], _Iterate]


def _iterate(
    problem: Lasso, x: Tensor, z0: Tensor | None, algorithm: str, max_iter: int, tol: float
) -> tuple[Tensor, Tensor]:
    """Solve by FISTA or ISTA, in units in which α (its largest value, or that of each row) and D are near 1."""
    alpha = problem.weights(torch.float64)
    largest = alpha.amax(1, keepdim=True) if alpha.dim() == 2 else alpha.amax()
    size = _power_of_two(problem.D.abs().amax())
    unit = _power_of_two(torch.where(largest > 0, largest / size.square(), x.double().abs().amax() / size))
    scaled = Lasso(
        problem.D / size.to(x.dtype), alpha / unit / size.square(), problem.c / float(size) ** 2, problem.positive
    )
    into, back = (unit * size).to(x.dtype), unit.to(x.dtype)
    advance: _Advance = _ista if algorithm == "ista" else _fista
    codes, gaps = _codes(scaled, x / into, None if z0 is None else z0 / back, advance, max_iter, tol)
    return codes * back, gaps


def _codes(
    problem: Lasso, x: Tensor, z0: Tensor | None, advance: _Advance, max_iter: int, tol: float
) -> tuple[Tensor, Tensor]:
    D, c = problem.D, problem.c
    S = torch.eye(D.shape[1], dtype=D.dtype, device=D.device) - D.T @ D / c
    b, theta = x @ D / c, (problem.weights(torch.float64) / c).to(x.dtype)
    start = _least_squares(problem, x, shrink(b, theta, problem.positive) if z0 is None else z0)
    iterate = _Iterate(start, start, torch.ones_like(b[:, :1]), b, theta)
    if tol == 0:
        codes = advance(S, problem.positive, iterate, max_iter).z
        return codes, problem.relative_gap(x, codes)
    codes, gaps = torch.empty_like(b), b.new_empty(len(b), dtype=torch.float64)
    rows, left, done = torch.arange(len(x), device=x.device), problem, 0
    while True:
        codes[rows], gaps[rows] = iterate.z, left.relative_gap(x, iterate.z)
        going = unfinished(gaps[rows], tol)
        rows, x, iterate = rows[going], x[going], iterate.at(going)
        if isinstance(left.alpha, Tensor) and left.alpha.dim() == 2:
            left = left._replace(alpha=left.alpha[going])
        if done == max_iter or not len(rows):
            return codes, gaps
        steps = min(_LOOK_EVERY, max_iter - done)
        iterate = advance(S, problem.positive, iterate, steps)
        done += steps


def _least_squares(problem: Lasso, x: Tensor, z: Tensor) -> Tensor:
    """The codes z (M, K), but those of least norm in rows of α = 0, unless codes must be non-negative."""
    alpha = problem.weights(x.dtype)
    rows = (alpha == 0).all(-1).expand(len(x))
    if problem.positive or not bool(rows.any()):
        return z
    pseudo_inverse = torch.linalg.pinv(problem.D.double())
    return torch.where(rows[:, None], (x.double() @ pseudo_inverse.T).to(z.dtype), z)


def _step(S: Tensor, positive: bool, at: _Iterate, z: Tensor, n_iter: int) -> Tensor:
    """Iterations of ISTA from z; in plain PyTorch if θ has rows, which the operation doesn't take."""
    if at.theta.dim() < 2:
        return LISTA(at.b, S, at.theta, None, z, n_iter, positive, None)[0]
    for _ in range(n_iter):
        z = shrink(torch.addmm(at.b, z, S), at.theta, positive)
    return z


def _ista(S: Tensor, positive: bool, at: _Iterate, n_iter: int) -> _Iterate:
    return at._replace(z=_step(S, positive, at, at.z, n_iter))


def _fista(S: Tensor, positive: bool, at: _Iterate, n_iter: int) -> _Iterate:
    z, y, t = at.z, at.y, at.t
    for _ in range(n_iter):
        new = _step(S, positive, at, y, 1)
        uphill = ((y - new) * (new - z)).sum(1, keepdim=True) > 0
        t = torch.where(uphill, 1.0, t)
        following = (1 + (1 + 4 * t * t).sqrt()) / 2
        z, y, t = new, new + (t - 1) / following * (new - z), following
    return at._replace(z=z, y=y, t=t)
