"""Base classes of the estimators, with the conversion between scikit-learn's arrays and tensors.

In scikit-learn an atom is a row: `components_` is (n_components, n_features) = (K, n), the transpose of this package's
D (n, K). All estimators here use scikit-learn's layout for `components_` and `dictionary`.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from scvae_fast import dictionaries
from scvae_fast._devices import find_device
from scvae_fast.ops.lasso_solver import ALGORITHMS, Lasso, solve, unfinished

FLOATS = (np.float64, np.float32)
_ROWS_AT_ONCE = 4096  # with K = 512 in float32, their codes take 8 MiB


class SparseTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC):
    """Transforms rows to sparse codes over `components_` and back; subclasses define how rows are coded."""

    components_: np.ndarray  # (K, n), an atom a row
    alpha: float
    sparse_output: bool
    device: str

    def transform(self, X: Any) -> Any:
        """Codes (n_samples, n_components) of X (n_samples, n_features), in X's dtype (float64 unless it is float32).

        A SciPy csr_array if `sparse_output` is set.
        """
        check_is_fitted(self, "components_")
        X = validate_data(self, X, dtype=FLOATS, reset=False)
        codes = [piece.cpu().numpy() for piece in self._codes(X)]
        if not self.sparse_output:
            return np.concatenate(codes)
        from scipy.sparse import csr_array, vstack

        return vstack([csr_array(piece) for piece in codes], format="csr")

    def inverse_transform(self, X: Any) -> np.ndarray:
        """The rows Dz (n_samples, n_features) for codes X (n_samples, n_components), which may be dense or sparse."""
        check_is_fitted(self, "components_")
        codes = check_array(X, dtype=FLOATS, accept_sparse="csr", input_name="X")
        if codes.shape[1] != len(self.components_):
            raise ValueError(
                f"{self._name}: X must have a column for each of the {len(self.components_)} atoms, "
                f"got {codes.shape[1]}"
            )
        return np.asarray(codes @ self.components_.astype(codes.dtype, copy=False))

    def score(self, X: Any, y: object = None) -> float:
        """Minus the mean of ½‖x − Dz‖² + α‖z‖₁ over the rows; higher is better, for the same α."""
        check_is_fitted(self, "components_")
        X = validate_data(self, X, dtype=FLOATS, reset=False)
        problem = Lasso(self._dictionary(X.dtype), self.alpha)
        coded = zip(self._pieces(X), self._codes(X), strict=True)
        return -sum(float(problem.objective(*each).sum()) for each in coded) / len(X)

    @abstractmethod
    def _codes(self, X: np.ndarray) -> Iterator[torch.Tensor]:  # (M, n) -> (M, K) in all
        """The codes of the rows, one tensor per piece."""

    def _pieces(self, X: np.ndarray) -> Iterator[torch.Tensor]:
        for first in range(0, len(X), _ROWS_AT_ONCE):
            yield self._tensor(X[first : first + _ROWS_AT_ONCE])

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.tensor(np.ascontiguousarray(array), device=find_device(self.device))

    def _dictionary(self, dtype: np.dtype) -> torch.Tensor:  # (n, K)
        return self._tensor(self.components_.astype(dtype, copy=False)).T.contiguous()

    @property
    def _name(self) -> str:
        return type(self).__name__

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _given_dictionary(self, name: str, like: np.ndarray) -> np.ndarray:  # (M, n) -> (K, n)
        """The dictionary in parameter `name`, copied to an array in the dtype of the rows `like`.

        None stands for the orthonormal DCT.
        """
        value = getattr(self, name)
        if value is None:
            return dictionaries.orthogonal_dct(like.shape[1], dtype=torch.float64).T.numpy().astype(like.dtype)
        atoms = np.array(check_array(value, dtype=like.dtype, input_name=name))
        if atoms.shape[1] != like.shape[1] or not atoms.any(1).all():
            raise ValueError(
                f"{self._name}: {name} must be (n_components, n_features) = (K, {like.shape[1]}), an atom a row, and "
                f"no atom zero, got {atoms.shape}"
            )
        return atoms

    def _check_numbers(self, *names: str, zero: bool = False) -> None:
        """Raise ValueError unless these parameters are finite numbers above 0, or 0 if `zero` is set."""
        for name in names:
            value = getattr(self, name)
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if not is_number or not 0 <= float(value) < math.inf or (value == 0 and not zero):
                raise ValueError(f"{self._name}: {name} must be a number {'>=' if zero else '>'} 0, got {value!r}")

    def _check_counts(self, least: int, *names: str) -> None:
        """Raise ValueError unless these parameters are whole numbers >= `least`."""
        for name in names:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"{self._name}: {name} must be a whole number >= {least}, got {value!r}")


class LassoTransformer(SparseTransformer):
    """Transforms rows to solutions of the lasso over `components_`, optionally non-negative ones."""

    transform_algorithm: str | None
    transform_max_iter: int
    transform_tol: float

    @property
    def _non_negative(self) -> bool:
        """Whether codes must be non-negative."""
        return False

    def _problem(self, dtype: np.dtype) -> Lasso:
        return Lasso(self._dictionary(dtype), self.alpha, positive=self._non_negative)

    def _codes(self, X: np.ndarray) -> Iterator[torch.Tensor]:
        self._check_lasso()
        problem = self._problem(X.dtype)
        missing = 0
        for x in self._pieces(X):
            codes, gap = self._solve(problem, x)
            if self.transform_tol > 0:
                missing += int(unfinished(gap, self.transform_tol).sum())
            yield codes
        if missing:
            warnings.warn(
                f"{self._name}: {missing} of {len(X)} rows did not reach a duality gap of {self.transform_tol:g} "
                f"times ½‖x‖² in {self.transform_max_iter} iterations: raise transform_max_iter or transform_tol",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _solve(self, problem: Lasso, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return solve(
            problem, x, algorithm=self.transform_algorithm, max_iter=self.transform_max_iter, tol=self.transform_tol
        )

    def _check_lasso(self) -> None:
        """Raise ValueError if a parameter of the lasso or its solver is out of range."""
        if self.transform_algorithm is not None and self.transform_algorithm not in ALGORITHMS:
            raise ValueError(
                f"{self._name}: transform_algorithm must be None or one of {ALGORITHMS}, got "
                f"{self.transform_algorithm!r}"
            )
        if self.transform_algorithm == "cd" and find_device(self.device).type != "cpu":
            raise ValueError(f'{self._name}: transform_algorithm "cd" is for the device "cpu", got {self.device!r}')
        self._check_numbers("alpha")
        self._check_numbers("transform_tol", zero=True)
        self._check_counts(0, "transform_max_iter")

    def _check_flags(self, *names: str) -> None:
        """Raise ValueError unless these parameters are True or False."""
        for name in names:
            if not isinstance(value := getattr(self, name), (bool, np.bool_)):
                raise ValueError(f"{self._name}: {name} must be True or False, got {value!r}")
