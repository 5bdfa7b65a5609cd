"""The arguments of the operations in the form that every backend takes, and their validation.

Symbols: M rows, n features, K atoms, T iterations; R = T + 1 or T, see `Problem`.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar, cast

import torch

from scvae_fast.ops import checks

_T = TypeVar("_T", torch.Tensor, torch.Tensor | None)


def matrix_of(tensor: _T) -> _T:
    """(..., K) as (M, K) with packed rows that don't overlap; copies only if strides require it."""
    if tensor is None or (tensor.dim() == 2 and tensor.is_contiguous()):
        return tensor
    return tensor.reshape(-1, tensor.shape[-1]).contiguous()


def _packed(tensor: _T) -> _T:
    return None if tensor is None else tensor.contiguous()


def _one_value(tensor: _T) -> _T:
    """A tensor of one element without dimensions, any other unchanged."""
    return tensor if tensor is None or tensor.dim() == 0 or tensor.numel() != 1 else tensor.reshape(())


# The options of a call beyond LISTA with shared weights, in words.
STEPS, MOMENTUM, FACTORED = "iteration of ISTA", "momentum", "factored form"
POSITIVE, THRESHOLDS, MATRICES = "non-negative codes", "thresholds for each iteration", "matrices for each iteration"
OPTIONS = frozenset((STEPS, MOMENTUM, FACTORED, POSITIVE, THRESHOLDS, MATRICES))

# The names of a record's tensors in the operations.
_NAMES = {
    "lista": ("b", "W_e", "S", "theta", "D", "gain", "z0", "step", "momentum"),
    "ista": ("b", "W_e", "G", "theta", "D", "gain", "z0", "step", "momentum"),
    "sparse_code": ("x", "W_e", "S", "theta", "D", "gain", "z0", "step", "momentum"),
}
_MAY_BE_FLOAT32 = ("theta", "gain", "step", "momentum")

_FOR_EACH = {"W_e": 3, "S": 3, "theta": 2, "step": 1, "momentum": 1}  # dimensions if there is one per iteration


class Problem(NamedTuple):
    """One call of `lista`, `ista` or `sparse_code`; `reference.py` has the iteration.

    κ is 1 for `ista`, and for `sparse_code` with a step or without S; otherwise 0. R, the number of rows of
    per-iteration W_e and θ, is T + 1 for κ = 0 and T for κ = 1. `lista` and `ista` have no W_e and no D: x is the
    drive.
    """

    x: torch.Tensor  # (..., n), or b (..., K)
    W_e: torch.Tensor | None  # (K, n) or (R, K, n)
    S: torch.Tensor | None  # (K, K) or (T, K, K), G = −S for `ista`; None: the factored form
    theta: torch.Tensor  # one value, (K,), (R, 1) or (R, K)
    D: torch.Tensor | None  # (n, K)
    gain: torch.Tensor | None  # one value; None stands for 1
    z0: torch.Tensor | None  # (..., K)
    step: torch.Tensor | None  # γ, one value or (T,); None stands for 1
    momentum: torch.Tensor | None  # β, one value or (T,); None stands for 0
    n_iter: int  # T
    positive: bool
    op: str  # the operation's name

    @property
    def kappa(self) -> int:
        """κ, the factor of y_t in u_t."""
        return int(self.op == "ista" or (self.op == "sparse_code" and (self.step is not None or self.S is None)))

    @property
    def n_atoms(self) -> int:
        """K."""
        return self.x.shape[-1] if self.W_e is None else self.W_e.shape[-2]

    @property
    def n_features(self) -> int:
        """The number of features, n; 0 if nothing is encoded or decoded."""
        return self.x.shape[-1] if self.W_e is not None else 0 if self.D is None else self.D.shape[0]

    @property
    def n_rows(self) -> int:
        """R."""
        return self.n_iter + 1 - self.kappa

    @property
    def is_plain(self) -> bool:
        """Whether this is LISTA with shared weights: the call has none of `OPTIONS`."""
        if self.positive or self.step is not None or self.op == "ista" or self.S is None:
            return False
        return self.S.dim() == 2 and self.theta.dim() < 2 and (self.W_e is None or self.W_e.dim() == 2)

    @property
    def options(self) -> tuple[str, ...]:
        """Those of `OPTIONS` that this call has."""
        if self.is_plain:
            return ()
        there = {
            STEPS: self.kappa == 1 and self.S is not None,
            FACTORED: self.S is None,
            MOMENTUM: self.momentum is not None,
            POSITIVE: self.positive,
            THRESHOLDS: self.theta.dim() == 2 and self.theta.numel() != 1,
            MATRICES: self.is_for_each("S") or self.is_for_each("W_e"),
        }
        return tuple(option for option, is_there in there.items() if is_there)

    def check(self) -> None:
        """Raise TypeError or ValueError unless this is a valid call."""
        op, names = self.op, _NAMES[self.op]
        tensors = cast(tuple[torch.Tensor | None, ...], self[: len(names)])
        checks.agree(op, names, tensors, _MAY_BE_FLOAT32, may_be_bfloat16=("S", "G"))
        T = checks.count(op, "n_iter", self.n_iter)
        K = self._check_ends()
        if self.S is not None and self.S.shape != (K, K):
            of = f", K being the atoms of {'b' if self.W_e is None else 'W_e'}"
            checks.is_shared_or_each(op, names[2], self.S, (K, K), "(K, K)", ("T", T), of)
        if self.theta.numel() != 1 and self.theta.shape != (K,):
            self._check_theta(K)
        if self.z0 is not None:
            checks.has_shape(op, "z0", self.z0, (*self.x.shape[:-1], K), "(..., K), a code for every row,")
        if self.gain is not None:
            checks.is_scalar(op, "gain", self.gain)
            self._check_gain()
        for name, value in (("step", self.step), ("momentum", self.momentum)):
            if value is not None and value.numel() != 1 and value.shape != (T,):
                raise ValueError(f"{op}: {name} must be one value or (T,) = [{T}], got {list(value.shape)}")
        if self.momentum is not None and not self.kappa:
            raise ValueError(f"{op}: momentum needs a step: without one the iteration is that of lista")

    def _check_ends(self) -> int:
        """K; raises ValueError unless x, W_e and D fit together."""
        op = self.op
        if self.W_e is None or self.D is None:
            return checks.has_rows(op, "b", self.x, "(..., K)")
        n = checks.has_rows(op, "x", self.x, "(..., n)")
        if self.W_e.dim() == 3 and self.W_e.shape[1] > 0:
            K = self.W_e.shape[1]
            checks.is_shared_or_each(op, "W_e", self.W_e, (K, n), "(K, n)", ("R", self.n_rows), self._of_R())
        else:
            K = checks.is_matrix(op, "W_e", self.W_e, n, "(K, n)")
        checks.has_shape(op, "D", self.D, (n, K), "(n, K), W_e being (K, n),")
        return K

    def _of_R(self) -> str:
        return f", R being {'T' if self.kappa else 'T + 1'}"

    def _check_theta(self, K: int) -> None:
        theta, R = self.theta, self.n_rows
        if theta.shape not in ((R, 1), (R, K)):
            raise ValueError(
                f"{self.op}: theta must be one value, (K,) = [{K}], (R, 1) = [{R}, 1] or (R, K) = [{R}, {K}]"
                f"{self._of_R()}, got {list(theta.shape)}"
            )

    def _check_gain(self) -> None:
        if self.z0 is not None:
            raise ValueError(f"{self.op}: gain scales the start that z0 replaces: give one of them, not both")
        if self.kappa:
            raise ValueError(f"{self.op}: gain scales the start h(gain·b); with a step, or without S, the start is 0")

    def in_matrices(self) -> Problem:
        """The same problem with x (M, n) and z0 (M, K), all tensors packed, and single values without dimensions."""
        return Problem(
            matrix_of(self.x),
            _packed(self.W_e),
            _packed(self.S),
            _packed(_one_value(self.theta)),
            _packed(self.D),
            _one_value(self.gain),
            matrix_of(self.z0),
            _packed(_one_value(self.step)),
            _packed(_one_value(self.momentum)),
            self.n_iter,
            self.positive,
            self.op,
        )

    def result_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the codes, and of the reconstruction if there is a dictionary."""
        codes = (*self.x.shape[:-1], self.n_atoms)
        return (codes,) if self.D is None else (codes, self.x.shape)

    def iterates(self, count: int) -> torch.Tensor:
        """An empty tensor for `count` iterates, T − 1 or none: (..., count, K); float32 for 16-bit problems."""
        dtype = torch.float32 if checks.is_half(self.x.dtype) else self.x.dtype
        return self.x.new_empty((*self.x.shape[:-1], count, self.n_atoms), dtype=dtype)

    def rows(self, begin: int, end: int) -> Problem:
        """A range of rows of a problem in matrices."""
        return self._replace(x=self.x[begin:end], z0=None if self.z0 is None else self.z0[begin:end])

    # The values for iteration t, of a problem in matrices. Row r of W_e and θ: `row(t)`, or 0 at the start of κ = 0.

    def is_for_each(self, name: str) -> bool:
        """Whether that tensor has an entry for each iteration."""
        tensor = getattr(self, name)
        return tensor is not None and tensor.dim() == _FOR_EACH.get(name, -1)

    def row(self, t: int) -> int:
        """ρ(t)."""
        return t + 1 - self.kappa

    def filter(self, r: int) -> torch.Tensor:
        """W_e (K, n) of row r."""
        assert self.W_e is not None
        return self.W_e[r] if self.W_e.dim() == 3 else self.W_e

    def drive(self, r: int = 0) -> torch.Tensor:
        """The drive b (M, K) of row r."""
        return self.x if self.W_e is None else torch.nn.functional.linear(self.x, self.filter(r))

    def threshold(self, r: int) -> torch.Tensor:
        """The threshold θ of row r: one value, (1,) or (K,)."""
        return self.theta[r] if self.theta.dim() == 2 else self.theta

    def inhibition(self, t: int) -> torch.Tensor:
        """S (K, K), or G."""
        assert self.S is not None
        return self.S[t] if self.S.dim() == 3 else self.S

    def step_of(self, t: int) -> torch.Tensor | None:
        """The step γ; None stands for 1."""
        return self.step if self.step is None or self.step.dim() == 0 else self.step[t]

    def momentum_of(self, t: int) -> torch.Tensor | None:
        """The momentum β; None stands for 0, which it is for t = 0."""
        if t == 0 or self.momentum is None or self.momentum.dim() == 0:
            return None if t == 0 else self.momentum
        return self.momentum[t]


class Decoding(NamedTuple):
    """x̂ = z Dᵀ."""

    z: torch.Tensor  # (..., K)
    D: torch.Tensor  # (n, K)

    @property
    def n_atoms(self) -> int:
        """K."""
        return self.D.shape[1]

    @property
    def n_features(self) -> int:
        """The number of features, n."""
        return self.D.shape[0]

    @property
    def options(self) -> tuple[str, ...]:
        """None."""
        return ()

    def check(self) -> None:
        """Raise TypeError or ValueError unless this is a valid call."""
        checks.agree("decode", self._fields, self)
        atoms = checks.has_rows("decode", "z", self.z, "(..., K)")
        checks.is_matrix("decode", "D", self.D, atoms, "(n, K)")

    def in_matrices(self) -> Decoding:
        """The same problem with z (M, K), both packed."""
        return Decoding(matrix_of(self.z), _packed(self.D))

    def result_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of the reconstruction."""
        return ((*self.z.shape[:-1], self.D.shape[0]),)


Record = Problem | Decoding
Results = tuple[torch.Tensor, ...]
"""Codes z (M, K), and x̂ (M, n) if there is a dictionary; only x̂ (M, n) for a `Decoding`."""


class Incoming(NamedTuple):
    """The input of a `Problem`'s backward pass: gradients of its results, at least one, and its codes."""

    grad_z: torch.Tensor | None  # (M, K)
    grad_x_hat: torch.Tensor | None  # (M, n)
    z: torch.Tensor  # (M, K)
    iterates: torch.Tensor | None = None  # z_1 … z_{T−1}, (M, T − 1, K); None: they were not kept

    def rows(self, begin: int, end: int) -> Incoming:
        """A range of rows."""
        return Incoming._make(None if t is None else t[begin:end] for t in self)


Needed = frozenset[str]
"""Names of a record's fields whose gradients are needed; none of these fields is None."""

Gradients = dict[str, torch.Tensor]
"""The gradient of each tensor in `Needed`, by field name, in the tensor's dtype."""
