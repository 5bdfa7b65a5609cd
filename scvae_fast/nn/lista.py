"""LISTA as layers: untied (Gregor & LeCun 2010), and tied to a dictionary as in SC-VAE (arXiv 2303.16666)."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from scvae_fast import dictionaries
from scvae_fast._devices import holds_values
from scvae_fast.functional import decode, lista, sparse_code
from scvae_fast.ops import checks
from scvae_fast.ops.dispatch import in_forward_mode, in_transform, is_plain, needs_gradient
from scvae_fast.ops.library import autocast_is_on

Compat = Literal["paper", "official"]


def _squared_norm(dictionary: torch.Tensor) -> torch.Tensor:
    """‖D‖₂² (), the largest eigenvalue of DᵀD, as a float64 tensor."""
    return torch.linalg.matrix_norm(dictionary.detach().double(), ord=2) ** 2


def _checked_squared_norm(layer: str, dictionary: torch.Tensor) -> torch.Tensor:
    """‖D‖₂²; raises ValueError unless it is finite and positive. A tensor without values passes."""
    norm = _squared_norm(dictionary)
    if holds_values(norm) and not (norm.isfinite() and norm > 0):
        raise ValueError(f"{layer}: dictionary must be finite and not zero, got ‖D‖₂² = {float(norm)}")
    return norm


def _is_differentiated(tensors: tuple[torch.Tensor, ...]) -> bool:
    """Whether a derivative with respect to any of them may be asked for, as under every transform of torch.func."""
    transformed = not torch.compiler.is_compiling() and (in_transform() or in_forward_mode())
    return transformed or needs_gradient(tensors)


def _check_lmbda(layer: str, lmbda: float) -> float:
    number = checks.python_number(lmbda)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{layer}: lmbda must be a finite number >= 0, got {lmbda}")
    return float(number)


def _checked_inhibition(layer: str, dtype: torch.dtype | None) -> torch.dtype | None:
    if dtype not in (None, torch.bfloat16):
        raise ValueError(f"{layer}: inhibition_dtype must be None or torch.bfloat16, got {dtype}")
    return dtype


class LISTA(nn.Module):
    """Learned ISTA with its own W_e, S and θ (Gregor & LeCun 2010, section 3.2).

        b = x W_eᵀ;   z_0 = h_θ(b);   z_{t+1} = h_θ(b + z_t Sᵀ),   t = 0 … T−1

    It starts as ISTA on ½‖x − Dz‖² + λ‖z‖₁: W_e = Dᵀ/c, S = I − DᵀD/c, θ = λ/c with c = ‖D‖₂². Training then moves
    W_e (K, n), S (K, K) and θ (K,), the parameters, freely. The dictionary D (n, K) stays as it is, a buffer; `decode`
    takes it.

    Args:
        n_features: n.
        n_atoms: K.
        n_iter: T ≥ 0.
        dictionary: (n, K) to start from; None draws unit-norm atoms at random.
        lmbda: λ ≥ 0, in the units of x.
        generator: of the random atoms; torch's own if None.
        backend: a name of `scvae_fast.backends()`; None chooses by device and dtype.
        inhibition_dtype: torch.bfloat16 stores a float32 S so in eval mode, in calls that give it no gradient; the
            error is that of `DictionaryLISTA`. None leaves S as it is.
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
        lmbda: float = 0.1,
        generator: torch.Generator | None = None,
        backend: str | None = None,
        inhibition_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        n_features = checks.count("LISTA", "n_features", n_features, least=1)
        n_atoms = checks.count("LISTA", "n_atoms", n_atoms, least=1)
        n_iter = checks.count("LISTA", "n_iter", n_iter)
        lmbda = _check_lmbda("LISTA", lmbda)
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
        self.inhibition_dtype = _checked_inhibition("LISTA", inhibition_dtype)
        dtype = dtype or torch.get_default_dtype()

        def parameter(value: torch.Tensor) -> nn.Parameter:
            return nn.Parameter(value.to(device=device, dtype=dtype).contiguous())

        self.W_e = parameter(D.T / c)  # (K, n)
        self.S = parameter(torch.eye(n_atoms, dtype=D.dtype, device=D.device) - D.T @ D / c)  # (K, K)
        self.theta = parameter((lmbda / c).repeat(n_atoms))  # (K,)
        self.dictionary: torch.Tensor  # (n, K)
        self.register_buffer("dictionary", D.to(device=device, dtype=dtype).contiguous())

    def forward(self, x: torch.Tensor, z0: torch.Tensor | None = None) -> torch.Tensor:
        """Codes z (..., K) of x (..., n): `encode`."""
        return self.encode(x, z0)

    def encode(self, x: torch.Tensor, z0: torch.Tensor | None = None) -> torch.Tensor:
        """Codes z (..., K) of x (..., n), from a warm start z0 (..., K) if one is given."""
        b = nn.functional.linear(x, self.W_e)
        return lista(b, self._inhibition(), self.theta, self.n_iter, z0=z0, backend=self.backend)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Reconstruction x̂ = D z (..., n) from codes (..., K), over the dictionary that the layer started from."""
        return decode(z, self.dictionary, backend=self.backend)

    def _inhibition(self) -> torch.Tensor:
        """S (K, K); in bfloat16 where that was asked for and no gradient can reach it."""
        narrow = self.inhibition_dtype is not None and not self.training and not _is_differentiated((self.S,))
        return self.S.bfloat16() if narrow and self.S.dtype == torch.float32 else self.S

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Leave the dictionary as it is where a state dict has none."""
        state_dict.setdefault(f"{prefix}dictionary", self.dictionary)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"n_features={self.n_features}, n_atoms={self.n_atoms}, n_iter={self.n_iter}"


class _Kept(NamedTuple):
    """W_e and S, kept between calls in eval mode, with copies of the D and c that they were formed from."""

    dictionary: torch.Tensor
    c: torch.Tensor
    inhibition_dtype: torch.dtype | None
    W_e: torch.Tensor
    S: torch.Tensor

    def fits(self, dictionary: torch.Tensor, c: torch.Tensor, inhibition_dtype: torch.dtype | None) -> bool:
        """Whether D and c still have the bits of the copies.

        Nothing but the contents tells: fused optimisers and writes to `.data` leave a tensor's version as it was, and a
        new tensor can have the address of an old one.
        """
        same_kind = self.inhibition_dtype == inhibition_dtype
        return same_kind and _same_bits(self.c, c) and _same_bits(self.dictionary, dictionary)


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether both have the same bits. Unlike ==, this tells 0 from −0 and finds a NaN equal to itself."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    packed = [t.detach().contiguous().view(-1) for t in (a, b)]
    # 64-bit integers are compared fastest, where size and place allow them.
    aligned = all(t.nbytes % 8 == 0 and t.storage_offset() * t.itemsize % 8 == 0 for t in packed)
    integer = torch.int64 if aligned else {2: torch.int16, 4: torch.int32}[a.itemsize]
    return torch.equal(*(t.view(integer) for t in packed))


class DictionaryLISTA(nn.Module):
    """LISTA tied to a dictionary D and a step constant c: the bottleneck of SC-VAE (arXiv 2303.16666).

        W_e = Dᵀ/c;   S = I − DᵀD/c;   θ = λ/c
        b = x W_eᵀ;   z_0 = h_θ(γ b);   z_{t+1} = h_θ(b + z_t Sᵀ), t = 0 … T−1;   x̂ = z_T Dᵀ

    `compat="paper"` has γ = 1: ISTA on ½‖x − Dz‖² + λ‖z‖₁, from the start. `compat="official"` is the authors' released
    code, which starts from the unscaled x D, so γ = c.

    `dictionary` (n, K) and `c` (1,) are parameters where they are learned, else buffers. Each call forms W_e and
    S, under autograd. In eval mode on a CPU, calls that need no derivative keep W_e and S, with copies of D and c.
    Later calls compare D and c with the copies, bit by bit, so they notice every change, however it was made. In
    training, a warning comes once when c falls below ‖D‖₂², where ISTA may diverge.

    On the meta device and for fake tensors ‖D‖₂² is unknown: load a state dict to give c its value.

    Args:
        dictionary: (n, K) to start from, copied.
        n_iter: T ≥ 0.
        lmbda: λ ≥ 0 (the released code's β), in the units of x; fixed.
        compat: "paper" or "official".
        c: c > 0 to start from; None is ‖D‖₂².
        learn_dictionary: whether D is a parameter.
        learn_c: whether c is a parameter.
        backend: a name of `scvae_fast.backends()`; None chooses by device and dtype.
        inhibition_dtype: torch.bfloat16 stores a float32 S so in eval mode, in calls that give it no gradient. Over
            SC-VAE's DCT dictionary, x ~ N(0, 1), codes then err by 0.4 % at T = 5 and 1.3 % at T = 30 (‖z − z*‖/‖z*‖,
            z* in float64), from the official start by 0.8 to 1.4 %; in float32 by less than 0.0001 %. None leaves S as
            it is.

    Raises:
        TypeError: n_iter is no int, or the dictionary is no floating-point tensor.
        ValueError: an argument is out of range, or the dictionary is no (n, K) matrix, is zero or is not finite.
    """

    dictionary: torch.Tensor  # (n, K)
    c: torch.Tensor  # (1,)

    # Training calls between two looks at ‖D‖₂, which costs a singular value decomposition.
    _CHECK_EVERY = 100
    # c starts at ‖D‖₂² itself: rounding and the first steps must not warn.
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
    ) -> None:
        super().__init__()
        layer = "DictionaryLISTA"
        if not isinstance(dictionary, torch.Tensor) or not dictionary.is_floating_point():
            raise TypeError(f"{layer}: dictionary must be a floating-point torch.Tensor")
        if dictionary.dim() != 2 or 0 in dictionary.shape:
            raise ValueError(f"{layer}: dictionary must be (n, K), got {list(dictionary.shape)}")
        n_iter, lmbda = checks.count(layer, "n_iter", n_iter), _check_lmbda(layer, lmbda)
        if compat not in ("paper", "official"):
            raise ValueError(f"{layer}: compat must be 'paper' or 'official', got {compat!r}")
        c = checks.python_number(c)
        if c is not None and not (math.isfinite(c) and c > 0):
            raise ValueError(f"{layer}: c must be a finite number > 0, got {c}")
        self.n_features, self.n_atoms = dictionary.shape
        self.n_iter, self.lmbda, self.compat, self.backend = n_iter, lmbda, compat, backend
        self.inhibition_dtype = _checked_inhibition(layer, inhibition_dtype)
        self._hold("dictionary", dictionary.detach().clone(), learn_dictionary)
        start = _checked_squared_norm(layer, dictionary) if c is None else torch.tensor(c, dtype=torch.float64)
        self._hold("c", start.to(dictionary).reshape(1), learn_c)
        self._kept: _Kept | None = None
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
        W_e, S, theta, gain = self._of_call(z0)
        return sparse_code(x, W_e, S, theta, self.dictionary, self.n_iter, gain=gain, z0=z0, backend=self.backend)

    def encode(self, x: torch.Tensor, z0: torch.Tensor | None = None) -> torch.Tensor:
        """Codes z (..., K) of x (..., n), from a warm start z0 (..., K) if one is given."""
        W_e, S, theta, gain = self._of_call(z0)
        b = nn.functional.linear(x, W_e)
        return lista(b, S, theta, self.n_iter, gain=gain, z0=z0, backend=self.backend)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Reconstruction x̂ = D z (..., n) from codes (..., K)."""
        return decode(z, self.dictionary, backend=self.backend)

    def _of_call(
        self, z0: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | float]:
        """W_e (K, n), S (K, K), θ (1,) and γ."""
        if self.training and is_plain((self.dictionary, self.c)):
            self._watch_c()
        gain = self.c if self.compat == "official" and z0 is None else 1.0
        return *self._weights(), self.lmbda / self.c, gain

    def _weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """W_e (K, n) and S (K, K); kept between calls in eval mode on a CPU, as long as D and c keep their values."""
        D, c = self.dictionary, self.c
        if self.training or _is_differentiated((D, c)):
            return self._form_weights(D, c)
        if not is_plain((D, c)) or D.device.type != "cpu" or D.is_inference() or c.is_inference():
            W_e, S = self._form_weights(D, c)
            return W_e, self._stored(S)
        kept = self._kept
        if kept is None or not kept.fits(D, c, self.inhibition_dtype):
            kept = self._kept = self._keep(D, c)
        return kept.W_e, kept.S

    def _keep(self, D: torch.Tensor, c: torch.Tensor) -> _Kept:
        # Tensors made in inference_mode could not be used outside of it. The weights are formed from the copies, so
        # they fit even if another thread changes D meanwhile.
        with torch.inference_mode(False), torch.no_grad():
            D, c = D.detach().clone(), c.detach().clone()
            W_e, S = self._form_weights(D, c)
            return _Kept(D, c, self.inhibition_dtype, W_e.contiguous(), self._stored(S))

    def _stored(self, S: torch.Tensor) -> torch.Tensor:
        return S.bfloat16() if self.inhibition_dtype is not None and S.dtype == torch.float32 else S

    def _form_weights(self, D: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # The over-complete S has eigenvalues equal to 1, which rounding to 16 bits would push beyond.
        autocast = autocast_is_on(D.device.type)
        with torch.autocast(D.device.type, enabled=False) if autocast else nullcontext():
            identity = torch.eye(self.n_atoms, dtype=D.dtype, device=D.device)
            return D.T / c, identity - D.T @ D / c

    @torch.no_grad()
    def raise_c(self, margin: float = 1.0) -> None:
        """Raises c to margin · ‖D‖₂² where it is less: a projection to call now and then in training.

        It costs a singular value decomposition of D.
        """
        self.c.clamp_(min=margin * float(_squared_norm(self.dictionary)))

    def _watch_c(self) -> None:
        due = self._calls % self._CHECK_EVERY == 0
        self._calls += 1
        if not due or self._warned or (self.c.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        norm, c = float(_squared_norm(self.dictionary)), float(self.c.detach())
        if c < norm * (1 - self._SLACK_OF_C):
            self._warned = True
            warnings.warn(
                f"DictionaryLISTA: the step constant c = {c:.4g} fell under ‖D‖₂² = {norm:.4g}: the iterations may "
                "diverge (ISTA converges for c >= ‖D‖₂²)",
                stacklevel=3,
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the kept weights: copies and pickles form them again."""
        return {**self.__dict__, "_kept": None}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Accept a c without dimensions, and under its former name, `step`."""
        name, former = f"{prefix}c", f"{prefix}step"
        if former in state_dict and name not in state_dict:
            state_dict[name] = state_dict.pop(former)
        if (c := state_dict.get(name)) is not None and c.dim() == 0:
            state_dict[name] = c.reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Sizes and settings, for printing."""
        return (
            f"n_features={self.n_features}, n_atoms={self.n_atoms}, n_iter={self.n_iter}, "
            f"lmbda={self.lmbda:g}, compat={self.compat!r}"
        )
