"""Dictionaries learned from data, in mini-batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.validation import validate_data

from scvae_fast._devices import find_device
from scvae_fast.estimators._base import FLOATS, LassoTransformer
from scvae_fast.ops.lasso_solver import Lasso, unit_of

_DEAD = 1e-6  # an atom whose mean squared entry is below that share of all atoms' mean


class OnlineDictionaryLearning(LassoTransformer):
    """Learns atoms of unit norm that make ½‖x − Dz‖² + α‖z‖₁ small: online dictionary learning.

    For each batch of η rows: their codes z over the present D, as `LassoCoder` finds them; A ← βA + Σ z zᵀ and
    B ← βB + Σ x zᵀ; then one round of block-coordinate descent, d_j ← u_j/‖u_j‖ with u_j = d_j + (b_j − D a_j)/A_jj,
    which is the best d_j of unit norm. β forgets the codes over old dictionaries. An atom that nothing uses is replaced
    by a row of the batch, drawn in proportion to what the dictionary leaves of it.

    Source: J. Mairal, F. Bach, J. Ponce and G. Sapiro, "Online dictionary learning for sparse coding", ICML 2009,
    algorithms 1 and 2, β from section 3.4.2; codes come from FISTA instead of LARS.

    Args:
        n_components: K, number of atoms; the number of features if None.
        alpha: α > 0, this package's λ, in the units of X.
        max_iter: passes over the rows at most.
        batch_size: η, rows of a batch.
        tol: `fit` ends when a pass lowers the mean objective by no more than that share of it; 0 makes all passes.
        dict_init: (n_components, n_features) atoms to start from, an atom a row; rows of X drawn at random if None.
        random_state: of the start, the order of the rows and the replaced atoms.
        transform_algorithm: see `LassoCoder`, as the following.
        transform_max_iter: iterations of a row at most, in learning as well.
        transform_tol: the duality gap to reach, as a share of ½‖x‖².
        sparse_output: whether `transform` returns a csr_array.
        device: where to compute, "cpu" or "cuda".

    Attributes:
        components_: (n_components, n_features), the atoms, of unit norm; the transpose of this package's D.
        n_iter_: passes made by `fit`.
        n_steps_: batches seen.
        error_: (n_iter_,), mean objective of the rows in each pass of `fit`, each row over the dictionary it met.
        n_features_in_: n.
        feature_names_in_: names of the features, where X has them.

    Raises:
        ValueError: from `fit` and `partial_fit`, for a parameter out of range or a `dict_init` that doesn't fit.
        UsageError: from the same, where this machine has no such device.
        sklearn.exceptions.ConvergenceWarning: from `transform`, when rows did not reach the gap.
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        alpha: float = 1.0,
        max_iter: int = 100,
        batch_size: int = 256,
        tol: float = 1e-3,
        dict_init: Any = None,
        random_state: Any = None,
        transform_algorithm: str = "fista",
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
        self.dict_init = dict_init
        self.random_state = random_state
        self.transform_algorithm = transform_algorithm
        self.transform_max_iter = transform_max_iter
        self.transform_tol = transform_tol
        self.sparse_output = sparse_output
        self.device = device

    def fit(self, X: Any, y: object = None) -> OnlineDictionaryLearning:
        """Learn from X (n_samples, n_features), from the start."""
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
        """Learn from X (n_samples, n_features), one batch, and go on from what was learned before."""
        started = hasattr(self, "components_")
        self._check_parameters()
        X = validate_data(self, X, dtype=self.components_.dtype if started else FLOATS, reset=not started)
        if not started:
            self._start(X)
        self._step(X)
        return self

    def _check_parameters(self) -> None:
        self._check_lasso()
        self._check_counts(1, "max_iter", "batch_size", *(["n_components"] if self.n_components is not None else []))
        self._check_numbers("tol", zero=True)
        find_device(self.device)

    def _start(self, X: np.ndarray) -> None:
        K = X.shape[1] if self.n_components is None else int(self.n_components)
        self._random = check_random_state(self.random_state)
        self._unit = unit_of(self.alpha)  # the sums are of squares, which vanish or overflow in that of the data
        X = X / X.dtype.type(self._unit)
        if self.dict_init is None:
            rows = _draw(self._random, (X != 0).any(1).astype(float), K)
            others = self._random.standard_normal((K - len(rows), X.shape[1]))
            atoms = np.concatenate([X[rows], others.astype(X.dtype)])
        else:
            atoms = self._given_dictionary("dict_init", X)
            if len(atoms) != K or not atoms.any(1).all():
                raise ValueError(f"{self._name}: dict_init must have {K} atoms, none of them zero, got {len(atoms)}")
        self.components_ = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
        self._A, self._B = np.zeros((K, K), X.dtype), np.zeros((X.shape[1], K), X.dtype)
        self.n_steps_ = 0

    def _step(self, X: np.ndarray) -> float:
        """Learn from one batch; returns the sum of its rows' objectives before that."""
        x, D, A, B = map(self._tensor, (X / X.dtype.type(self._unit), self.components_.T, self._A, self._B))
        problem = Lasso.over(D, self.alpha / self._unit)
        z, _ = self._solve(problem, x)
        self.n_steps_ += 1
        keep = _forgetting(self.n_steps_, len(x))
        A, B = keep * A + z.T @ z, keep * B + x.T @ z
        _update_atoms(D, A, B)
        self._replace_dead(D, A, B, x, (x - z @ problem.D.T).square().sum(1))
        self.components_ = D.T.contiguous().cpu().numpy()
        self._A, self._B = A.cpu().numpy(), B.cpu().numpy()
        return float(problem.objective(x, z).sum()) * self._unit**2

    def _replace_dead(
        self, D: torch.Tensor, A: torch.Tensor, B: torch.Tensor, x: torch.Tensor, left: torch.Tensor
    ) -> None:
        """Rows of x (M, n), of whose energy the dictionary leaves `left` (M,), take the place of unused atoms."""
        energy = A.diagonal()
        dead = (energy <= _DEAD * energy.mean()).nonzero().flatten().tolist()
        weights = (left * (x != 0).any(1)).double().cpu().numpy()
        for atom, row in zip(dead, _draw(self._random, weights, len(dead)), strict=False):
            D[:, atom] = x[row] / torch.linalg.vector_norm(x[row])
            A[atom] = A[:, atom] = B[:, atom] = 0


def _forgetting(step: int, rows: int) -> float:
    """β of Mairal et al. 2009, section 3.4.2: the first batches, over a dictionary still poor, count less."""
    seen = step * rows if step < rows else rows**2 + step - rows
    return (seen + 1 - rows) / (seen + 1)


def _update_atoms(D: torch.Tensor, A: torch.Tensor, B: torch.Tensor) -> None:
    """One round over the atoms of D (n, K) that A (K, K) uses, in place: algorithm 2, with ‖d_j‖ = 1."""
    tiny = torch.finfo(D.dtype).tiny
    for atom, energy in enumerate(A.diagonal().tolist()):
        if energy > tiny:
            best = D[:, atom] + (B[:, atom] - D @ A[:, atom]) / energy
            norm = float(torch.linalg.vector_norm(best))
            if norm > tiny:
                D[:, atom] = best / norm


def _draw(random: np.random.RandomState, weights: np.ndarray, count: int) -> np.ndarray:
    """Numbers of different rows, drawn in proportion to their weights; fewer where fewer have one above 0."""
    able = int((weights > 0).sum())
    if not able or not count:
        return np.empty(0, int)
    return random.choice(len(weights), min(count, able), replace=False, p=weights / weights.sum())
