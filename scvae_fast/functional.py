"""The operations: LISTA, decoding, the whole sparse-coding bottleneck, the soft threshold."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch

from scvae_fast.ops import checks
from scvae_fast.ops.backends import BACKENDS, check_name
from scvae_fast.ops.backends.reference import shrink
from scvae_fast.ops.lasso_solver import ALGORITHMS, Lasso, solve
from scvae_fast.ops.normalisation import group_norm_silu
from scvae_fast.ops.operations import DECODE, LISTA, SPARSE_CODE

__all__ = ["backends", "decode", "group_norm_silu", "lasso", "lista", "soft_threshold", "sparse_code"]


def backends() -> dict[str, str | None]:
    """Which implementations of the operations there are.

    Returns:
        For each backend's name None if it can be used here, else the reason why not.
    """
    return {name: backend.unusable() for name, backend in BACKENDS.items()}


def lista(
    b: torch.Tensor,
    S: torch.Tensor,
    theta: torch.Tensor | float,
    n_iter: int,
    *,
    gain: torch.Tensor | float = 1.0,
    z0: torch.Tensor | None = None,
    backend: str | None = None,
) -> torch.Tensor:
    """Sparse codes of a drive by T unrolled iterations of LISTA (Gregor & LeCun 2010, section 3.2).

        z_0     = h_θ(γ b), or the given z0
        z_{t+1} = h_θ(b + z_t Sᵀ),  t = 0 … T−1,    h_θ(u) = sign(u)·max(|u| − θ, 0)

    With S = I − DᵀD/c, b = xD/c, θ = λ/c and c ≥ ‖D‖₂² this is ISTA on ½‖x − Dz‖² + λ‖z‖₁. Differentiable with respect
    to b, S, θ, γ and z0. The backward pass keeps b, z and z0, however many iterations there are. Forward mode, second
    and higher derivatives run the iterations in plain PyTorch.

    Args:
        b: (..., K) drive; float32, float64, bfloat16 or float16 (16-bit types are computed in float32).
        S: (K, K) mutual inhibition. Beside a float32 b it may be kept in bfloat16, for inference: the result is that of
            S.float(), so all that is lost is S's own rounding (2⁻⁹ of each entry). It then gets no gradient.
        theta: threshold, one value or (K,); may be negative. May be float32 where b is a 16-bit type.
        n_iter: number of iterations, 0 ≤ T < 2³¹; with 0 the start z_0 is returned.
        gain: γ, one value. May be float32 where b is a 16-bit type.
        z0: (..., K) codes to start from (a warm start), instead of h_θ(γ b). Excludes `gain`.
        backend: a name of `backends()`; None chooses by device and dtype.

    Returns:
        (..., K) codes z_T, in b's dtype. Under autocast the operation runs in float32.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes, devices, n_iter or the backend's name don't fit, both gain and z0 were given, or a bfloat16
            S beside a float32 b needs a gradient.
        RuntimeError: the backend asked for can't take this call.
    """
    op = "lista"
    checks.are_tensors(op, b=b, S=S, **({} if z0 is None else {"z0": z0}))
    n_iter = checks.count(op, "n_iter", n_iter)
    checks.is_constant_if_narrowed(op, "S", S, "b", b)
    check_name(op, backend)
    threshold = checks.scalar_tensor(op, "theta", theta, b)
    return LISTA(b, S, threshold, _start_gain(op, gain, z0, b), z0, n_iter, backend)


def sparse_code(
    x: torch.Tensor,
    W_e: torch.Tensor,
    S: torch.Tensor,
    theta: torch.Tensor | float,
    D: torch.Tensor,
    n_iter: int,
    *,
    gain: torch.Tensor | float = 1.0,
    z0: torch.Tensor | None = None,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse codes of x and the reconstruction from them: b = x W_eᵀ, z = lista(b, …), x̂ = z Dᵀ.

    The bottleneck of SC-VAE (arXiv 2303.16666). Differentiable with respect to every tensor. The backward pass keeps x,
    z and z0, however many iterations there are, and recomputes b and the iterates. Forward mode, second and higher
    derivatives run the iterations in plain PyTorch.

    Args:
        x: (..., n) vectors; float32, float64, bfloat16 or float16 (16-bit types are computed in float32).
        W_e: (K, n) filter.
        S: (K, K) mutual inhibition; for inference it may be bfloat16 beside a float32 x, as in `lista`.
        theta: threshold, one value or (K,); may be negative. May be float32 where x is a 16-bit type.
        D: (n, K) dictionary, an atom a column.
        n_iter: number of iterations, 0 ≤ T < 2³¹.
        gain: γ, one value: z_0 = h_θ(γ b). May be float32 where x is a 16-bit type.
        z0: (..., K) codes to start from, instead of h_θ(γ b). Excludes `gain`.
        backend: a name of `backends()`; None chooses by device and dtype.

    Returns:
        Codes z (..., K) and reconstruction x̂ (..., n), in x's dtype. Under autocast the operation runs in float32.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes, devices, n_iter or the backend's name don't fit, both gain and z0 were given, or a bfloat16
            S beside a float32 x needs a gradient.
        RuntimeError: the backend asked for can't take this call.
    """
    op = "sparse_code"
    checks.are_tensors(op, x=x, W_e=W_e, S=S, D=D, **({} if z0 is None else {"z0": z0}))
    n_iter = checks.count(op, "n_iter", n_iter)
    checks.is_constant_if_narrowed(op, "S", S, "x", x)
    check_name(op, backend)
    threshold = checks.scalar_tensor(op, "theta", theta, x)
    start = _start_gain(op, gain, z0, x)
    return SPARSE_CODE(x, W_e, S, threshold, D, start, z0, n_iter, backend)


def decode(z: torch.Tensor, D: torch.Tensor, *, backend: str | None = None) -> torch.Tensor:
    """Reconstruction x̂ = D z of every row, x̂ = z Dᵀ in matrices; differentiable in every mode and order.

    Args:
        z: (..., K) codes; float32, float64, bfloat16 or float16 (16-bit types are accumulated in float32).
        D: (n, K) dictionary, an atom a column, in z's dtype.
        backend: a name of `backends()`; None chooses by device, dtype and number of rows.

    Returns:
        (..., n) in z's dtype. Under autocast the operation runs in float32.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes, devices or the backend's name don't fit.
        RuntimeError: the backend asked for can't take this call.
    """
    checks.are_tensors("decode", z=z, D=D)
    check_name("decode", backend)
    return DECODE(z, D, backend)


def soft_threshold(u: torch.Tensor, theta: torch.Tensor | float) -> torch.Tensor:
    """Soft threshold h_θ(u) = sign(u)·max(|u| − θ, 0), the proximal operator of θ‖·‖₁ (Gregor & LeCun 2010, eq. 4).

    θ may be negative: then the formula is the law, and h(0) = 0. The derivative at a tie |u| = θ is 0. NaN gives NaN.

    Args:
        u: (..., K), floating point. bfloat16 and float16 are computed in float32 and rounded once.
        theta: threshold, one value or (K,), in u's dtype (or float32 where u is a 16-bit type), on u's device.

    Returns:
        (..., K) in u's dtype.

    Raises:
        TypeError: an argument is no floating-point tensor (theta: or number), or dtypes differ.
        ValueError: theta has another shape, or devices differ.
    """
    op = "soft_threshold"
    checks.are_tensors(op, u=u)
    threshold = checks.scalar_tensor(op, "theta", theta, u)
    checks.agree(op, ("u", "theta"), (u, threshold), may_be_float32=("theta",))
    if threshold.numel() != 1:
        checks.is_scalar_or_per_atom(op, "theta", threshold, checks.has_rows(op, "u", u, "(..., K)"))
    else:
        threshold = threshold.reshape(())
    if checks.is_half(u.dtype):
        return shrink(u.float(), threshold.float()).to(u.dtype)
    return shrink(u, threshold)


class LassoResult(NamedTuple):
    """What `lasso` returns."""

    codes: torch.Tensor  # (..., K)
    gap: torch.Tensor  # (...), duality gap as a share of ½‖x‖²


def lasso(
    x: torch.Tensor,
    D: torch.Tensor,
    alpha: float,
    *,
    tol: float = 1e-4,
    max_iter: int = 1000,
    algorithm: Literal["fista", "ista"] = "fista",
) -> LassoResult:
    """The codes that minimise ½‖x − Dz‖² + α‖z‖₁, and how far each row may still be from its minimum.

    Each row goes on until its duality gap is at most tol · ½‖x‖², or for max_iter iterations. Neither the other rows
    nor the unit of x and α change its codes. "ista" is `lista` with W_e = Dᵀ/c, S = I − DᵀD/c, θ = α/c and c = ‖D‖₂²;
    "fista" is FISTA (Beck & Teboulle 2009) with the restarts of O'Donoghue & Candès (2015). This function has no
    gradient; `lista` has, for a fixed number of iterations.

    Args:
        x: (..., n) vectors; float32 or float64.
        D: (n, K) dictionary, an atom a column, not zero, in x's dtype.
        alpha: α > 0, the weight of the codes' absolute values; the field's λ.
        tol: largest relative gap, ≥ 0; 0 makes exactly max_iter iterations.
        max_iter: iterations of a row at most, ≥ 0.
        algorithm: "fista" or "ista".

    Returns:
        Codes (..., K) and the relative duality gap (...) of each row, in x's dtype. A gap above tol, or NaN, says that
        the row is not solved.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes, devices or numbers don't fit, or a tensor needs a gradient.
    """
    op = "lasso"
    checks.are_tensors(op, x=x, D=D)
    checks.agree(op, ("x", "D"), (x, D))
    if checks.is_half(x.dtype):
        raise TypeError(f"{op}: x must be float32 or float64, got {x.dtype}")
    n = checks.has_rows(op, "x", x, "(..., n)")
    if D.dim() != 2 or D.shape[0] != n or D.shape[1] == 0:
        raise ValueError(f"{op}: D must be (n, K) with {n} rows, got {list(D.shape)}")
    if torch.is_grad_enabled() and (x.requires_grad or D.requires_grad):
        raise ValueError(f"{op}: it has no gradient: detach x and D, or use lista for a fixed number of iterations")
    alpha, tol = checks.python_number(alpha), checks.python_number(tol)
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"{op}: alpha must be a finite number > 0, got {alpha}")
    if not (math.isfinite(tol) and tol >= 0):
        raise ValueError(f"{op}: tol must be a finite number >= 0, got {tol}")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"{op}: algorithm must be one of {ALGORITHMS}, got {algorithm!r}")
    max_iter = checks.count(op, "max_iter", max_iter)
    problem = Lasso.over(D, float(alpha))
    if not (math.isfinite(problem.c) and problem.c > 0):
        raise ValueError(f"{op}: D must be finite and not zero, got ‖D‖₂² = {problem.c}")
    with torch.no_grad():
        rows = x.reshape(-1, n).contiguous()
        codes, gap = solve(problem, rows, algorithm=algorithm, max_iter=max_iter, tol=float(tol))
    return LassoResult(codes.reshape(*x.shape[:-1], D.shape[1]), gap.reshape(x.shape[:-1]))


def _start_gain(
    op: str, gain: torch.Tensor | float, z0: torch.Tensor | None, like: torch.Tensor
) -> torch.Tensor | None:
    """The gain as the operation takes it: None stands for 1; raises ValueError where z0 takes its place."""
    if not isinstance(gain, torch.Tensor) and gain == 1:
        return None
    if z0 is not None:
        raise ValueError(f"{op}: gain scales the start that z0 replaces: give one of them, not both")
    return checks.scalar_tensor(op, "gain", gain, like)
