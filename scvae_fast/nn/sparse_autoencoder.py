"""The sparse autoencoder: dictionaries with many more atoms than features, and iterations without a K × K matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from scvae_fast._devices import holds_values
from scvae_fast.functional import decode, sparse_code
from scvae_fast.nn.layer import drive, fista_momentum
from scvae_fast.ops import checks
from scvae_fast.ops.backends import check_name
from scvae_fast.ops.library import autocast_is_on

_LAYER = "SparseAutoencoder"
_POWER_STEPS = 100


class TopKCodes(NamedTuple):
    """The k largest codes of every row, largest first."""

    values: torch.Tensor  # (..., k), 0 where fewer than k codes are positive
    indices: torch.Tensor  # (..., k) int64, the atoms


class SparseAutoencoder(nn.Module):
    """One-layer sparse autoencoder; T iterations of non-negative FISTA on its own decoder refine its codes.

        z_0     = top_k(ReLU((x − b_dec) W_encᵀ + b_enc))
        y_t     = z_t + β_t (z_t − z_{t−1}),  y_0 = z_0
        z_{t+1} = max(y_t + γ_t (x − b_dec − y_t Dᵀ) D − γ_t λ, 0),  t = 0 … T−1
        z       = top_k(z_T),   x̂ = z Dᵀ + b_dec

    top_k keeps the k largest codes of a row, or all if k is None. T = 0 is the usual sparse autoencoder, with a k the
    TopK variant (Gao et al. 2024, arXiv 2406.04093). z_0 is itself such a step: from zero, of length 1, with a separate
    encoder and the thresholds −b_enc. From there, the iterations are those of ISTA and FISTA (Beck & Teboulle 2009) on
    ½‖x − b_dec − Dz‖² + Σ_j λ_j z_j, z ≥ 0, with learned steps, to which the thresholds are proportional (SLISTA, Ablin
    et al. 2019). A single layer can't find the codes of all sparse signals, even where they are identifiable (O'Neill,
    Gumran & Klindt 2025, arXiv 2411.13117). No K × K matrix is formed, forward or backward: `sparse_code` without S.

    Parameters: W_enc (K, n), b_enc (K,), `atoms` (n, K), b_dec (n,); and if T > 0 λ (K,) as `lmbda`, γ (T,) as `step`
    and β (T,) as `momentum`. D (n, K), `dictionary`, is the atoms divided by their norms, or with unit_norm=False the
    atoms themselves. Every use divides anew, so D is never stale. Initially W_enc = Dᵀ, b_enc = −λ, b_dec = 0,
    γ = 1/‖D‖₂² (by power iteration) and β is that of FISTA; β_0 has no effect. γ does not follow D: if ‖D‖₂ grows in
    training, γ has to be learned smaller.

    `threshold` (K,) is a buffer, None except for JumpReLU (Rajamanoharan et al. 2024, arXiv 2407.14435). With it, z_0
    keeps its positive entries > threshold unchanged, and the others are 0. The iterations start from that z_0 and use
    the soft threshold γλ as before: the jump affects only the start. The threshold gets no gradient.

    Args:
        n_features: n.
        n_atoms: K.
        n_iter: T ≥ 0.
        k: largest number of positive codes in a row, in z_0 and in the result; None keeps all. `torch.topk` chooses
            among equal codes.
        lmbda: initial λ ≥ 0, one value or (K,), in the units of x.
        momentum: whether the iterations have a β; without it they start as ISTA.
        unit_norm: whether every atom of D has unit norm.
        subtract_b_dec: whether z_0 is computed from x − b_dec, or from x. The iterations use x − b_dec in both cases.
        dictionary: (n, K), initial value, copied; None draws unit-norm atoms at random.
        generator: of the random atoms; None uses torch's own.
        backend: a name of `scvae_fast.backends()`; None chooses by device and dtype.
        device: of the parameters.
        dtype: of the parameters; by default that of the dictionary, or torch's default dtype without one.

    Raises:
        TypeError: a size or k is not an int, λ is not a number or tensor, the dictionary is not a floating-point
            tensor, or the operations don't support the dtype.
        ValueError: a size, k or λ is out of range, or the dictionary is not (n, K), is not finite or has a zero atom.

    Example:
        >>> import torch
        >>> from scvae_fast import SparseAutoencoder
        >>> layer = SparseAutoencoder(n_features=16, n_atoms=128, n_iter=4, k=8)
        >>> z, x_hat = layer(torch.randn(5, 16))
        >>> z.shape, int((z != 0).sum(1).max()) <= 8
        (torch.Size([5, 128]), True)
    """

    lmbda: nn.Parameter | None
    step: nn.Parameter | None
    momentum: nn.Parameter | None
    threshold: torch.Tensor | None

    def __init__(
        self,
        n_features: int,
        n_atoms: int,
        n_iter: int,
        *,
        k: int | None = None,
        lmbda: float | torch.Tensor = 0.1,
        momentum: bool = True,
        unit_norm: bool = True,
        subtract_b_dec: bool = True,
        dictionary: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        backend: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.n_features = checks.count(_LAYER, "n_features", n_features, least=1)
        self.n_atoms = checks.count(_LAYER, "n_atoms", n_atoms, least=1)
        self._n_iter = checks.count(_LAYER, "n_iter", n_iter)
        check_name(_LAYER, backend)
        self.k = None if k is None else _checked_k(k, self.n_atoms)
        self.unit_norm, self.subtract_b_dec, self.backend = unit_norm, subtract_b_dec, backend
        penalty = _checked_lmbda(_LAYER, lmbda, self.n_atoms)
        if dictionary is None:
            dtype = dtype or torch.get_default_dtype()
            D = _random_atoms(self.n_features, self.n_atoms, generator, device, dtype)
        else:
            D = _checked_dictionary(dictionary, self.n_features, self.n_atoms, unit_norm)
            dtype = dtype or D.dtype
        checks.is_taken(_LAYER, "dtype", dtype)

        def parameter(value: torch.Tensor) -> nn.Parameter:
            moved = value.to(device=device or D.device, dtype=dtype)
            return nn.Parameter(moved.clone(memory_format=torch.contiguous_format))

        self.W_enc = parameter(D.T)  # (K, n)
        self.b_enc = parameter(-penalty.to(D).expand(self.n_atoms))  # (K,)
        self.b_dec = parameter(D.new_zeros(self.n_features))  # (n,)
        self.atoms = parameter(D)  # (n, K)
        self.register_buffer("threshold", None)
        for name, value in _iteration(D, penalty, self._n_iter, momentum).items():
            self.register_parameter(name, None if value is None else parameter(value))

    @property
    def dictionary(self) -> torch.Tensor:
        """D (n, K), computed from the current atoms; an atom of zeros becomes NaN if D has unit norm."""
        # torch.nn.utils.parametrize would create a class per layer, which pickle and stack_module_state reject.
        return self.atoms / torch.linalg.vector_norm(self.atoms, dim=0) if self.unit_norm else self.atoms

    @property
    def n_iter(self) -> int:
        """T. It can't be changed, because each iteration has its own step."""
        return int(self._n_iter)

    @classmethod
    def from_encoder(
        cls,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        W_dec: torch.Tensor,
        b_dec: torch.Tensor,
        n_iter: int = 0,
        *,
        threshold: torch.Tensor | None = None,
        k: int | None = None,
        lmbda: float | torch.Tensor | None = None,
        momentum: bool = True,
        subtract_b_dec: bool = True,
        backend: str | None = None,
    ) -> SparseAutoencoder:
        """A layer that computes a given sparse autoencoder, and refines its codes if T > 0.

        With T = 0 it has exactly the same codes and reconstructions. So D is W_dec itself, not scaled to unit norm.
        Matrices are laid out as in `torch.nn.Linear`; those of `x @ W` must be transposed.

        Args:
            W_enc: (K, n) encoder; copied, like all tensors.
            b_enc: (K,) bias of the encoder.
            W_dec: (n, K) decoder, an atom a column.
            b_dec: (n,) bias of the decoder.
            n_iter: T ≥ 0.
            threshold: (K,) threshold of JumpReLU; None for ReLU.
            k: k of TopK; None keeps all codes.
            lmbda: λ ≥ 0, one value or (K,). None derives it from the encoder, so that the first iteration from zero
                makes code j nonzero for the same x as the encoder, if d_j and the encoder's row w_j have the same
                direction: λ_j = max(threshold_j − b_j, 0) ‖d_j‖/‖w_j‖, where b_j is the bias added to (x − b_dec) w_jᵀ,
                and a threshold is taken as 0 if it is negative or there is none. With ReLU, W_enc = Dᵀ and b_enc ≤ 0,
                λ is −b_enc.
            momentum: whether the iterations have a β.
            subtract_b_dec: whether the encoder gets x − b_dec, or x.
            backend: a name of `scvae_fast.backends()`; None chooses by device and dtype.

        Raises:
            TypeError: an argument is not a floating-point tensor, or dtypes differ.
            ValueError: shapes or devices don't fit, a number is out of range, or T > 0 and W_dec is zero or not finite.
        """
        op = f"{_LAYER}.from_encoder"
        given = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
        given |= {} if threshold is None else {"threshold": threshold}
        K, n = _checked_sizes(op, given)
        iterates = checks.count(op, "n_iter", n_iter) > 0
        if iterates and holds_values(W_dec) and not (W_dec.isfinite().all() and W_dec.any()):
            raise ValueError(f"{op}: W_dec must be finite and not zero where n_iter > 0")
        penalty = None if lmbda is None else _checked_lmbda(op, lmbda, K)
        layer = cls(
            n, K, n_iter, k=k, momentum=momentum, unit_norm=False, subtract_b_dec=subtract_b_dec, dictionary=W_dec,
            backend=backend, device=W_dec.device, dtype=W_dec.dtype,
        )  # fmt: skip
        with torch.no_grad():
            for name in ("W_enc", "b_enc", "b_dec"):
                getattr(layer, name).copy_(given[name])
            if threshold is not None:
                layer.threshold = threshold.detach().clone()
            if layer.lmbda is not None:
                layer.lmbda.copy_(layer._encoders_penalty() if penalty is None else penalty)
        return layer

    def _encoders_penalty(self) -> torch.Tensor:
        """λ (K,) with which the first iteration from zero has the encoder's support; see `from_encoder`."""
        bias = self.b_enc if self.subtract_b_dec else self.b_enc + self.W_enc @ self.b_dec
        bound = -bias if self.threshold is None else self.threshold.relu() - bias
        encoder, atom = torch.linalg.vector_norm(self.W_enc, dim=1), torch.linalg.vector_norm(self.dictionary, dim=0)
        return torch.where(encoder > 0, bound.relu() * atom / encoder, 0)

    def forward(self, x: torch.Tensor, z0: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes z (..., K) of x (..., n), and their reconstruction x̂ (..., n).

        z0 (..., K) are codes to start from (a warm start), instead of the encoder's.
        """
        D = self.dictionary
        z, x_hat = self._iterated(x, z0, D)
        if self.k is not None:
            z, x_hat = self._top_k(z), None
        return z, (decode(z, D, backend=self.backend) if x_hat is None else x_hat) + self.b_dec

    def encode(self, x: torch.Tensor, z0: torch.Tensor | None = None) -> torch.Tensor:
        """Codes z (..., K) of x (..., n), from a warm start z0 (..., K) if one is given."""
        return self._top_k(self._iterated(x, z0, self.dictionary)[0])

    def encode_topk(self, x: torch.Tensor, z0: torch.Tensor | None = None) -> TopKCodes:
        """The k largest codes of x (..., n) and their atoms, both (..., k): the result of `encode` without its zeros.

        Raises:
            ValueError: the layer has no k.
        """
        if self.k is None:
            raise ValueError(f"{_LAYER}: encode_topk needs a layer with a k, got k = None")
        return _largest(self._iterated(x, z0, self.dictionary)[0], self.k)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Reconstruction x̂ = z Dᵀ + b_dec (..., n) from codes (..., K)."""
        return decode(z, self.dictionary, backend=self.backend) + self.b_dec

    def _iterated(
        self, x: torch.Tensor, z0: torch.Tensor | None, D: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """z_T (..., K), before top_k if T = 0, and z_T Dᵀ if the operation computed it."""
        self._check(x)
        centred = x - self.b_dec
        if z0 is None:
            z0 = self._one_layer(centred if self.subtract_b_dec else x)
            if self.n_iter == 0:
                return z0, None
            z0 = self._top_k(z0)
        theta = 0.0 if self.step is None or self.lmbda is None else self.step[:, None] * self.lmbda
        return sparse_code(
            centred, D.T, None, theta, D, self.n_iter, step=self.step, momentum=self.momentum, z0=z0, positive=True,
            backend=self.backend,
        )  # fmt: skip

    def _one_layer(self, x: torch.Tensor) -> torch.Tensor:
        """z_0 (..., K) before top_k."""
        u = drive(x, self.W_enc, self.b_enc)
        z = u.relu()
        # Multiplication instead of torch.where keeps NaN.
        return z if self.threshold is None else z * (u > self.threshold).to(z.dtype)

    def _top_k(self, z: torch.Tensor) -> torch.Tensor:
        if self.k is None:
            return z
        values, indices = _largest(z, self.k)
        return torch.zeros_like(z).scatter(-1, indices, values)

    def _check(self, x: torch.Tensor) -> None:
        checks.are_tensors(_LAYER, x=x)
        if x.dim() == 0 or x.shape[-1] != self.n_features:
            raise ValueError(f"{_LAYER}: x must be (..., n) with n = {self.n_features}, got {list(x.shape)}")
        if not autocast_is_on(x.device.type):
            checks.agree(_LAYER, ("W_enc", "x"), (self.W_enc, x))

    def extra_repr(self) -> str:
        """Sizes and settings, for printing."""
        return (
            f"n_features={self.n_features}, n_atoms={self.n_atoms}, n_iter={self.n_iter}, k={self.k}, "
            f"unit_norm={self.unit_norm}"
        )


def _largest(z: torch.Tensor, k: int) -> TopKCodes:
    values, indices = torch.topk(z, k)
    return TopKCodes(values, indices)


def _iteration(D: torch.Tensor, penalty: torch.Tensor, n_iter: int, momentum: bool) -> dict[str, torch.Tensor | None]:
    """Initial λ, γ and β; None for each if there are no iterations."""
    if n_iter == 0:
        return dict.fromkeys(("lmbda", "step", "momentum"))
    step = 1 / _squared_norm(D)
    beta = fista_momentum(n_iter) if momentum else None
    return {"lmbda": penalty.to(D).expand(D.shape[1]), "step": step.expand(n_iter), "momentum": beta}


def _squared_norm(dictionary: torch.Tensor) -> torch.Tensor:
    """‖D‖₂² (), from below, by power iteration on D Dᵀ; ValueError unless it is finite and positive."""
    D = dictionary.detach()
    D = D.float() if checks.is_half(D.dtype) else D
    v = torch.arange(1, len(D) + 1, dtype=D.dtype, device=D.device).cos()  # has components in every direction
    for _ in range(_POWER_STEPS):
        v = D @ (v @ D)
        v = v / torch.linalg.vector_norm(v)
    norm = (v @ D).square().sum()
    if holds_values(norm) and not (norm.isfinite() and norm > 0):
        raise ValueError(f"{_LAYER}: dictionary must be finite and not zero, got ‖D‖₂² = {float(norm)}")
    return norm


def _random_atoms(
    n: int, K: int, generator: torch.Generator | None, device: torch.device | str | None, dtype: torch.dtype
) -> torch.Tensor:
    """Atoms (n, K) drawn uniformly from the unit sphere, without the Gram matrix that `random_unit` forms."""
    place = device if generator is None else generator.device
    V = torch.randn(n, K, generator=generator, device=place, dtype=torch.promote_types(dtype, torch.float32))
    return V / torch.linalg.vector_norm(V, dim=0)


def _checked_sizes(op: str, given: dict[str, torch.Tensor]) -> tuple[int, int]:
    """K and n of the tensors of `from_encoder`; raises unless they fit together."""
    checks.are_tensors(op, **given)
    checks.agree(op, list(given), given.values())
    W_enc = given["W_enc"]
    if W_enc.dim() != 2 or 0 in W_enc.shape:
        raise ValueError(f"{op}: W_enc must be (K, n), got {list(W_enc.shape)}")
    K, n = W_enc.shape
    shapes = {
        "b_enc": ("(K,)", (K,)),
        "W_dec": ("(n, K)", (n, K)),
        "b_dec": ("(n,)", (n,)),
        "threshold": ("(K,)", (K,)),
    }
    for name, tensor in given.items():
        if name != "W_enc":
            meaning, shape = shapes[name]
            checks.has_shape(op, name, tensor, shape, f"{meaning}, with (K, n) that of W_enc,")
    return K, n


def _checked_dictionary(dictionary: torch.Tensor, n: int, K: int, unit_norm: bool) -> torch.Tensor:
    checks.are_tensors(_LAYER, dictionary=dictionary)
    checks.agree(_LAYER, ("dictionary",), (dictionary,))
    checks.has_shape(_LAYER, "dictionary", dictionary, (n, K), "(n_features, n_atoms)")
    D = dictionary.detach()
    norms = torch.linalg.vector_norm(D, dim=0)
    if unit_norm and holds_values(norms) and not bool(((norms > 0) & norms.isfinite()).all()):
        raise ValueError(f"{_LAYER}: dictionary must be finite, with no atom of zeros, where unit_norm is True")
    return D / norms if unit_norm else D


def _checked_k(k: int, n_atoms: int) -> int:
    k = checks.count(_LAYER, "k", k, least=1)
    if k > n_atoms:
        raise ValueError(f"{_LAYER}: k must be at most n_atoms = {n_atoms}, got {k}")
    return k


def _checked_lmbda(op: str, lmbda: float | torch.Tensor, n_atoms: int) -> torch.Tensor:
    """λ as a tensor () or (K,)."""
    if isinstance(lmbda, torch.Tensor):
        checks.is_scalar_or_per_atom(op, "lmbda", lmbda, n_atoms)
        value = lmbda.detach().reshape(()) if lmbda.numel() == 1 else lmbda.detach()
    else:
        number = checks.python_number(lmbda)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise TypeError(f"{op}: lmbda must be a number or a torch.Tensor, got {type(lmbda).__name__}")
        value = torch.tensor(float(number), dtype=torch.float64, device="cpu")
    if holds_values(value) and not bool((value.isfinite() & (value >= 0)).all()):
        raise ValueError(f"{op}: lmbda must be finite and >= 0, got {lmbda}")
    return value
