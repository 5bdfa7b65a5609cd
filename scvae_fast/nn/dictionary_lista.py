"""LISTA tied to a dictionary: the bottleneck of SC-VAE (arXiv 2303.16666)."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import torch

from scvae_fast.functional import lista, sparse_code
from scvae_fast.nn.kept import KeptWeights, is_differentiated
from scvae_fast.nn.layer import (
    SparseCoder,
    checked_dictionary,
    checked_lmbda,
    checked_squared_norm,
    drive,
    squared_norm,
    without_autocast,
)
from scvae_fast.nn.lista import checked_inhibition
from scvae_fast.ops import checks
from scvae_fast.ops.dispatch import is_plain

Compat = Literal["paper", "official"]


class DictionaryLISTA(SparseCoder):
    """LISTA tied to a dictionary D and a step constant c: the bottleneck of SC-VAE (arXiv 2303.16666).

        W_e = Dᵀ/c;   S = I − DᵀD/c;   θ = λ/c
        b = x W_eᵀ;   z_0 = h_θ(γ b);   z_{t+1} = h_θ(b + z_t Sᵀ), t = 0 … T−1;   x̂ = z_T Dᵀ

    `compat="paper"` has γ = 1: ISTA on ½‖x − Dz‖² + λ‖z‖₁, from the start. `compat="official"` is the authors' released
    code, which starts from the unscaled x D, so γ = c.

    `dictionary` (n, K) and `c` (1,) are parameters where they are learned, else buffers. Each call forms W_e and
    S, under autograd. In eval mode on a CPU, calls that need no derivative keep W_e and S, with copies of D and c.
    Later calls compare D and c with the copies bit by bit, so they notice every change, however it was made. In
    training, the layer warns once if c falls below ‖D‖₂², where ISTA may diverge.

    On the meta device and for fake tensors ‖D‖₂² is unknown: load a state dict to give c its value.

    Args:
        dictionary: (n, K), initial value, copied.
        n_iter: T ≥ 0.
        lmbda: λ ≥ 0 (the released code's β), in the units of x; fixed.
        compat: "paper" or "official".
        c: initial c > 0; None is ‖D‖₂².
        learn_dictionary: whether D is a parameter.
        learn_c: whether c is a parameter.
        backend: a name of `scvae_fast.backends()`; None chooses by device and dtype.
        inhibition_dtype: torch.bfloat16 stores a float32 S in bfloat16 in eval mode, without gradient. With SC-VAE's
            DCT dictionary and x ~ N(0, 1), the codes' error is then 0.4 % at T = 5 and 1.3 % at T = 30 (‖z − z*‖/‖z*‖,
            z* in float64), or 0.8 to 1.4 % with the official start; in float32 it is about 0.0001 %. None keeps S in
            its own dtype.
        positive: whether codes are non-negative: h_θ(u) = max(u − θ, 0).
        dim: dimension of x that holds the features, and of z that holds the codes; 1 for feature maps (B, n, H, W).

    Raises:
        TypeError: a number, positive or dim is of another type, or the dictionary is not a floating-point tensor.
        ValueError: an argument is out of range, or the dictionary is not an (n, K) matrix, is zero or is not finite.

    Example:
        >>> import torch
        >>> from scvae_fast import DictionaryLISTA, dictionaries
        >>> layer = DictionaryLISTA(dictionaries.dct(16, 32), n_iter=5, lmbda=0.5)
        >>> z, x_hat = layer(torch.randn(4, 16))
        >>> z.shape, x_hat.shape, [name for name, _ in layer.named_parameters()]
        (torch.Size([4, 32]), torch.Size([4, 16]), ['dictionary', 'c'])
    """

    dictionary: torch.Tensor  # (n, K)
    c: torch.Tensor  # (1,)

    # Number of training calls between two checks of ‖D‖₂, which costs a singular value decomposition.
    _CHECK_EVERY = 100
    # c starts at ‖D‖₂² itself: rounding and the first steps must not cause a warning.
    _SLACK_OF_C = 1e-3

    def __init__(
        self,
        dictionary: torch.Tensor,
        n_iter: int,
        lmbda: float,
        compat: Compat = "paper",
        *,
        c: float | None = None,
        learn_dictionary: bool = True,
        learn_c: bool = True,
        backend: str | None = None,
        inhibition_dtype: torch.dtype | None = None,
        positive: bool = False,
        dim: int = -1,
    ) -> None:
        layer = "DictionaryLISTA"
        dictionary = checked_dictionary(layer, dictionary)
        n, K = dictionary.shape
        super().__init__(n, K, n_iter, positive, dim, backend)
        self.lmbda = checked_lmbda(layer, lmbda)
        if compat not in ("paper", "official"):
            raise ValueError(f"{layer}: compat must be 'paper' or 'official', got {compat!r}")
        c = None if c is None else checks.number(layer, "c", c)
        if c is not None and not (math.isfinite(c) and c > 0):
            raise ValueError(f"{layer}: c must be a finite number > 0, got {c}")
        self.compat = compat
        self.inhibition_dtype = checked_inhibition(layer, inhibition_dtype)
        self._hold("dictionary", dictionary.clone(), learn_dictionary)
        norm = checked_squared_norm(layer, dictionary)
        start = _rounded_up(norm, dictionary) if c is None else torch.tensor(c, dtype=torch.float64).to(dictionary)
        self._hold("c", start.reshape(1), learn_c)
        self._kept = KeptWeights()
        self._calls = 0
        self._warned = False

    def forward(self, x: torch.Tensor, z0: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes z (..., K) of x (..., n), and their reconstruction x̂ (..., n).

        z0 (..., K) are codes to start from (a warm start), instead of h_θ(γ b). Errors are those of `encode`.
        """
        rows, start = self._rows("x", x, self.n_features), self._start(z0)
        W_e, S, theta, gain = self._of_call(start)
        z, x_hat = sparse_code(
            rows,
            W_e,
            S,
            theta,
            self.dictionary,
            self.n_iter,
            gain=gain,
            z0=start,
            positive=self.positive,
            backend=self.backend,
        )
        return self._placed(z), self._placed(x_hat)

    def _codes(self, x: torch.Tensor, z0: torch.Tensor | None) -> torch.Tensor:
        W_e, S, theta, gain = self._of_call(z0)
        b = drive(x, W_e)
        return lista(b, S, theta, self.n_iter, gain=gain, z0=z0, positive=self.positive, backend=self.backend)

    def _of_call(
        self, z0: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | float]:
        """W_e (K, n), S (K, K), θ (1,) and γ."""
        if self.training and is_plain((self.dictionary, self.c)):
            self._watch_c()
        gain = self.c if self.compat == "official" and z0 is None else 1.0
        W_e, S = self._weights()
        return W_e, S, self.lmbda / self.c, gain

    def _weights(self) -> tuple[torch.Tensor, ...]:
        """W_e (K, n) and S (K, K); cached in eval mode on a CPU, as long as D and c keep their values."""
        sources = self.dictionary, self.c
        if self.training or is_differentiated(sources):
            return self._form_weights(*sources)
        return self._kept.of(sources, self._form_stored, key=self.inhibition_dtype)

    def _form_stored(self, D: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
        W_e, S = self._form_weights(D, c)
        return W_e, S.bfloat16() if self.inhibition_dtype is not None and S.dtype == torch.float32 else S

    def _form_weights(self, D: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with without_autocast(D):
            return D.T / c, torch.eye(self.n_atoms, dtype=D.dtype, device=D.device) - D.T @ D / c

    @torch.no_grad()
    def raise_c(self, margin: float = 1.0) -> None:
        """Raise c to margin · ‖D‖₂² if it is smaller: a projection to call occasionally in training.

        It costs a singular value decomposition of D.
        """
        self.c.clamp_(min=float(_rounded_up(margin * squared_norm(self.dictionary), self.c)))

    def _watch_c(self) -> None:
        due = self._calls % self._CHECK_EVERY == 0
        self._calls += 1
        if not due or self._warned or (self.c.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        if not bool(self.dictionary.detach().isfinite().all()):
            return  # the codes are NaN too
        norm, c = float(squared_norm(self.dictionary)), float(self.c.detach())
        if c < norm * (1 - self._SLACK_OF_C):
            self._warned = True
            warnings.warn(
                f"DictionaryLISTA: the step constant c = {c:.4g} fell below ‖D‖₂² = {norm:.4g}: the iterations may "
                "diverge (ISTA converges for c >= ‖D‖₂²)",
                stacklevel=3,
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Accept a c without dimensions, as in other implementations of SC-VAE."""
        if (c := state_dict.get(f"{prefix}c")) is not None and c.dim() == 0:
            state_dict[f"{prefix}c"] = c.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Sizes and settings, for printing."""
        return f"{super().extra_repr()}, lmbda={self.lmbda:g}, compat={self.compat!r}"


def _rounded_up(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A value () in the dtype and on the device of `like`, not below it: c must not be less than ‖D‖₂²."""
    rounded = value.to(like)
    larger = rounded * (1 + torch.finfo(like.dtype).eps)
    return torch.where(rounded.double() < value.double().to(rounded.device), larger, rounded)
