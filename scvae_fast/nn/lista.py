"""LISTA as layers: untied (Gregor & LeCun 2010), and tied to a dictionary as in SC-VAE (arXiv 2303.16666)."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from scvae_fast import dictionaries
from scvae_fast.ops.lista import lista
from scvae_fast.ops.sparse_code import sparse_code

Compat = Literal["paper", "official"]


def _squared_norm(dictionary: torch.Tensor) -> float:
    """‖D‖₂², the largest eigenvalue of DᵀD."""
    return float(torch.linalg.matrix_norm(dictionary.detach().double(), ord=2) ** 2)


def _check_positive(layer: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{layer}: {name} must be an int, got {type(size).__name__}")
        least = 0 if name == "n_iter" else 1
        if size < least:
            raise ValueError(f"{layer}: {name} must be at least {least}, got {size}")


def _check_sparsity(layer: str, sparsity: float) -> None:
    if not (math.isfinite(sparsity) and sparsity >= 0):
        raise ValueError(f"{layer}: sparsity must be a finite number >= 0, got {sparsity}")


def _version(*tensors: torch.Tensor) -> tuple[object, ...]:
    """Differs when the tensors are other ones, or were changed in place."""
    return tuple((t.data_ptr(), t._version, t.dtype, t.device) for t in tensors)


class LISTA(nn.Module):
    """Learned ISTA with its own W_e, S and θ (Gregor & LeCun 2010, section 3.2).

        b = x W_eᵀ;   z_0 = h_θ(b);   z_{t+1} = h_θ(b + z_t Sᵀ),   t = 0 … T−1

    It starts as ISTA on ½‖x − Dz‖² + λ‖z‖₁: W_e = Dᵀ/c, S = I − DᵀD/c, θ = λ/c with c = ‖D‖₂². Training then moves
    W_e (K, n), S (K, K) and θ (K,), the parameters, freely.

    Args:
        n_features: n.
        n_atoms: K.
        n_iter: T ≥ 0.
        dictionary: (n, K) to start from; None draws unit-norm atoms at random.
        sparsity: λ ≥ 0, in the units of x.
        generator: of the random atoms; torch's own if None.
        backend: a name of `scvae_fast.backends()`; None chooses by device and dtype.
        bfloat16_S: whether calls in eval mode that give S no gradient take it in bfloat16 (where it is float32); the
            error is that of `DictionaryLISTA`.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        TypeError: a size is no int.
        ValueError: a size or λ is out of range, or the dictionary is not (n, K) or is zero.
    """

    def __init__(
        self,
        n_features: int,
        n_atoms: int,
        n_iter: int,
        *,
        dictionary: torch.Tensor | None = None,
        sparsity: float = 0.1,
        generator: torch.Generator | None = None,
        backend: str | None = None,
        bfloat16_S: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_positive("LISTA", n_features=n_features, n_atoms=n_atoms, n_iter=n_iter)
        _check_sparsity("LISTA", sparsity)
        if dictionary is None:
            dictionary = dictionaries.random_unit(n_features, n_atoms, generator=generator)
        elif tuple(dictionary.shape) != (n_features, n_atoms):
            raise ValueError(
                f"LISTA: dictionary must be (n_features, n_atoms) = ({n_features}, {n_atoms}), "
                f"got {list(dictionary.shape)}"
            )
        D = dictionary.detach().double()
        c = _checked_squared_norm("LISTA", D)
        self.n_features, self.n_atoms, self.n_iter, self.backend = n_features, n_atoms, n_iter, backend
        self.bfloat16_S = bfloat16_S
        self._cached: tuple[object, torch.Tensor] | None = None
        dtype = dtype or torch.get_default_dtype()

        def parameter(value: torch.Tensor) -> nn.Parameter:
            return nn.Parameter(value.to(device=device, dtype=dtype))

        self.W_e = parameter(D.T / c)  # (K, n)
        self.S = parameter(torch.eye(n_atoms, dtype=D.dtype, device=D.device) - D.T @ D / c)  # (K, K)
        self.theta = parameter(torch.full((n_atoms,), sparsity / c, dtype=D.dtype))  # (K,)

    def forward(self, x: torch.Tensor, z0: torch.Tensor | None = None) -> torch.Tensor:
        """Codes z (..., K) of x (..., n), from a warm start z0 (..., K) if one is given."""
        b = nn.functional.linear(x, self.W_e)
        return lista(b, self._inhibition(), self.theta, self.n_iter, z0=z0, backend=self.backend)

    def _inhibition(self) -> torch.Tensor:
        """S (K, K); in bfloat16, kept between calls, where that was asked for and no gradient can reach it."""
        needs_grad = torch.is_grad_enabled() and self.S.requires_grad
        if not self.bfloat16_S or self.training or needs_grad or self.S.dtype != torch.float32:
            return self.S
        if torch.compiler.is_compiling():
            return self.S.bfloat16()
        key = _version(self.S)
        if self._cached is None or self._cached[0] != key:
            # Kept tensors must outlive an inference_mode region that they were first needed in.
            with torch.inference_mode(False), torch.no_grad():
                self._cached = key, self.S.bfloat16()
        return self._cached[1]

    def __getstate__(self) -> dict[str, Any]:
        """Without what is kept between calls: copies and pickles form it again."""
        return {**self.__dict__, "_cached": None}

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"n_features={self.n_features}, n_atoms={self.n_atoms}, n_iter={self.n_iter}"


class _Cached(NamedTuple):
    key: tuple[object, ...]
    W_e: torch.Tensor
    S: torch.Tensor


class DictionaryLISTA(nn.Module):
    """LISTA tied to a dictionary D and a step constant c: the bottleneck of SC-VAE (arXiv 2303.16666).

        W_e = Dᵀ/c;   S = I − DᵀD/c;   θ = λ/c
        b = x W_eᵀ;   z_0 = h_θ(γ b);   z_{t+1} = h_θ(b + z_t Sᵀ), t = 0 … T−1;   x̂ = z_T Dᵀ

    `compat="paper"` has γ = 1: ISTA on ½‖x − Dz‖² + λ‖z‖₁, from the start. `compat="official"` is the authors' released
    code, which starts from the unscaled x D, so γ = c.

    `dictionary` (n, K) and `step` () = c are parameters where they are learned, else buffers. In training W_e and S are
    formed once a call, under autograd; where no gradient can reach them in eval mode they are kept between calls. While
    training, a warning is given once when c falls under ‖D‖₂², where ISTA may diverge.

    Args:
        dictionary: (n, K) to start from, copied.
        n_iter: T ≥ 0.
        sparsity: λ ≥ 0 (the released code's β), in the units of x; fixed.
        compat: "paper" or "official".
        step: c > 0 to start from; None is ‖D‖₂².
        learn_dictionary: whether D is a parameter.
        learn_step: whether c is a parameter.
        backend: a name of `scvae_fast.backends()`; None chooses by device and dtype.
        bfloat16_S: whether calls in eval mode that give S no gradient take it in bfloat16 (where it is float32). Over
            SC-VAE's DCT dictionary, x ~ N(0, 1), codes then err by 0.4 % at T = 5 and 1.3 % at T = 30 (‖z − z*‖/‖z*‖,
            z* in float64), from the official start by 0.8 to 1.4 %; in float32 by less than 0.0001 %.

    Raises:
        TypeError: n_iter is no int, or the dictionary is no floating-point tensor.
        ValueError: an argument is out of range, or the dictionary is no (n, K) matrix, is zero or is not finite.
    """

    dictionary: torch.Tensor
    step: torch.Tensor

    # Training calls between two looks at ‖D‖₂, which costs a singular value decomposition.
    _CHECK_EVERY = 100
    # c starts at ‖D‖₂² itself: rounding and the first steps must not warn.
    _STEP_SLACK = 1e-3

    def __init__(
        self,
        dictionary: torch.Tensor,
        n_iter: int,
        sparsity: float,
        compat: Compat = "paper",
        *,
        step: float | None = None,
        learn_dictionary: bool = True,
        learn_step: bool = True,
        backend: str | None = None,
        bfloat16_S: bool = False,
    ) -> None:
        super().__init__()
        layer = "DictionaryLISTA"
        if not isinstance(dictionary, torch.Tensor) or not dictionary.is_floating_point():
            raise TypeError(f"{layer}: dictionary must be a floating-point torch.Tensor")
        if dictionary.dim() != 2 or 0 in dictionary.shape:
            raise ValueError(f"{layer}: dictionary must be (n, K), got {list(dictionary.shape)}")
        _check_positive(layer, n_iter=n_iter)
        _check_sparsity(layer, sparsity)
        if compat not in ("paper", "official"):
            raise ValueError(f"{layer}: compat must be 'paper' or 'official', got {compat!r}")
        if step is not None and not (math.isfinite(step) and step > 0):
            raise ValueError(f"{layer}: step must be a finite number > 0, got {step}")
        self.n_features, self.n_atoms = dictionary.shape
        self.n_iter, self.sparsity, self.compat, self.backend = n_iter, float(sparsity), compat, backend
        self.bfloat16_S = bfloat16_S
        self._hold("dictionary", dictionary.detach().clone(), learn_dictionary)
        c = _checked_squared_norm(layer, dictionary) if step is None else float(step)
        self._hold("step", dictionary.new_full((), c, requires_grad=False), learn_step)
        self._cached: _Cached | None = None
        self._calls = 0
        self._warned = False

    def _hold(self, name: str, value: torch.Tensor, learned: bool) -> None:
        if learned:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def forward(self, x: torch.Tensor, z0: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes z (..., K) of x (..., n), and the reconstruction x̂ (..., n) from them.

        z0 (..., K) are codes to start from (a warm start), instead of h_θ(γ b).
        """
        if self.training and not torch.compiler.is_compiling():
            self._watch_step()
        W_e, S = self._weights()
        theta = self.sparsity / self.step
        gain = self.step if self.compat == "official" and z0 is None else 1.0
        return sparse_code(x, W_e, S, theta, self.dictionary, self.n_iter, gain=gain, z0=z0, backend=self.backend)

    def _weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """W_e (K, n) and S (K, K); kept between calls in eval mode."""
        needs_grad = torch.is_grad_enabled() and (self.dictionary.requires_grad or self.step.requires_grad)
        if self.training or needs_grad:
            return self._form_weights()
        if torch.compiler.is_compiling():
            W_e, S = self._form_weights()
            return W_e, self._stored(S)
        key = (self.bfloat16_S, *_version(self.dictionary, self.step))
        if self._cached is None or self._cached.key != key:
            # Kept tensors must outlive an inference_mode region that they were first needed in.
            with torch.inference_mode(False), torch.no_grad():
                W_e, S = self._form_weights()
                self._cached = _Cached(key, W_e, self._stored(S))
        return self._cached.W_e, self._cached.S

    def _stored(self, S: torch.Tensor) -> torch.Tensor:
        return S.bfloat16() if self.bfloat16_S and S.dtype == torch.float32 else S

    def _form_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        D, c = self.dictionary, self.step
        # The over-complete S has eigenvalues equal to 1, which rounding to 16 bits would push beyond.
        autocast = torch.is_autocast_enabled(D.device.type)
        with torch.autocast(D.device.type, enabled=False) if autocast else nullcontext():
            identity = torch.eye(self.n_atoms, dtype=D.dtype, device=D.device)
            return D.T / c, identity - D.T @ D / c

    @torch.no_grad()
    def raise_step(self, margin: float = 1.0) -> None:
        """Raises c to margin · ‖D‖₂² where it is less: a projection to call now and then in training.

        It costs a singular value decomposition of D.
        """
        self.step.clamp_(min=margin * _squared_norm(self.dictionary))

    def _watch_step(self) -> None:
        due = self._calls % self._CHECK_EVERY == 0
        self._calls += 1
        if not due or self._warned:
            return
        norm, c = _squared_norm(self.dictionary), float(self.step.detach())
        if c < norm * (1 - self._STEP_SLACK):
            self._warned = True
            warnings.warn(
                f"DictionaryLISTA: the step constant c = {c:.4g} fell under ‖D‖₂² = {norm:.4g}: the iterations may "
                "diverge (ISTA converges for c >= ‖D‖₂²)",
                stacklevel=3,
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without what is kept between calls: copies and pickles form it again."""
        return {**self.__dict__, "_cached": None}

    def extra_repr(self) -> str:
        """Sizes and settings, for printing."""
        return (
            f"n_features={self.n_features}, n_atoms={self.n_atoms}, n_iter={self.n_iter}, "
            f"sparsity={self.sparsity:g}, compat={self.compat!r}"
        )


def _checked_squared_norm(layer: str, dictionary: torch.Tensor) -> float:
    norm = _squared_norm(dictionary)
    if not (math.isfinite(norm) and norm > 0):
        raise ValueError(f"{layer}: dictionary must be finite and not zero, got ‖D‖₂² = {norm}")
    return norm
