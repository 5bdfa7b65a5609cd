"""The base of the layers: sizes, the dimension of features, the dictionary that decodes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from scvae_fast._devices import holds_values
from scvae_fast.functional import decode
from scvae_fast.ops import checks
from scvae_fast.ops.backends import check_name
from scvae_fast.ops.library import autocast_is_on, in_float32


class SparseCoder(nn.Module):
    """A layer that turns vectors of n features into codes over K atoms, and decodes them with D (n, K).

    x has its features, and z its codes, in the dimension `dim`: −1, the last, for rows (..., n), and 1 for feature maps
    (B, n, H, W). The attributes positive, dim and backend may be changed between calls, and so may n_iter if no
    parameter has an entry for each iteration. n_features and n_atoms describe the parameters and must not be changed.
    """

    dictionary: torch.Tensor | None  # (n, K)

    def __init__(
        self, n_features: int, n_atoms: int, n_iter: int, positive: bool, dim: int, backend: str | None
    ) -> None:
        super().__init__()
        layer = type(self).__name__
        self.n_features = checks.count(layer, "n_features", n_features, least=1)
        self.n_atoms = checks.count(layer, "n_atoms", n_atoms, least=1)
        self.n_iter = checks.count(layer, "n_iter", n_iter)
        if not isinstance(positive, bool):
            raise TypeError(f"{layer}: positive must be a bool, got {type(positive).__name__}")
        if isinstance(dim, bool) or not isinstance(dim, int):
            raise TypeError(f"{layer}: dim must be an int, got {type(dim).__name__}")
        check_name(layer, backend)
        self.positive, self.dim, self.backend = positive, dim, backend

    def forward(self, x: torch.Tensor, z0: torch.Tensor | None = None) -> Any:
        """Codes z of x, as `encode`."""
        return self.encode(x, z0)

    def encode(self, x: torch.Tensor, z0: torch.Tensor | None = None) -> torch.Tensor:
        """Codes z of x, with K in place of n, from a warm start z0 of z's shape if one is given.

        Raises:
            TypeError: an argument is not a tensor, or has another dtype than the layer (outside autocast).
            ValueError: an argument has another size.
        """
        return self._placed(self._codes(self._rows("x", x, self.n_features), self._start(z0)))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Reconstruction x̂ = D z, with n in place of K.

        Raises:
            TypeError, ValueError: as `encode`.
            RuntimeError: the layer has no dictionary.
        """
        if self.dictionary is None:
            raise RuntimeError(f"{type(self).__name__}: decode needs a dictionary, and this layer was given none")
        return self._placed(decode(self._rows("z", z, self.n_atoms), self.dictionary, backend=self.backend))

    @abstractmethod
    def _codes(self, x: torch.Tensor, z0: torch.Tensor | None) -> torch.Tensor:
        """Codes (..., K) of rows x (..., n)."""

    def _start(self, z0: torch.Tensor | None) -> torch.Tensor | None:
        return None if z0 is None else self._rows("z0", z0, self.n_atoms)

    def _rows(self, name: str, value: torch.Tensor, size: int) -> torch.Tensor:
        """The tensor with dimension `dim` last; raises unless its size and the layer's dtype match."""
        layer = type(self).__name__
        checks.are_tensors(layer, **{name: value})
        # torch.jit.trace has tensors instead of sizes; there, the operation checks them.
        traced = torch.jit.is_tracing()
        if not -value.dim() <= self.dim < value.dim() or (not traced and value.shape[self.dim] != size):
            raise ValueError(f"{layer}: {name} must have size {size} in dimension {self.dim}, got {list(value.shape)}")
        dtype = self._dtype()
        if value.dtype != dtype and not autocast_is_on(value.device.type):
            raise TypeError(f"{layer}: {name} must be {dtype}, as the layer is, got {value.dtype}")
        return value if self.dim == -1 else value.movedim(self.dim, -1)

    def _placed(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if self.dim == -1 else rows.movedim(-1, self.dim)

    def _dtype(self) -> torch.dtype:
        assert self.dictionary is not None
        return self.dictionary.dtype

    def _hold(self, name: str, value: torch.Tensor, learned: bool) -> None:
        """Register a parameter if it is learned, otherwise a buffer."""
        if learned:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def extra_repr(self) -> str:
        """Sizes and settings, for printing."""
        sizes = f"n_features={self.n_features}, n_atoms={self.n_atoms}, n_iter={self.n_iter}"
        return sizes + (", positive=True" if self.positive else "") + (f", dim={self.dim}" if self.dim != -1 else "")


def drive(x: torch.Tensor, W_e: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Form x W_eᵀ + bias (..., K) from x (..., n), W_e (K, n) and a bias (K,); in float32 under autocast."""
    linear: Callable[..., torch.Tensor] = nn.functional.linear
    device_type = x.device.type
    return in_float32(device_type, linear, x, W_e, bias) if autocast_is_on(device_type) else linear(x, W_e, bias)


def without_autocast(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """Disable autocast while weights are formed: the over-complete I − DᵀD/c has eigenvalues 1, which rounding to 16
    bits would push above 1.
    """
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if autocast_is_on(device) else nullcontext()


def checked_lmbda(layer: str, lmbda: float) -> float:
    """λ as a float; raises TypeError or ValueError unless it is a number, finite and not negative."""
    number = checks.number(layer, "lmbda", lmbda)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{layer}: lmbda must be a finite number >= 0, got {lmbda}")
    return float(number)


def checked_dictionary(layer: str, dictionary: torch.Tensor) -> torch.Tensor:
    """D (n, K), detached; raises unless it is a matrix of floating-point numbers."""
    if not isinstance(dictionary, torch.Tensor) or not dictionary.is_floating_point():
        raise TypeError(f"{layer}: dictionary must be a floating-point torch.Tensor")
    checks.agree(layer, ("dictionary",), (dictionary,))
    if dictionary.dim() != 2 or 0 in dictionary.shape:
        raise ValueError(f"{layer}: dictionary must be (n, K), got {list(dictionary.shape)}")
    return dictionary.detach()


def squared_norm(dictionary: torch.Tensor) -> torch.Tensor:
    """‖D‖₂² (), the largest eigenvalue of DᵀD, as a float64 tensor."""
    return torch.linalg.matrix_norm(dictionary.detach().double(), ord=2) ** 2


def checked_squared_norm(layer: str, dictionary: torch.Tensor) -> torch.Tensor:
    """‖D‖₂²; raises ValueError unless it is finite and positive. A tensor without values passes."""
    known = holds_values(dictionary)
    if known and not dictionary.isfinite().all():  # singular values would be undefined
        raise ValueError(f"{layer}: dictionary must be finite and not zero, got NaN or infinity")
    norm = squared_norm(dictionary)
    if known and not (norm.isfinite() and norm > 0):
        raise ValueError(f"{layer}: dictionary must be finite and not zero, got ‖D‖₂² = {float(norm)}")
    return norm


def fista_momentum(n_iter: int) -> torch.Tensor:
    """FISTA's β (T,) in float64 (Beck & Teboulle 2009).

    β_0 = 0, β_t = (τ_t − 1)/τ_{t+1}, with τ_1 = 1 and τ_{t+1} = (1 + √(1 + 4τ_t²))/2.
    """
    tau = [1.0]
    for _ in range(n_iter):
        tau.append((1 + math.sqrt(1 + 4 * tau[-1] ** 2)) / 2)
    beta = [0.0, *((tau[t - 1] - 1) / tau[t] for t in range(1, n_iter))]
    return torch.tensor(beta, dtype=torch.float64, device="cpu")
