"""A network that learns to code in a few iterations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.validation import validate_data

from scvae_fast._devices import find_device
from scvae_fast.estimators._base import FLOATS, SparseTransformer
from scvae_fast.nn import ALISTA, LISTA, LISTACP, SLISTA, TiLISTA
from scvae_fast.nn.layer import SparseCoder
from scvae_fast.ops.lasso_solver import Lasso

_METHODS: dict[str, Callable[..., SparseCoder]] = {
    "lista": LISTA,
    "lista-cp": LISTACP,
    "tilista": TiLISTA,
    "alista": ALISTA,
    "slista": SLISTA,
}


class LISTACoder(SparseTransformer):
    """Sparse codes in a fixed, small number of iterations, by a network that is trained for the data.

    The network is one of `scvae_fast.nn`, by default LISTA (Gregor & LeCun, "Learning fast approximations of sparse
    coding", ICML 2010). It starts as T iterations of ISTA ("alista" starts as in its authors' code). Adam then
    minimises the mean of ½‖x − Dz‖² + α‖z‖₁ over the rows directly (as in Ablin et al., "Learning step sizes for
    unfolded sparse coding", NeurIPS 2019), so no exact codes are needed. D is not changed.

    Args:
        dictionary: (n_components, n_features), an atom a row: `OnlineDictionaryLearning.components_`, or the transpose
            of this package's D (n, K). None stands for the orthonormal DCT.
        alpha: α > 0, this package's λ, in the units of X.
        method: "lista", "lista-cp", "tilista", "alista" or "slista". In this order, they learn all weights; a W for
            each iteration; one W with steps; steps and thresholds; only steps.
        n_iter: T ≥ 0, iterations of the network. "lista" also computes z_0 from x; the others start at 0.
        epochs: passes over the rows in training; 0 keeps the initial weights.
        batch_size: rows per batch.
        learning_rate: Adam's; it falls to 0 along a cosine.
        random_state: for the order of the rows.
        sparse_output: whether `transform` returns a csr_array.
        device: where to compute, "cpu" or "cuda".

    Attributes:
        components_: (n_components, n_features), the dictionary.
        network_: the layer of `scvae_fast.nn` with the weights of the best epoch, for use in PyTorch; on the CPU.
        error_: (epochs + 1,), mean objective of the rows: before training, then after each epoch.
        n_features_in_: n.
        feature_names_in_: names of the features, if X has them.

    Raises:
        ValueError: from `fit`, if a parameter is out of range, or dictionary and X differ in the number of features.
        UsageError: from `fit`, if this machine has no such device.

    Example:
        >>> import numpy as np
        >>> from scvae_fast.estimators import LISTACoder
        >>> X = np.random.default_rng(0).normal(size=(50, 8))
        >>> LISTACoder(np.eye(8), alpha=0.5, epochs=1, random_state=0).fit(X).transform(X).shape
        (50, 8)
    """

    def __init__(
        self,
        dictionary: Any = None,
        *,
        alpha: float = 1.0,
        method: str = "lista",
        n_iter: int = 5,
        epochs: int = 50,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        random_state: Any = None,
        sparse_output: bool = False,
        device: str = "cpu",
    ) -> None:
        self.dictionary = dictionary
        self.alpha = alpha
        self.method = method
        self.n_iter = n_iter
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.sparse_output = sparse_output
        self.device = device

    def fit(self, X: Any, y: object = None) -> LISTACoder:
        """Train the network on X (n_samples, n_features)."""
        self._check_numbers("alpha", "learning_rate")
        self._check_counts(0, "n_iter", "epochs")
        self._check_counts(1, "batch_size")
        if self.method not in _METHODS:
            raise ValueError(f"{self._name}: method must be one of {', '.join(_METHODS)}, got {self.method!r}")
        find_device(self.device)
        X = validate_data(self, X, dtype=FLOATS)
        atoms = self._given_dictionary("dictionary", X)
        # Codes scale with x and α. Training with rows of norm 1 makes Adam's steps fit the size of θ.
        largest = float(np.abs(X).max()) or 1.0  # squares of the rows themselves might overflow or vanish
        scale = largest * float(np.sqrt(np.square(X / largest, dtype=np.float64).sum(1).mean())) or 1.0
        problem = Lasso(self._tensor(atoms.T), self.alpha / scale, float("nan"))
        network = self._network(problem)
        errors = self._train(network, problem, (X / scale).astype(X.dtype, copy=False))
        if isinstance(network, SLISTA):
            network.lmbda *= scale  # θ is λ γ
        else:
            network.get_parameter("theta").data.mul_(scale)
        self.components_, self.network_ = atoms, network.cpu().eval()
        with np.errstate(over="ignore"):  # in the units of the data, errors may be beyond float64
            self.error_ = np.array(errors) * scale * scale
        return self

    def _network(self, problem: Lasso) -> SparseCoder:
        """The untrained network, on D's device and in its dtype."""
        D, lmbda, T = problem.D, float(problem.alpha), int(self.n_iter)
        if self.method != "lista":
            return _METHODS[self.method](D, T, lmbda)
        n, K = D.shape
        return LISTA(n, K, T, dictionary=D, lmbda=lmbda, device=D.device, dtype=D.dtype)

    def _train(self, network: SparseCoder, problem: Lasso, X: np.ndarray) -> list[float]:
        """Train, load the best epoch's weights, and return the mean objective before training and after each epoch."""
        random = check_random_state(self.random_state)
        optimiser = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        steps = -(-len(X) // self.batch_size) * self.epochs
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
        errors = [self._error(network, problem, X)]
        best = copy.deepcopy(network.state_dict())
        for _ in range(self.epochs):
            order = random.permutation(len(X))
            for batch in gen_batches(len(X), self.batch_size):
                x = self._tensor(X[order[batch]])
                optimiser.zero_grad()
                problem.objective(x, network(x)).mean().backward()
                optimiser.step()
                schedule.step()
            errors.append(self._error(network, problem, X))
            if errors[-1] == min(errors):
                best = copy.deepcopy(network.state_dict())
        network.load_state_dict(best)
        return errors

    @torch.no_grad()
    def _error(self, network: SparseCoder, problem: Lasso, X: np.ndarray) -> float:
        return sum(float(problem.objective(x, network(x)).double().sum()) for x in self._pieces(X)) / len(X)

    def _codes(self, X: np.ndarray) -> Iterator[torch.Tensor]:
        # A copy for each call, because other threads may be using the estimator, and `network_` must not change.
        network = copy.deepcopy(self.network_).to(self._dictionary(X.dtype))
        for x in self._pieces(X):
            with torch.no_grad():
                codes = network(x)
            yield codes
