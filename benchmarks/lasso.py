"""Solvers of one lasso problem, ½‖x − Dz‖² + λ‖z‖₁ summed over the rows: seconds to the same objective.

Each contestant gets the fewest iterations that bring the objective within the case's gap of the optimum, (F − F*)/F*.
One that can't get there is named, with the gap that it reached. `scvae_fast.lasso` continues until every row is
certified. F* is found in float64, and recorded with the duality gap, which bounds its error. A contestant whose call
takes longer than `ONCE` seconds is timed once; one that would take longer than `MOST_SECONDS` is left out.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping
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
ITSELF = (OURS, SPAMS_LARS)
_TOLERANCE = 1e-4  # of coordinate descent, relative to ½‖x‖²
ONCE, MOST_SECONDS = 1.0, 15.0  # of a call
_ROWS_OF_SEARCH = 512  # on which the number of iterations is searched
_LEAST_SECONDS = 2e-3  # of a sample
_SETTLING = 0.1  # seconds that a thread of OpenBLAS waits in a loop for more work
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
    """Rows and a dictionary: patches without their means, of norm √n on average, or normal numbers."""
    drawn = torch.Generator().manual_seed(0)
    n = case.side**2
    K = case.overcomplete * n
    D = dictionaries.dct(n, K) if case.dictionary == "dct" else dictionaries.random_unit(n, K, generator=drawn)
    x = patches(case.rows, case.side) if case.data == "patches" else torch.randn(case.rows, n, generator=drawn)
    return Lasso(x.to(device), D.to(device), case.lmbda, float(torch.linalg.matrix_norm(D.double(), ord=2) ** 2))


def patches(rows: int, side: int) -> torch.Tensor:  # -> (rows, side²)
    """Grey patches of the pictures without their means, of norm `side` on average."""
    size = 64
    per_crop = (size // side) ** 2
    grey = pictures.crops(size, 0, -(-rows // per_crop), seed=1).mean(1, keepdim=True)
    of_crops = torch.nn.functional.unfold(grey, side, stride=side)  # (B, n, patches)
    x = of_crops.transpose(1, 2).flatten(0, 1)[:rows]
    x = x - x.mean(1, keepdim=True)
    return x * (side / x.norm(dim=1).mean())


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
    return scvae_fast.lasso(p.x, p.D, p.lmbda, tol=_TOLERANCE, algorithm="cd").codes


def _by_spams(p: Lasso, descent: bool, n_iter: int) -> torch.Tensor:
    # Where the user has installed it (spams-bin, under the GPL): it belongs to no extra. Its codes are sparse; they are
    # made dense, as those of the others are.
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


def solvers(p: Lasso, loops: bool = True) -> dict[str, dict[str, Solver]]:
    """The contestants by their method; those of one method do the same arithmetic, the first of them the fastest.

    Those in `ITSELF` decide on their own when to stop, and ignore the number of iterations. `loops` is whether ISTA and
    eager FISTA take part.

    `scvae_fast.lasso` restarts the momentum of each row separately, and computes c anew in each call.
    """
    S, theta = p.S, torch.tensor(p.theta, device=p.D.device)
    backends = rivals.takers(Case("lista", FORWARD), p.x.device)

    def ours(backend: str, n_iter: int) -> torch.Tensor:
        return scvae_fast.lista(p.b, S, theta, n_iter, backend=backend)

    found: dict[str, dict[str, Solver]] = {OUR_FISTA: {OUR_FISTA: functools.partial(_solved, p)}}
    if loops:
        found[FISTA] = {FISTA: functools.partial(fista, p)}
        found["ISTA"] = {f"ISTA, {name}": functools.partial(ours, name) for name in backends}
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
    if p.x.device.type == "cpu":
        z = scvae_fast.lasso(exact.x, exact.D, p.lmbda, tol=1e-9, max_iter=100_000, algorithm="cd").codes
    else:
        z = fista(exact, MOST_ITERATIONS // 4)
    best = p.objective(z)
    return best, p.duality_gap(z) / best


def fewest(solver: Solver, gap_of: Callable[[torch.Tensor], float], gap: float) -> tuple[int, float]:
    """The fewest iterations that bring the gap down to `gap`, to within a sixteenth; and the gap that they reach.

    If no number up to MOST_ITERATIONS does, that number and its gap.
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


def samples(
    able: Mapping[str, Callable[[], object]], took: Mapping[str, float], seconds: float, device: str = "cpu"
) -> list[dict[str, float]]:
    """Rounds of the contestants; the first also has the only call of those that take longer than `ONCE`."""
    quick = {name: run for name, run in able.items() if took[name] <= ONCE}
    calls = math.ceil(_LEAST_SECONDS / max(min((took[name] for name in quick), default=1.0), 1e-9))
    settling = {name: _SETTLING for name in quick if took[name] < _SETTLING}
    rounds = (operations.LEAST_ROUNDS, operations.MOST_ROUNDS)
    found = timing.until(seconds, quick, *rounds, calls, device, settling)
    found[0].update({name: took[name] for name in able if name not in quick})
    return found


class Race:
    """One case's contestants, one after the other.

    Numbers of iterations are searched on the first rows, and raised where they are too few for all rows.
    """

    def __init__(self, case: LassoCase, device: str) -> None:
        """Finds the optimum."""
        self._case, self._device = case, device
        self.whole = problem(case, device)
        self._part = self.whole._replace(x=self.whole.x[:_ROWS_OF_SEARCH])
        self.best, self.certified = optimum(self.whole)
        self._best_of_part = optimum(self._part)[0]
        self.efforts: dict[str, dict[str, Any]] = {}
        self.left_out: dict[str, str] = {}
        self.able: dict[str, Callable[[], torch.Tensor]] = {}
        self.took: dict[str, float] = {}

    def run(self) -> None:
        """Finds the iterations that each contestant needs."""
        of_part = solvers(self._part, self._case.loops)
        for key, method in solvers(self.whole, self._case.loops).items():
            first = next(iter(method))
            n_iter = None if first in ITSELF else fewest(of_part[key][first], self._gap_of_part, self._case.gap)[0]
            for name, solver in method.items():
                seconds = timing.timed(functools.partial(of_part[key][name], n_iter or 0), self._device)[1]
                expected = seconds * len(self.whole.x) / len(self._part.x)
                if expected > MOST_SECONDS:
                    self.left_out[name] = f"a call would take {expected:.0f} s, more than {MOST_SECONDS:g} s"
                else:
                    self._enter(name, solver, n_iter)

    def _enter(self, name: str, solver: Solver, n_iter: int | None) -> None:
        while True:
            z, seconds = timing.timed(functools.partial(solver, n_iter or 0), self._device)
            gap = self.whole.objective(z) / self.best - 1
            reached = gap <= self._case.gap * _ROUNDING
            if reached or n_iter is None or n_iter >= MOST_ITERATIONS:
                break
            n_iter += max(1, n_iter // 16)
        self.efforts[name] = {"iterations": n_iter, "gap": gap, "density": formulas.density(z)}
        if reached:
            self.able[name], self.took[name] = functools.partial(solver, n_iter or 0), seconds

    def _gap_of_part(self, z: torch.Tensor) -> float:
        return self._part.objective(z) / self._best_of_part - 1


def measure(case: LassoCase, device: str, seconds: float) -> dict[str, Any]:
    """Iterations that each contestant takes, the gap that it reaches with them, and samples in seconds."""
    race = Race(case, device)
    race.run()
    chosen = OURS if "cpu" in device else OUR_FISTA
    return {
        "chosen": chosen,
        "pictures": pictures.kind(),
        "optimum": race.best,
        "duality gap": race.certified,
        "density": race.efforts.get(chosen, {}).get("density"),
        "efforts": race.efforts,
        "left out": race.left_out,
        "samples": samples(race.able, race.took, seconds, device),
    }
