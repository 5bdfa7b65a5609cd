"""Sparse coding over a given dictionary."""

from __future__ import annotations

from typing import Any

from sklearn.utils.validation import validate_data

from scvae_fast._devices import find_device
from scvae_fast.estimators._base import FLOATS, LassoTransformer


class LassoCoder(LassoTransformer):
    """Sparse codes over a fixed dictionary: z minimises ½‖x − Dz‖² + α‖z‖₁, as `sparse_encode(algorithm="lasso_cd")`.

    `scvae_fast.lasso` iterates each row until its duality gap, which bounds how far its objective is from the
    minimum, is small enough. Unlike scikit-learn's `SparseCoder`, this estimator must be fitted: `fit` checks the
    dictionary and the number of features. For an α per row, or for derivatives, use `scvae_fast.lasso` directly.

    Args:
        dictionary: (n_components, n_features), an atom a row, of any norm: the transpose of this package's D (n, K),
            for example `dictionaries.dct(64, 128).T`. None stands for the orthonormal DCT.
        alpha: α > 0, this package's λ, in the units of X.
        positive: whether codes are non-negative; scikit-learn's `positive_code`.
        transform_algorithm: "cd" (coordinate descent, on CPUs), "fista" (Beck & Teboulle 2009, with restarts) or plain
            "ista"; None chooses "cd" on a CPU and "fista" elsewhere.
        transform_max_iter: largest number of iterations per row.
        transform_tol: largest gap, as a share of ½‖x‖². With 0, "fista" and "ista" make exactly `transform_max_iter`
            iterations, like a LISTA network, and "cd" continues until rounding stops it. In float32, rounding keeps
            the gap from falling much below 1e-6.
        sparse_output: whether `transform` returns a csr_array.
        device: where to compute, "cpu" or "cuda".

    Attributes:
        components_: (n_components, n_features), the dictionary.
        n_features_in_: n.
        feature_names_in_: names of the features, if X has them.

    Raises:
        ValueError: from `fit`, if a parameter is out of range, or dictionary and X differ in the number of features.
        UsageError: from `fit`, if this machine has no such device.
        sklearn.exceptions.ConvergenceWarning: from `transform`, if rows did not reach the gap.

    Example:
        >>> import numpy as np
        >>> from scvae_fast.estimators import LassoCoder
        >>> X = np.random.default_rng(0).normal(size=(20, 8))
        >>> LassoCoder(np.eye(8), alpha=0.5).fit(X).transform(X).shape
        (20, 8)
    """

    def __init__(
        self,
        dictionary: Any = None,
        *,
        alpha: float = 1.0,
        positive: bool = False,
        transform_algorithm: str | None = None,
        transform_max_iter: int = 1000,
        transform_tol: float = 1e-4,
        sparse_output: bool = False,
        device: str = "cpu",
    ) -> None:
        self.dictionary = dictionary
        self.alpha = alpha
        self.positive = positive
        self.transform_algorithm = transform_algorithm
        self.transform_max_iter = transform_max_iter
        self.transform_tol = transform_tol
        self.sparse_output = sparse_output
        self.device = device

    def fit(self, X: Any, y: object = None) -> LassoCoder:
        """Check the parameters against X (n_samples, n_features); nothing is learned."""
        find_device(self.device)
        self._check_lasso()
        self._check_flags("positive")
        X = validate_data(self, X, dtype=FLOATS)
        self.components_ = self._given_dictionary("dictionary", X)
        return self

    @property
    def _non_negative(self) -> bool:
        return bool(self.positive)
