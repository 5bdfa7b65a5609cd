"""LISTA with free weights (Gregor & LeCun 2010), shared by all iterations or separate for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from scvae_fast import dictionaries
from scvae_fast.functional import lista, sparse_code
from scvae_fast.nn.kept import is_differentiated
from scvae_fast.nn.layer import SparseCoder, checked_lmbda, checked_squared_norm, drive
from scvae_fast.ops import checks

PerIteration = Literal["thresholds", "all"] | None
Weights = torch.Tensor | Sequence[torch.Tensor]
Thresholds = torch.Tensor | float | Sequence[torch.Tensor | float]


def checked_inhibition(layer: str, dtype: torch.dtype | None) -> torch.dtype | None:
    """The dtype in which S is stored, or None; raises ValueError for any other dtype."""
    if dtype not in (None, torch.bfloat16):
        raise ValueError(f"{layer}: inhibition_dtype must be None or torch.bfloat16, got {dtype}")
    return dtype


class LISTA(SparseCoder):
    """Learned ISTA with its own W_e, S and θ (Gregor & LeCun 2010, section 3.2).

        z_0 = h_{θ_0}(x W_0ᵀ);   z_{t+1} = h_{θ_{t+1}}(x W_{t+1}ᵀ + z_t S_tᵀ),   t = 0 … T−1

    In the paper all iterations share W_e (K, n), S (K, K) and θ (K,): `per_iteration=None`. With "thresholds" each
    iteration has its own θ, (T + 1, K); with "all" also its own W_e, (T + 1, K, n), and S, (T, K, K).

    The layer starts as ISTA on ½‖x − Dz‖² + λ‖z‖₁: W_e = Dᵀ/c, S = I − DᵀD/c, θ = λ/c with c = ‖D‖₂². The parameters
    `W_e`, `S` and `theta` are then learned freely. The dictionary D (n, K) is a constant buffer, which `decode` uses.

    Args:
        n_features: n.
        n_atoms: K.
        n_iter: T ≥ 0.
        dictionary: (n, K), initial value; None draws unit-norm atoms at random.
        lmbda: λ ≥ 0, in the units of x.
        per_iteration: None, "thresholds" or "all".
        positive: whether codes are non-negative: h_θ(u) = max(u − θ, 0).
        dim: dimension of x that holds the features, and of z that holds the codes; 1 for feature maps (B, n, H, W).
        generator: of the random atoms; None uses torch's own.
        backend: a name of `scvae_fast.backends()`; None chooses by device and dtype.
        inhibition_dtype: torch.bfloat16 rounds a float32 S to bfloat16 in eval mode, in calls that give it no gradient;
            for the error see `DictionaryLISTA`. The parameter itself stays float32. None leaves S as it is.
        device: of the parameters.
        dtype: of the parameters; by default that of the dictionary, or torch's default dtype without one.

    Raises:
        TypeError: a size or dim is not an int, positive is not a bool, or the operations don't support the dtype.
        ValueError: a size or λ is out of range, per_iteration or inhibition_dtype is not one of these, or the
            dictionary is not (n, K), is zero or is not finite.

    Example:
        >>> import torch
        >>> from scvae_fast import LISTA
        >>> layer = LISTA(n_features=16, n_atoms=32, n_iter=5, lmbda=0.5)
        >>> z = layer(torch.randn(4, 16))
        >>> z.shape, layer.decode(z).shape
        (torch.Size([4, 32]), torch.Size([4, 16]))
    """

    def __init__(
        self,
        n_features: int,
        n_atoms: int,
        n_iter: int,
        *,
        dictionary: torch.Tensor | None = None,
        lmbda: float = 0.1,
        per_iteration: PerIteration = None,
        positive: bool = False,
        dim: int = -1,
        generator: torch.Generator | None = None,
        backend: str | None = None,
        inhibition_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(n_features, n_atoms, n_iter, positive, dim, backend)
        lmbda = checked_lmbda("LISTA", lmbda)
        if per_iteration not in (None, "thresholds", "all"):
            raise ValueError(f"LISTA: per_iteration must be None, 'thresholds' or 'all', got {per_iteration!r}")
        self.inhibition_dtype = checked_inhibition("LISTA", inhibition_dtype)
        if dictionary is None:
            dtype = dtype or torch.get_default_dtype()
            dictionary = dictionaries.random_unit(self.n_features, self.n_atoms, generator=generator)
        _check_dictionary(dictionary, self.n_features, self.n_atoms)
        dtype = dtype or dictionary.dtype
        D = dictionary.detach().to(torch.float64, copy=True)
        c = checked_squared_norm("LISTA", D)
        checks.is_taken("LISTA", "dtype", dtype)
        kind: dict[str, Any] = {"device": device, "dtype": dtype}
        W_e, S = D.T / c, torch.eye(self.n_atoms, dtype=D.dtype, device=D.device) - D.T @ D / c
        theta = (lmbda / c).repeat(self.n_atoms)
        W_e, S, theta, D = (t.to(**kind) for t in (W_e, S, theta, D))
        if per_iteration is not None:
            theta = theta.repeat(self.n_iter + 1, 1)
        if per_iteration == "all":
            W_e, S = W_e.repeat(self.n_iter + 1, 1, 1), S.repeat(self.n_iter, 1, 1)
        self._take(W_e, S, theta, D)

    @classmethod
    def from_weights(
        cls,
        W: Weights,
        S: Weights,
        theta: Thresholds,
        n_iter: int | None = None,
        *,
        dictionary: torch.Tensor | None = None,
        positive: bool = False,
        dim: int = -1,
        backend: str | None = None,
        inhibition_dtype: torch.dtype | None = None,
    ) -> LISTA:
        """A layer with copies of the weights of an eager network; it computes the same numbers.

        A tensor or number is shared by all iterations. A list, or a tensor with one more leading dimension, has an
        entry for each iteration. Shared weights stay one parameter.

        Two loops are common; the lengths of the lists, or n_iter if only S is a list, tell them apart:

        - z = h_{θ_0}(x W_0ᵀ), then T times z = h_{θ_{t+1}}(x W_{t+1}ᵀ + z S_tᵀ): T matrices S, T + 1 of W and θ.
        - z = 0, then T times z = h_{θ_t}(x W_tᵀ + z S_tᵀ): T of each. S_0 multiplies zero, so it is dropped, and T − 1
          iterations remain.

        Args:
            W: (K, n), the weight of nn.Linear(n, K, bias=False).
            S: (K, K), the weight of nn.Linear(K, K, bias=False).
            theta: one value or (K,).
            n_iter: iterations of the layer; needed if W and θ are shared, otherwise it follows from the lists. If only
                S is a list, of T matrices, it is T for the first loop and T − 1 for the second.
            dictionary: (n, K), for `decode`; without it the layer can't decode.
            positive: whether the network has relu(u − θ) instead of the soft threshold.
            dim: as in the constructor.
            backend: as in the constructor.
            inhibition_dtype: as in the constructor.

        Raises:
            TypeError: an argument is not a tensor (theta: or number), or dtypes differ.
            ValueError: shapes, lengths or n_iter don't fit; the message names both.
        """
        op = "LISTA.from_weights"
        filters, R_of_W = _of_iterations(op, "W", W, 2, "(K, n)")
        inhibitions, T_of_S = _of_iterations(op, "S", S, 2, "(K, K)")
        thresholds, R_of_theta = _thresholds_of(op, theta, filters)
        K, n = filters.shape[-2:]
        checks.agree(op, ("W", "S", "theta"), (filters, inhibitions, thresholds))
        checks.has_shape(op, "S", inhibitions, (*inhibitions.shape[:-2], K, K), "(K, K), with K of W")
        if thresholds.shape[-1] not in (1, K):
            raise ValueError(f"{op}: theta must be one value or ({K},), got {list(thresholds.shape)}")
        T, drop = _iterations(op, R_of_W, T_of_S, R_of_theta, n_iter)
        layer = cls.__new__(cls)
        SparseCoder.__init__(layer, n, K, T, positive, dim, backend)
        layer.inhibition_dtype = checked_inhibition(op, inhibition_dtype)
        if dictionary is not None:
            _check_dictionary(dictionary, n, K, op)
            checks.agree(op, ("W", "dictionary"), (filters, dictionary))
            dictionary = dictionary.detach().clone()
        layer._take(filters, inhibitions[1:] if drop else inhibitions, thresholds, dictionary)
        return layer

    def _take(self, W_e: torch.Tensor, S: torch.Tensor, theta: torch.Tensor, dictionary: torch.Tensor | None) -> None:
        self.W_e, self.S, self.theta = (nn.Parameter(t.detach().contiguous()) for t in (W_e, S, theta))
        self.dictionary: torch.Tensor | None
        self.register_buffer("dictionary", dictionary if dictionary is None else dictionary.contiguous())

    def _codes(self, x: torch.Tensor, z0: torch.Tensor | None) -> torch.Tensor:
        S, theta, T = self._inhibition(), self.theta, self.n_iter
        if self.W_e.dim() == 2:
            b = drive(x, self.W_e)
            return lista(b, S, theta, T, z0=z0, positive=self.positive, backend=self.backend)
        # The operation also decodes; any matrix of the right shape will do, since only the codes are used.
        D = self.W_e[0].detach().T if self.dictionary is None else self.dictionary
        return sparse_code(x, self.W_e, S, theta, D, T, z0=z0, positive=self.positive, backend=self.backend)[0]

    def _inhibition(self) -> torch.Tensor:
        """S, (K, K) or (T, K, K); in bfloat16 if that was requested and no gradient can reach it."""
        narrow = self.inhibition_dtype is not None and not self.training and not is_differentiated((self.S,))
        return self.S.bfloat16() if narrow and self.S.dtype == torch.float32 else self.S

    def _dtype(self) -> torch.dtype:
        return self.W_e.dtype

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Keep the dictionary if a state dict has none."""
        if self.dictionary is not None:
            state_dict.setdefault(f"{prefix}dictionary", self.dictionary)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _check_dictionary(dictionary: torch.Tensor, n: int, K: int, layer: str = "LISTA") -> None:
    checks.are_tensors(layer, dictionary=dictionary)
    checks.is_taken(layer, "dictionary", dictionary.dtype)
    if tuple(dictionary.shape) != (n, K):
        raise ValueError(
            f"{layer}: dictionary must be (n_features, n_atoms) = ({n}, {K}), got {list(dictionary.shape)}"
        )


def _of_iterations(op: str, name: str, value: Any, dims: int, meaning: str) -> tuple[torch.Tensor, int | None]:
    """A copy of a shared value, or a stack of the iterations' values and their number."""
    if isinstance(value, (list, tuple, nn.ParameterList)):
        for index, each in enumerate(value):
            checks.are_tensors(op, **{f"{name}[{index}]": each})
            if each.shape != value[0].shape or each.dim() != dims:
                raise ValueError(f"{op}: {name}[{index}] must be {meaning} like the others, got {list(each.shape)}")
        if len(value) == 0:
            raise ValueError(f"{op}: {name} must not be empty")
        return torch.stack([each.detach() for each in value]), len(value)
    checks.are_tensors(op, **{name: value})
    if value.dim() not in (dims, dims + 1):
        raise ValueError(f"{op}: {name} must be {meaning}, or one per iteration, got {list(value.shape)}")
    return value.detach().clone(), None if value.dim() == dims else len(value)


def _thresholds_of(op: str, theta: Any, like: torch.Tensor) -> tuple[torch.Tensor, int | None]:
    """θ as (1,) or (K,), or (R, 1) or (R, K) and R."""
    if isinstance(theta, (list, tuple, nn.ParameterList)):
        rows = [_as_tensor(op, f"theta[{i}]", each, like) for i, each in enumerate(theta)]
        sizes = {row.numel() for row in rows} | {1}
        if len(sizes) > 2 or any(row.dim() > 1 and row.numel() > 1 for row in rows):
            raise ValueError(f"{op}: theta must hold one value or (K,) for each iteration")
        rows = [row.reshape(-1).expand(max(sizes)) for row in rows]
        return _of_iterations(op, "theta", rows, 1, "(K,)")
    value = _as_tensor(op, "theta", theta, like)
    if value.dim() > 2:
        raise ValueError(f"{op}: theta must be one value, (K,), or one per iteration, got {list(value.shape)}")
    return (value, len(value)) if value.dim() == 2 else (value.reshape(-1), None)


def _as_tensor(op: str, name: str, value: Any, like: torch.Tensor) -> torch.Tensor:
    """A copy; numbers get the dtype of `like`."""
    tensor = checks.scalar_tensor(op, name, value, like).detach().clone()
    return tensor if isinstance(value, torch.Tensor) else tensor.to(like.dtype)


def _iterations(
    op: str, R_of_W: int | None, T_of_S: int | None, R_of_theta: int | None, n_iter: int | None
) -> tuple[int, bool]:
    """T, and whether the first S multiplies zero, from the number of entries of each; None means shared."""
    if None not in (R_of_W, R_of_theta) and R_of_W != R_of_theta:
        raise ValueError(f"{op}: W and theta must have the same number of entries, got {R_of_W} and {R_of_theta}")
    R = R_of_W if R_of_W is not None else R_of_theta
    if R is None and T_of_S is None:
        if n_iter is None:
            raise ValueError(f"{op}: n_iter must be given if all weights are shared")
        return n_iter, False
    if R is None and T_of_S is not None:
        if n_iter not in (T_of_S, T_of_S - 1):
            raise ValueError(
                f"{op}: n_iter must be {T_of_S}, or {T_of_S - 1} for a loop from z = 0, if only S has one per "
                f"iteration, got {n_iter}"
            )
        return n_iter, n_iter < T_of_S
    if R is not None and T_of_S is not None and R not in (T_of_S, T_of_S + 1):
        raise ValueError(f"{op}: W and theta must have as many entries as S, or one more, got {R}, and {T_of_S} of S")
    assert R is not None  # the other cases have returned
    T = R - 1
    if n_iter is not None and n_iter != T:
        raise ValueError(f"{op}: n_iter must be {T}, as the weights per iteration say, got {n_iter}")
    return T, T_of_S is not None and T_of_S == R
