"""Solvers of one lasso problem, ½‖x − Dz‖² + λ‖z‖₁ summed over patches of photographs: seconds to the same objective.

Each contestant gets the fewest iterations that bring the objective within the case's gap of the optimum, (F − F*)/F*;
one that can't get there is named, with the gap that it reached. F* is FISTA's in float64, and the duality gap, which
bounds what is missing, stands beside it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch

import scvae_fast
from benchmarks import formulas, operations, pictures, rivals, timing
from benchmarks.cases import FORWARD, Case, LassoCase
from scvae_fast import dictionaries

MOST_ITERATIONS = 4096
OURS = "coordinate descent, scvae_fast.lasso"
OUR_FISTA, FISTA, ISTA = "FISTA, scvae_fast.lasso", "FISTA, eager", "ISTA, clean eager"
SPAMS_LARS, SPAMS_DESCENT = "SPAMS, LARS", "SPAMS, coordinate descent"
SKLEARN = "scikit-learn, coordinate descent"
_TOLERANCE = 1e-4  # of coordinate descent, relative to ½‖x‖²
_ROUNDING = 1.01  # of the gap, between contestants that sum in another order


class Lasso(NamedTuple):
    """A problem, float32."""

    x: torch.Tensor  # (M, n)
    D: torch.Tensor  # (n, K)
    lmbda: float  # λ
    c: float  # ‖D‖₂²

    @property
    def S(self) -> torch.Tensor:
        """I − DᵀD/c (K, K), formed anew."""
        return torch.eye(self.D.shape[1], dtype=self.D.dtype, device=self.D.device) - self.D.T @ self.D / self.c

    @property
    def b(self) -> torch.Tensor:
        """The drive x D/c (M, K), formed anew."""
        return self.x @ self.D / self.c

    @property
    def theta(self) -> float:
        """The threshold λ/c."""
        return self.lmbda / self.c

    def objective(self, z: torch.Tensor) -> float:
        """F(z), summed over the rows in float64."""
        x, D, z = self.x.double(), self.D.double(), z.double()
        return float(0.5 * (x - z @ D.T).square().sum() + self.lmbda * z.abs().sum())

    def duality_gap(self, z: torch.Tensor) -> float:
        """F(z) less the dual's value at the residual, scaled to be feasible, row by row: F(z) − F* is at most that."""
        x, D, z = self.x.double(), self.D.double(), z.double()
        r = x - z @ D.T
        scale = (self.lmbda / (r @ D).abs().amax(1, keepdim=True).clamp_min(1e-300)).clamp_max(1)
        dual = 0.5 * x.square().sum() - 0.5 * (x - scale * r).square().sum()
        return self.objective(z) - float(dual)


# Takes a number of iterations, gives codes (M, K).
Solver = Callable[[int], torch.Tensor]


def problem(case: LassoCase, device: str) -> Lasso:
    """Patches without their means, of norm √n on average, and a dictionary."""
    size = 64
    per_crop = (size // case.side) ** 2
    grey = pictures.crops(size, 0, -(-case.rows // per_crop), seed=1).mean(1, keepdim=True)
    patches = torch.nn.functional.unfold(grey, case.side, stride=case.side)  # (B, n, patches)
    x = patches.transpose(1, 2).flatten(0, 1)[: case.rows]
    x = x - x.mean(1, keepdim=True)
    n = case.side**2
    x = x * (n**0.5 / x.norm(dim=1).mean())
    drawn = torch.Generator().manual_seed(0)
    K = case.overcomplete * n
    D = dictionaries.dct(n, K) if case.dictionary == "dct" else dictionaries.random_unit(n, K, generator=drawn)
    return Lasso(x.to(device), D.to(device), case.lmbda, float(torch.linalg.matrix_norm(D.double(), ord=2) ** 2))


def fista(p: Lasso, n_iter: int) -> torch.Tensor:
    """FISTA (Beck & Teboulle 2009) with the momentum's restart of O'Donoghue & Candès (2015), in the dtype of p."""
    S, b = p.S, p.b
    z = y = torch.zeros_like(b)
    t = 1.0
    for _ in range(n_iter):
        new = torch.nn.functional.softshrink(torch.addmm(b, y, S), p.theta)
        if float(((y - new) * (new - z)).sum()) > 0:
            t = 1.0
        following = (1 + (1 + 4 * t * t) ** 0.5) / 2
        y = torch.lerp(z, new, 1 + (t - 1) / following)
        z, t = new, following
    return z


def _solved(p: Lasso, n_iter: int) -> torch.Tensor:
    return scvae_fast.lasso(p.x, p.D, p.lmbda, tol=0, max_iter=n_iter, algorithm="fista").codes


def _descended(p: Lasso, n_iter: int) -> torch.Tensor:
    # A row stops at a gap of this size by itself; `fewest` finds a number of sweeps that suffices for all.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return scvae_fast.lasso(p.x, p.D, p.lmbda, tol=_TOLERANCE, max_iter=n_iter, algorithm="cd").codes


def _by_spams(p: Lasso, descent: bool, n_iter: int) -> torch.Tensor:
    # Where the user has installed it (spams-bin, under the GPL): it belongs to no extra.
    import spams  # type: ignore[import-not-found]
    from scipy.sparse import csc_matrix

    x, D = np.asfortranarray(p.x.T.numpy()), np.asfortranarray(p.D.numpy())
    threads = torch.get_num_threads()
    if descent:
        start = csc_matrix((D.shape[1], x.shape[1]), dtype=x.dtype)
        codes = spams.cd(x, D, start, lambda1=p.lmbda, mode=2, itermax=n_iter, tol=_TOLERANCE, numThreads=threads)
    else:
        codes = spams.lasso(x, D, lambda1=p.lmbda, mode=2, numThreads=threads)
    return torch.from_numpy(codes.toarray().T)


def solvers(p: Lasso) -> dict[str, dict[str, Solver]]:
    """The contestants by their method; those of one method do the same arithmetic, the first of them the fastest.

    `scvae_fast.lasso` restarts the momentum of each row by itself, and finds c anew in each call.
    """
    S, theta = p.S, torch.tensor(p.theta, device=p.D.device)
    backends = rivals.takers(Case("lista", FORWARD), p.x.device)

    def ours(backend: str, n_iter: int) -> torch.Tensor:
        return scvae_fast.lista(p.b, S, theta, n_iter, backend=backend)

    found: dict[str, dict[str, Solver]] = {
        OUR_FISTA: {OUR_FISTA: functools.partial(_solved, p)},
        FISTA: {FISTA: functools.partial(fista, p)},
        "ISTA": {f"ISTA, {name}": functools.partial(ours, name) for name in backends},
    }
    found["ISTA"][ISTA] = lambda n_iter: formulas.clean(p.b, S, p.theta, n_iter)
    if p.x.device.type == "cpu":
        found[OURS] = {OURS: functools.partial(_descended, p)}
    if p.x.device.type == "cpu" and find_spec("spams"):
        for name, descent in ((SPAMS_LARS, False), (SPAMS_DESCENT, True)):
            found[name] = {name: functools.partial(_by_spams, p, descent)}
    if p.x.device.type == "cpu" and find_spec("sklearn"):
        found[SKLEARN] = {SKLEARN: functools.partial(_coordinate_descent, p)}
    return found


def _coordinate_descent(p: Lasso, n_iter: int) -> torch.Tensor:
    # Of the extra "train", as are the photographs.
    import joblib  # type: ignore[import-untyped]
    from sklearn.decomposition import sparse_encode
    from sklearn.exceptions import ConvergenceWarning

    x, atoms = p.x.numpy(), p.D.T.contiguous().numpy()
    threads = torch.get_num_threads()
    with joblib.parallel_config(backend="threading"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped where the objective is good enough
        codes = sparse_encode(x, atoms, algorithm="lasso_cd", alpha=p.lmbda, max_iter=n_iter, n_jobs=threads)
    return torch.from_numpy(codes)


def optimum(p: Lasso) -> tuple[float, float]:
    """F*, and the duality gap there relative to it."""
    exact = p._replace(x=p.x.double(), D=p.D.double())
    z = fista(exact, MOST_ITERATIONS // 4)
    best = p.objective(z)
    return best, p.duality_gap(z) / best


def fewest(solver: Solver, gap_of: Callable[[torch.Tensor], float], gap: float) -> tuple[int, float]:
    """The number of iterations that brings the gap under what is asked, to within a sixteenth; and the gap there.

    Where no number up to MOST_ITERATIONS does, that number and its gap.
    """
    n, reached = 1, gap_of(solver(1))
    while reached > gap and n < MOST_ITERATIONS:
        n *= 2
        reached = gap_of(solver(n))
    step = n // 4
    low, high = n // 2, n
    while step >= max(1, high // 16) and reached <= gap:
        middle = (low + high) // 2
        found = gap_of(solver(middle))
        if found <= gap:
            high, reached = middle, found
        else:
            low = middle
        step //= 2
    return high, reached


def measure(case: LassoCase, device: str, seconds: float) -> dict[str, Any]:
    """Iterations that each contestant takes, the gap that it reaches with them, and samples in seconds."""
    p = problem(case, device)
    best, certified = optimum(p)

    def gap_of(z: torch.Tensor) -> float:
        return p.objective(z) / best - 1

    efforts: dict[str, dict[str, Any]] = {}
    able = {}
    for method in solvers(p).values():
        n_iter, _ = fewest(next(iter(method.values())), gap_of, case.gap)
        for name, solver in method.items():
            efforts[name] = {"iterations": n_iter, "gap": gap_of(solver(n_iter))}
            if efforts[name]["gap"] <= case.gap * _ROUNDING:
                able[name] = functools.partial(solver, n_iter)
    samples = timing.until(seconds, able, operations.LEAST_ROUNDS, operations.MOST_ROUNDS, device=device)
    return {
        "chosen": OURS if OURS in efforts else OUR_FISTA,
        "pictures": pictures.kind(),
        "optimum": best,
        "duality gap": certified,
        "density": formulas.density(fista(p, efforts[FISTA]["iterations"])),
        "efforts": efforts,
        "samples": samples,
    }
