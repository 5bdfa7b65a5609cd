"""Dictionaries learned from data, in mini-batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.validation import validate_data

from scvae_fast._devices import find_device
from scvae_fast.estimators._base import FLOATS, LassoTransformer
from scvae_fast.ops import native
from scvae_fast.ops.lasso_solver import unit_of

_ATOMS_AT_ONCE = 16
_MOST_COMPILED = 1 << 20  # largest size of the atoms, in bytes, for the compiled round, which reads all for each atom
_DEAD = 1e-6  # a dead atom's codes have at most this share of the mean energy of all atoms' codes


class OnlineDictionaryLearning(LassoTransformer):
    """Online dictionary learning: learns atoms of unit norm that make ½‖x − Dz‖² + α‖z‖₁ small.

    Each batch of η rows is coded over the current D as by `LassoCoder`. Its codes z update A ← βA + Σ z zᵀ and
    B ← βB + Σ x zᵀ. One round of block-coordinate descent follows: d_j ← u_j/‖u_j‖ with u_j = d_j + (b_j − D a_j)/A_jj,
    the best d_j of unit norm. β discounts the codes over older dictionaries. An unused atom is replaced by a row of the
    batch, drawn with a probability proportional to its squared error.

    Source: J. Mairal, F. Bach, J. Ponce and G. Sapiro, "Online dictionary learning for sparse coding", ICML 2009,
    algorithms 1 and 2, β from section 3.4.2; codes come from `scvae_fast.lasso` instead of LARS.

    Args:
        n_components: K, number of atoms; the number of features if None.
        alpha: α > 0, this package's λ, in the units of X.
        max_iter: largest number of passes over the rows.
        batch_size: η, rows per batch.
        tol: `fit` stops when a pass lowers the mean objective by at most this share of it; 0 makes all passes.
        positive_code: whether codes are non-negative.
        positive_dict: whether atoms are non-negative. The best atom is then the positive part of u_j, at unit norm.
        dict_init: (n_components, n_features) initial atoms, an atom a row; None draws rows of X at random.
        random_state: for the initial atoms, the order of the rows and the replaced atoms.
        transform_algorithm: see `LassoCoder`, also for the next two.
        transform_max_iter: largest number of iterations per row, also during learning.
        transform_tol: largest duality gap, as a share of ½‖x‖².
        sparse_output: whether `transform` returns a csr_array.
        device: where to compute, "cpu" or "cuda".

    Attributes:
        components_: (n_components, n_features), the atoms, of unit norm; the transpose of this package's D.
        n_iter_: passes made by `fit`.
        n_steps_: batches seen.
        error_: (n_iter_,), mean objective of the rows in each pass of `fit`, each over the dictionary of its batch.
        n_features_in_: n.
        feature_names_in_: names of the features, if X has them.

    Raises:
        ValueError: from `fit` and `partial_fit`, if a parameter is out of range or `dict_init` doesn't fit.
        UsageError: from `fit` and `partial_fit`, if this machine has no such device.
        sklearn.exceptions.ConvergenceWarning: from `transform`, if rows did not reach the gap.

    Example:
        >>> import numpy as np
        >>> from scvae_fast.estimators import OnlineDictionaryLearning
        >>> X = np.random.default_rng(0).normal(size=(50, 8))
        >>> OnlineDictionaryLearning(12, max_iter=2, random_state=0).fit(X).components_.shape
        (12, 8)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        alpha: float = 1.0,
        max_iter: int = 100,
        batch_size: int = 256,
        tol: float = 1e-3,
        positive_code: bool = False,
        positive_dict: bool = False,
        dict_init: Any = None,
        random_state: Any = None,
        transform_algorithm: str | None = None,
        transform_max_iter: int = 1000,
        transform_tol: float = 1e-4,
        sparse_output: bool = False,
        device: str = "cpu",
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.tol = tol
        self.positive_code = positive_code
        self.positive_dict = positive_dict
        self.dict_init = dict_init
        self.random_state = random_state
        self.transform_algorithm = transform_algorithm
        self.transform_max_iter = transform_max_iter
        self.transform_tol = transform_tol
        self.sparse_output = sparse_output
        self.device = device

    def fit(self, X: Any, y: object = None) -> OnlineDictionaryLearning:
        """Learn from X (n_samples, n_features), starting anew."""
        self._check_parameters()
        X = validate_data(self, X, dtype=FLOATS)
        self._start(X)
        errors: list[float] = []
        for _ in range(self.max_iter):
            order = self._random.permutation(len(X))
            total = sum(self._step(X[order[batch]]) for batch in gen_batches(len(X), self.batch_size))
            errors.append(total / len(X))
            if self.tol > 0 and len(errors) > 1 and errors[-2] - errors[-1] <= self.tol * errors[-2]:
                break
        self.error_, self.n_iter_ = np.array(errors), len(errors)
        return self

    def partial_fit(self, X: Any, y: object = None) -> OnlineDictionaryLearning:
        """Learn from X (n_samples, n_features) as one batch, continuing after earlier calls."""
        started = hasattr(self, "components_")
        self._check_parameters()
        X = validate_data(self, X, dtype=self.components_.dtype if started else FLOATS, reset=not started)
        if not started:
            self._start(X)
        self._step(X)
        return self

    @property
    def _non_negative(self) -> bool:
        return bool(self.positive_code)

    def _check_parameters(self) -> None:
        find_device(self.device)
        self._check_lasso()
        self._check_flags("positive_code", "positive_dict")
        self._check_counts(1, "max_iter", "batch_size", *(["n_components"] if self.n_components is not None else []))
        self._check_numbers("tol", zero=True)

    def _start(self, X: np.ndarray) -> None:
        K = X.shape[1] if self.n_components is None else int(self.n_components)
        self._random = check_random_state(self.random_state)
        self._unit = unit_of(self.alpha)  # in the data's own unit, the sums of squares might underflow or overflow
        X = X / X.dtype.type(self._unit)
        if self.dict_init is None:
            rows = _draw(self._random, (X != 0).any(1).astype(float), K)
            others = self._random.standard_normal((K - len(rows), X.shape[1]))
            atoms = self._allowed(np.concatenate([X[rows], others.astype(X.dtype)]))
        else:
            atoms = self._given_dictionary("dict_init", X)
            if len(atoms) != K or not atoms.any(1).all():
                raise ValueError(f"{self._name}: dict_init must have {K} atoms, none of them zero, got {len(atoms)}")
            if self.positive_dict and (atoms < 0).any():
                raise ValueError(f"{self._name}: dict_init must be non-negative, as positive_dict requires")
        self.components_ = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
        self._A, self._B = np.zeros((K, K), X.dtype), np.zeros((K, X.shape[1]), X.dtype)
        self.n_steps_ = 0

    def _step(self, X: np.ndarray) -> float:
        """Learn from one batch; return the sum of its rows' objectives before the update."""
        X = X / X.dtype.type(self._unit)
        x = self._tensor(X)
        problem = self._problem(X.dtype)._replace(alpha=self.alpha / self._unit)
        z, _ = self._solve(problem, x)
        before = float(problem.objective(x, z).sum())
        self.n_steps_ += 1
        keep = X.dtype.type(_forgetting(self.n_steps_, len(x)))
        self._A = keep * self._A + (z.T @ z).cpu().numpy()
        self._B = keep * self._B + (z.T @ x).cpu().numpy()
        atoms = self.components_.copy()
        _update_atoms(atoms, self._A, self._B, positive=bool(self.positive_dict))
        self._replace_dead(atoms, X, z)
        self.components_ = atoms
        return before * self._unit**2

    def _replace_dead(self, atoms: np.ndarray, X: np.ndarray, z: torch.Tensor) -> None:
        """Replace unused atoms by rows of X (M, n), drawn in proportion to their squared error with codes z (M, K)."""
        energy = self._A.diagonal()
        dead = np.flatnonzero(energy <= _DEAD * energy.mean())
        if not len(dead):
            return
        left = np.square(X - z.cpu().numpy() @ atoms).sum(1)
        weights = (left * (X != 0).any(1)).astype(np.float64)
        for atom, row in zip(dead, _draw(self._random, weights, len(dead)), strict=False):
            atoms[atom] = self._allowed(X[row]) / np.linalg.norm(X[row])
            self._A[atom] = self._A[:, atom] = self._B[atom] = 0

    def _allowed(self, rows: np.ndarray) -> np.ndarray:
        """Rows as valid atoms: with `positive_dict`, their absolute values."""
        return np.abs(rows) if self.positive_dict else rows


def _forgetting(step: int, rows: int) -> float:
    """β of Mairal et al. 2009, section 3.4.2: the first batches count less, as their dictionary is poor."""
    seen = step * rows if step < rows else rows**2 + step - rows
    return (seen + 1 - rows) / (seen + 1)


def _update_atoms(atoms: np.ndarray, A: np.ndarray, B: np.ndarray, positive: bool = False) -> None:
    """Update the used atoms of (K, n) in place, in one round of algorithm 2 with ‖d_j‖ = 1. A is (K, K), B is (K, n).

    This runs in C++ if that is compiled and the atoms fit into a cache. Otherwise the gradients b_j − D a_j are
    computed for a block of atoms at once, and corrected after each change of an atom in the block.
    """
    # The dtypes differ if `components_` was set to another one.
    A, B = (np.ascontiguousarray(each, atoms.dtype) for each in (A, B))
    fit = (A.shape, B.shape) == ((len(atoms),) * 2, atoms.shape)
    if native.missing is None and fit and atoms.nbytes <= _MOST_COMPILED:
        addresses = (array.ctypes.data for array in (atoms, A, B))
        native.module.update_atoms(atoms.dtype == np.float64, *atoms.shape, *addresses, positive)
        return
    tiny, energies = np.finfo(atoms.dtype).tiny, A.diagonal().tolist()
    for first in range(0, len(atoms), _ATOMS_AT_ONCE):
        block = slice(first, first + _ATOMS_AT_ONCE)
        own, inner = atoms[block], A[block, block]
        gradient = B[block] - A[block] @ atoms
        for j, energy in enumerate(energies[block]):
            if energy > tiny:
                best = own[j] + gradient[j] / energy
                if positive:
                    np.maximum(best, 0, out=best)
                norm = math.sqrt(best @ best)
                if norm > tiny:
                    best /= norm
                    gradient[j + 1 :] -= inner[j + 1 :, j, None] * (best - own[j])
                    own[j] = best


def _draw(random: np.random.RandomState, weights: np.ndarray, count: int) -> np.ndarray:
    """Indices of distinct rows, drawn in proportion to their weights; fewer if fewer weights are above 0."""
    able = int((weights > 0).sum())
    if not able or not count:
        return np.empty(0, int)
    return random.choice(len(weights), min(count, able), replace=False, p=weights / weights.sum())
