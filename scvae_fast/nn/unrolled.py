"""Unrolled networks over a known dictionary: LISTA-CP, TiLISTA, ALISTA, SLISTA."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import nn

from scvae_fast import dictionaries
from scvae_fast.functional import ista, sparse_code
from scvae_fast.nn.kept import KeptWeights
from scvae_fast.nn.layer import (
    SparseCoder,
    checked_dictionary,
    checked_lmbda,
    checked_squared_norm,
    drive,
    without_autocast,
)


class _OverDictionary(SparseCoder):
    """A network that corrects its codes by the residual x − z Dᵀ, from z_0 = 0 or a given z_0."""

    dictionary: torch.Tensor  # (n, K)
    theta: torch.Tensor  # (T, 1)

    def __init__(
        self,
        dictionary: torch.Tensor,
        n_iter: int,
        lmbda: float = 0.1,
        *,
        learn_dictionary: bool = False,
        positive: bool = False,
        dim: int = -1,
        backend: str | None = None,
    ) -> None:
        layer = type(self).__name__
        D = checked_dictionary(layer, dictionary)
        n, K = D.shape
        super().__init__(n, K, n_iter, positive, dim, backend)
        self.lmbda = checked_lmbda(layer, lmbda)
        self._hold("dictionary", D.clone(), learn_dictionary)
        self._initialise(D, checked_squared_norm(layer, D))

    @abstractmethod
    def _initialise(self, D: torch.Tensor, c: torch.Tensor) -> None:
        """Register the parameters with their initial values; c = ‖D‖₂² () is in float64."""

    def _of_each(self, value: torch.Tensor | float, *more: int) -> nn.Parameter:
        """A parameter (T, …) with the same value in every iteration."""
        like = self.dictionary.detach()
        start = torch.as_tensor(value, dtype=torch.float64, device=like.device)
        return nn.Parameter(start.to(like.dtype).expand(self.n_iter, *more).contiguous())

    def _corrected(
        self, x: torch.Tensor, z0: torch.Tensor | None, W: torch.Tensor, step: torch.Tensor | None = None
    ) -> torch.Tensor:
        D, theta, T, positive = self.dictionary, self.theta, self.n_iter, self.positive
        return sparse_code(x, W, None, theta, D, T, step=step, z0=z0, positive=positive, backend=self.backend)[0]

    def extra_repr(self) -> str:
        """Sizes and settings, for printing."""
        return f"{super().extra_repr()}, lmbda={self.lmbda:g}"


class LISTACP(_OverDictionary):
    """LISTA with coupled weights, LISTA-CP (Chen, Liu, Wang & Yin 2018).

        z_0 = 0;   z_{t+1} = h_{θ_t}(z_t + (x − z_t Dᵀ) W_tᵀ),   t = 0 … T−1

    `W` (T, K, n), the transposes of the paper's W^k, and `theta` (T, 1) are learned. It starts as ISTA on
    ½‖x − Dz‖² + λ‖z‖₁: W_t = Dᵀ/c, θ_t = λ/c, c = ‖D‖₂².

    Args:
        dictionary: D (n, K), an atom a column; copied.
        n_iter: T ≥ 0.
        lmbda: initial λ ≥ 0, in the units of x.
        learn_dictionary: whether D is a parameter; otherwise it is a buffer.
        positive: whether codes are non-negative: h_θ(u) = max(u − θ, 0).
        dim: dimension of x that holds the features, and of z that holds the codes; 1 for feature maps (B, n, H, W).
        backend: a name of `scvae_fast.backends()`; None chooses by device and dtype.

    Raises:
        TypeError: a number, positive or dim is of another type, or the dictionary is not a floating-point tensor.
        ValueError: a number is out of range, or the dictionary is not an (n, K) matrix, is zero or is not finite.

    Example:
        >>> import torch
        >>> from scvae_fast import LISTACP, dictionaries
        >>> layer = LISTACP(dictionaries.dct(16, 32), n_iter=3)
        >>> layer.W.shape, layer(torch.randn(4, 16)).shape
        (torch.Size([3, 32, 16]), torch.Size([4, 32]))
    """

    def _initialise(self, D: torch.Tensor, c: torch.Tensor) -> None:
        self.W = nn.Parameter((D.T.double() / c).to(D.dtype).repeat(self.n_iter, 1, 1))  # (T, K, n)
        self.theta = self._of_each(self.lmbda / c, 1)

    def _codes(self, x: torch.Tensor, z0: torch.Tensor | None) -> torch.Tensor:
        return self._corrected(x, z0, self.W)


class TiLISTA(_OverDictionary):
    """LISTA-CP with one W for all iterations and a step for each, TiLISTA (Liu, Chen, Wang & Yin 2019).

        z_0 = 0;   z_{t+1} = h_{θ_t}(z_t + γ_t (x − z_t Dᵀ) Wᵀ),   t = 0 … T−1

    `W` (K, n), the transpose of the paper's W, `step` γ (T,) and `theta` (T, 1) are learned. It starts as ISTA on
    ½‖x − Dz‖² + λ‖z‖₁, as the authors' code does: W = Dᵀ/c, γ_t = 1, θ_t = λ/c, c = ‖D‖₂². The paper also selects a
    support that passes the threshold untouched; this layer does not.

    Arguments and errors are those of `LISTACP`.

    Example:
        >>> import torch
        >>> from scvae_fast import TiLISTA, dictionaries
        >>> layer = TiLISTA(dictionaries.dct(16, 32), n_iter=3)
        >>> layer.W.shape, layer.step.shape, layer(torch.randn(4, 16)).shape
        (torch.Size([32, 16]), torch.Size([3]), torch.Size([4, 32]))
    """

    def _initialise(self, D: torch.Tensor, c: torch.Tensor) -> None:
        self.W = nn.Parameter((D.T.double() / c).to(D.dtype).contiguous())  # (K, n)
        self.step = self._of_each(1.0)  # (T,)
        self.theta = self._of_each(self.lmbda / c, 1)

    def _codes(self, x: torch.Tensor, z0: torch.Tensor | None) -> torch.Tensor:
        return self._corrected(x, z0, self.W, self.step)


class ALISTA(_OverDictionary):
    """TiLISTA with the analytic W of D, so that only steps and thresholds are learned (Liu, Chen, Wang & Yin 2019).

        z_0 = 0;   z_{t+1} = h_{θ_t}(z_t + γ_t (x − z_t Dᵀ) Wᵀ),   t = 0 … T−1;   W = analytic_weights(D)

    `step` γ (T,) and `theta` (T, 1) are learned, 2T numbers. As in the authors' code they start at γ_t = 1 and
    θ_t = λ/c, c = ‖D‖₂². The paper also selects a support that passes the threshold untouched; this layer does not.

    W (K, n) follows D. It is computed in a call, under autograd if D is learned, and cached until D changes. Compiled
    code, transforms of torch.func and captured CUDA graphs compute it in every call, which costs an
    eigendecomposition of DDᵀ. `dictionaries.analytic_weights` returns W itself, for instance for a `TiLISTA` whose W is
    then frozen.

    Arguments and errors are those of `LISTACP`, plus ValueError if an atom is zero.

    Example:
        >>> import torch
        >>> from scvae_fast import ALISTA, dictionaries
        >>> layer = ALISTA(dictionaries.dct(16, 32), n_iter=3)
        >>> sum(p.numel() for p in layer.parameters()), layer(torch.randn(4, 16)).shape
        (6, torch.Size([4, 32]))
    """

    def _initialise(self, D: torch.Tensor, c: torch.Tensor) -> None:
        dictionaries.check_analytic(D)
        self.step = self._of_each(1.0)  # (T,)
        self.theta = self._of_each(self.lmbda / c, 1)
        self._kept = KeptWeights()

    def _codes(self, x: torch.Tensor, z0: torch.Tensor | None) -> torch.Tensor:
        (W,) = self._kept.of((self.dictionary,), _analytic, on_cuda=True)
        return self._corrected(x, z0, W, self.step)


def _analytic(D: torch.Tensor) -> tuple[torch.Tensor]:
    return (dictionaries.form_analytic_weights(D),)


class SLISTA(_OverDictionary):
    """ISTA with learned steps, SLISTA (Ablin, Moreau, Massias & Gramfort 2019).

        z_0 = 0;   z_{t+1} = h_{λγ_t}(z_t + γ_t (x D − z_t DᵀD)),   t = 0 … T−1

    Only the steps are learned, `step` γ (T,). They start at 1/c, c = ‖D‖₂²: ISTA on ½‖x − Dz‖² + λ‖z‖₁. λ is constant.
    On a CPU the Gram matrix DᵀD (K, K) is cached until D changes.

    Arguments and errors are those of `LISTACP`; λ is that of every iteration.

    Example:
        >>> import torch
        >>> from scvae_fast import SLISTA, dictionaries
        >>> layer = SLISTA(dictionaries.dct(16, 32), n_iter=3)
        >>> sum(p.numel() for p in layer.parameters()), layer(torch.randn(4, 16)).shape
        (3, torch.Size([4, 32]))
    """

    def _initialise(self, D: torch.Tensor, c: torch.Tensor) -> None:
        self.step = self._of_each(1 / c)  # (T,)
        self._kept = KeptWeights()

    def _codes(self, x: torch.Tensor, z0: torch.Tensor | None) -> torch.Tensor:
        (G,) = self._kept.of((self.dictionary,), _gram)
        b, theta = drive(x, self.dictionary.T), (self.lmbda * self.step).unsqueeze(1)
        T, positive = self.n_iter, self.positive
        return ista(b, G, theta, T, step=self.step, z0=z0, positive=positive, backend=self.backend)


def _gram(D: torch.Tensor) -> tuple[torch.Tensor]:
    with without_autocast(D):
        return (D.T @ D,)
