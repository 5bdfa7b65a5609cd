"""The operations: LISTA, ISTA, decoding, the whole sparse-coding bottleneck, the soft threshold, the lasso."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch

from scvae_fast.ops import checks
from scvae_fast.ops.backends import BACKENDS, check_name, choose, why_not
from scvae_fast.ops.backends.reference import shrink
from scvae_fast.ops.lasso_solver import ALGORITHMS
from scvae_fast.ops.library import autocast_is_on
from scvae_fast.ops.normalisation import group_norm_silu
from scvae_fast.ops.operations import DECODE, ISTA, LISTA, SPARSE_CODE
from scvae_fast.ops.optimum import OPERATION as OPTIMUM
from scvae_fast.ops.problem import Decoding

__all__ = ["backends", "decode", "group_norm_silu", "ista", "lasso", "lista", "soft_threshold", "sparse_code"]


def backends() -> dict[str, str | None]:
    """The implementations of the operations, and why some can't be used here.

    Returns:
        For each backend's name, None if it can be used here, else the reason why not. Once CUDA is in use, a GPU
        backend whose trial on the current card failed in every dtype has a reason too; it runs only if a call names it.

    Example:
        >>> backends()["eager"] is None  # it can always be used
        True
    """
    return {name: why_not(name) for name in BACKENDS}


def lista(
    b: torch.Tensor,
    S: torch.Tensor,
    theta: torch.Tensor | float,
    n_iter: int,
    *,
    gain: torch.Tensor | float = 1.0,
    z0: torch.Tensor | None = None,
    positive: bool = False,
    backend: str | None = None,
) -> torch.Tensor:
    """Sparse codes of a drive by T unrolled iterations of LISTA (Gregor & LeCun 2010, section 3.2).

        z_0     = h_{θ_0}(gain · b), or the given z0
        z_{t+1} = h_{θ_{t+1}}(b + z_t S_tᵀ),  t = 0 … T−1,    h_θ(u) = sign(u)·max(|u| − θ, 0)

    With S = I − DᵀD/c, b = xD/c, θ = λ/c and c ≥ ‖D‖₂² this is ISTA on ½‖x − Dz‖² + λ‖z‖₁. Differentiable with respect
    to every tensor. The backward pass needs only b, z and z0, for any number of iterations; on a CPU the iterates
    z_1 … z_{T−1} are kept too if they take at most 16 MiB. Forward mode and higher derivatives run the iterations in
    plain PyTorch.

    Args:
        b: (..., K) drive; float32, float64, bfloat16 or float16 (16-bit types are computed in float32).
        S: mutual inhibition, (K, K), or (T, K, K) for one per iteration. With a float32 b it may be bfloat16, for
            inference: the result is that of S.float(), so the only error is S's own rounding (2⁻⁹ of each entry). It
            then gets no gradient.
        theta: threshold, one value or (K,); or (T + 1, 1) or (T + 1, K) with a row for each of z_0 … z_T. With a given
            z0 the first row is not used. May be negative. May be float32 if b is a 16-bit type.
        n_iter: number of iterations, 0 ≤ T < 2³¹; with 0, the start z_0 is returned.
        gain: one value. May be float32 if b is a 16-bit type.
        z0: (..., K) codes to start from (a warm start), instead of h_θ(gain · b). Excludes `gain`.
        positive: whether codes are non-negative: h_θ(u) = max(u − θ, 0).
        backend: a name of `backends()`; None chooses by device, dtype and options.

    Returns:
        (..., K) codes z_T, in b's dtype. Under autocast the operation runs in float32.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes, devices, n_iter or the backend's name don't fit, both gain and z0 were given, or a bfloat16
            S with a float32 b needs a gradient.
        RuntimeError: the requested backend can't take this call.

    Example:
        >>> import torch
        >>> from scvae_fast import dictionaries, lista
        >>> D, c = dictionaries.orthogonal_dct(4), 2.0
        >>> S = torch.eye(4) - D.T @ D / c
        >>> z = lista(torch.tensor([[1.0, -0.5, 0.1, 0.0]]), S, 0.2, n_iter=3)
        >>> z.shape, int(z.count_nonzero())
        (torch.Size([1, 4]), 2)
    """
    op = "lista"
    checks.are_tensors(op, b=b, S=S, **({} if z0 is None else {"z0": z0}))
    n_iter = _common(op, n_iter, positive, backend)
    checks.is_constant_if_narrowed(op, "S", S, "b", b)
    threshold = checks.scalar_tensor(op, "theta", theta, b)
    z, _ = LISTA(b, S, threshold, _number(op, "gain", gain, b, default=1), z0, n_iter, positive, backend)
    return z


def ista(
    b: torch.Tensor,
    G: torch.Tensor,
    theta: torch.Tensor | float,
    n_iter: int,
    *,
    step: torch.Tensor | float = 1.0,
    momentum: torch.Tensor | float | None = None,
    z0: torch.Tensor | None = None,
    positive: bool = False,
    backend: str | None = None,
) -> torch.Tensor:
    """Sparse codes by T iterations of ISTA or FISTA on a Gram matrix (Beck & Teboulle 2009), steps learned or fixed.

        z_0     = 0, or the given z0
        y_t     = z_t + β_t (z_t − z_{t−1}),  y_0 = z_0
        z_{t+1} = h_{θ_t}(y_t + γ_t (b − y_t G_tᵀ)),  t = 0 … T−1,    h_θ(u) = sign(u)·max(|u| − θ, 0)

    With G = DᵀD, b = xD, γ = 1/c, θ = λ/c and c ≥ ‖D‖₂² this is ISTA on ½‖x − Dz‖² + λ‖z‖₁, and FISTA with
    β_t = (τ_t − 1)/τ_{t+1}, τ_1 = 1, τ_{t+1} = (1 + √(1 + 4τ_t²))/2. With learned γ_t and θ_t = λ γ_t it is SLISTA
    (Ablin et al. 2019). θ is the threshold itself; it is not multiplied by γ. Differentiable with respect to every
    tensor. Memory and higher derivatives are as for `lista`. If b has a 16-bit type, theta, step and momentum may be
    float32.

    Args:
        b: (..., K) drive; float32, float64, bfloat16 or float16 (16-bit types are computed in float32).
        G: Gram matrix, (K, K), or (T, K, K) for one per iteration; like S in `lista` it may be bfloat16.
        theta: threshold, one value or (K,); or (T, 1) or (T, K) with a row for each of z_1 … z_T. May be negative.
        n_iter: number of iterations, 0 ≤ T < 2³¹; with 0, the start is returned.
        step: γ, one value or (T,).
        momentum: β, one value or (T,); None stands for 0. β_0 has no effect.
        z0: (..., K) codes to start from (a warm start), instead of 0.
        positive: whether codes are non-negative: h_θ(u) = max(u − θ, 0).
        backend: a name of `backends()`; None chooses by device, dtype and options.

    Returns:
        (..., K) codes z_T, in b's dtype. Under autocast the operation runs in float32.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes, devices, n_iter or the backend's name don't fit, or a bfloat16 G with a float32 b needs a
            gradient.
        RuntimeError: the requested backend can't take this call.

    Example:
        >>> import torch
        >>> from scvae_fast import dictionaries, ista
        >>> D = dictionaries.dct(16, 32)
        >>> c = torch.linalg.matrix_norm(D, ord=2) ** 2
        >>> x = torch.randn(5, 16)
        >>> ista(x @ D, D.T @ D, 0.5 / c, n_iter=10, step=1 / c).shape
        torch.Size([5, 32])
    """
    op = "ista"
    checks.are_tensors(op, b=b, G=G, **({} if z0 is None else {"z0": z0}))
    n_iter = _common(op, n_iter, positive, backend)
    checks.is_constant_if_narrowed(op, "G", G, "b", b)
    threshold = checks.scalar_tensor(op, "theta", theta, b)
    gamma, beta = _number(op, "step", step, b, default=1), _number(op, "momentum", momentum, b, default=None)
    z, _ = ISTA(b, G, threshold, gamma, beta, z0, n_iter, positive, backend)
    return z


def sparse_code(
    x: torch.Tensor,
    W_e: torch.Tensor,
    S: torch.Tensor | None,
    theta: torch.Tensor | float,
    D: torch.Tensor,
    n_iter: int,
    *,
    step: torch.Tensor | float | None = None,
    momentum: torch.Tensor | float | None = None,
    gain: torch.Tensor | float = 1.0,
    z0: torch.Tensor | None = None,
    positive: bool = False,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse codes of x and the reconstruction x̂ = z Dᵀ from them, by one of three iterations.

    - With S and no step, LISTA: z = lista(x W_eᵀ, S, θ, …), the bottleneck of SC-VAE (arXiv 2303.16666).
    - With S and a step, ISTA with other matrices: z_0 = 0, z_{t+1} = h(y_t + γ_t (b_t + y_t S_tᵀ)), b_t = x W_tᵀ. S is
      −G, the negative of the Gram matrix, and not I − G/c.
    - Without S, the factored form: z_0 = 0, z_{t+1} = h(y_t + γ_t (x − y_t Dᵀ) W_tᵀ). No K × K matrix is formed,
      forward or backward. With a W for each iteration this is LISTA-CP (Chen et al. 2018); with one W, and a learned
      step for each iteration, TiLISTA and ALISTA (Liu et al. 2019).

    y_t = z_t + β_t (z_t − z_{t−1}), y_0 = z_0. Differentiable with respect to every tensor. The backward pass needs
    only x, z and z0, for any number of iterations; on a CPU the iterates z_1 … z_{T−1} are kept too if they take at
    most 16 MiB, and else recomputed. Forward mode and higher derivatives run the iterations in plain PyTorch. W_e and
    theta per iteration have R rows: T + 1 for the first form, T for the others. If x has a 16-bit type, theta, step,
    momentum and gain may be float32.

    Args:
        x: (..., n) vectors; float32, float64, bfloat16 or float16 (16-bit types are computed in float32).
        W_e: filter, (K, n) or (R, K, n).
        S: (K, K) or (T, K, K); for inference it may be bfloat16 with a float32 x, as in `lista`. None: factored form.
        theta: threshold, one value, (K,), (R, 1) or (R, K); no form multiplies it by γ. May be negative.
        D: (n, K) dictionary, an atom a column.
        n_iter: number of iterations, 0 ≤ T < 2³¹.
        step: γ, one value or (T,). Without S, None stands for 1.
        momentum: β, one value or (T,), with a step or without S; None stands for 0. β_0 has no effect.
        gain: one value: z_0 = h_θ(gain · b). Only for the first form.
        z0: (..., K) codes to start from, instead of h_θ(gain · b) or 0. Excludes `gain`.
        positive: whether codes are non-negative: h_θ(u) = max(u − θ, 0).
        backend: a name of `backends()`; None chooses by device, dtype and options.

    Returns:
        Codes z (..., K) and reconstruction x̂ (..., n), in x's dtype. Under autocast the operation runs in float32.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes, devices, n_iter or the backend's name don't fit, arguments exclude each other, or a bfloat16
            S with a float32 x needs a gradient.
        RuntimeError: the requested backend can't take this call.

    Example:
        >>> import torch
        >>> from scvae_fast import dictionaries, sparse_code
        >>> D = dictionaries.dct(16, 32)
        >>> c = torch.linalg.matrix_norm(D, ord=2) ** 2
        >>> z, x_hat = sparse_code(torch.randn(5, 16), D.T / c, torch.eye(32) - D.T @ D / c, 0.5 / c, D, n_iter=10)
        >>> z.shape, x_hat.shape
        (torch.Size([5, 32]), torch.Size([5, 16]))
    """
    op = "sparse_code"
    given = {"S": S, "z0": z0}
    checks.are_tensors(op, x=x, W_e=W_e, D=D, **{name: t for name, t in given.items() if t is not None})
    n_iter = _common(op, n_iter, positive, backend)
    if S is not None:
        checks.is_constant_if_narrowed(op, "S", S, "x", x)
    threshold = checks.scalar_tensor(op, "theta", theta, x)
    gamma, beta = _number(op, "step", step, x, default=None), _number(op, "momentum", momentum, x, default=None)
    start = _number(op, "gain", gain, x, default=1)
    z, x_hat, _ = SPARSE_CODE(x, W_e, S, threshold, D, start, z0, gamma, beta, n_iter, positive, backend)
    return z, x_hat


def decode(z: torch.Tensor, D: torch.Tensor, *, backend: str | None = None) -> torch.Tensor:
    """Reconstruction x̂ = D z of every row, x̂ = z Dᵀ in matrices; differentiable in every mode and order.

    Args:
        z: (..., K) codes; float32, float64, bfloat16 or float16 (16-bit types are accumulated in float32).
        D: (n, K) dictionary, an atom a column, in z's dtype.
        backend: a name of `backends()`; None chooses by device and dtype, and on CPUs by the number of rows, the size
            of D and the density of z: PyTorch's product is faster for few rows, a small D, or few zeros to skip.

    Returns:
        (..., n) in z's dtype. Under autocast the operation runs in float32.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes, devices or the backend's name don't fit.
        RuntimeError: the requested backend can't take this call.

    Example:
        >>> import torch
        >>> from scvae_fast import decode
        >>> decode(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 3.0], [0.0, 4.0]]))
        tensor([[6., 8.]])
    """
    checks.are_tensors("decode", z=z, D=D)
    check_name("decode", backend)
    if _is_plain_product(z, backend):
        Decoding(z, D).check()
        return torch.nn.functional.linear(z, D)
    return DECODE(z, D, backend)


def _is_plain_product(z: torch.Tensor, backend: str | None) -> bool:
    """Whether PyTorch's own product decodes z directly; for few rows, our operation has too much overhead.

    Compiled code, and calls that compute in another dtype, use our operation all the same.
    """
    if torch.compiler.is_compiling() or checks.is_half(z.dtype) or z.dim() == 0:
        return False
    rows = z.numel() // max(1, z.shape[-1])
    if not isinstance(rows, int) or autocast_is_on("cpu" if z.is_cpu else z.device.type):
        return False
    if not z.is_cpu:
        return backend == "eager"
    return choose("decode", backend, z.device, z.dtype, rows) == "eager"


def soft_threshold(u: torch.Tensor, theta: torch.Tensor | float) -> torch.Tensor:
    """Soft threshold h_θ(u) = sign(u)·max(|u| − θ, 0), the proximal operator of θ‖·‖₁ (Gregor & LeCun 2010, eq. 4).

    θ may be negative, even −∞; the formula still holds, with h(0) = 0. The derivative at a tie |u| = θ is 0. NaN gives
    NaN.

    Args:
        u: (..., K), floating point. bfloat16 and float16 are computed in float32 and rounded once.
        theta: threshold, one value or (K,), in u's dtype (or float32 where u is a 16-bit type), on u's device.

    Returns:
        (..., K) in u's dtype.

    Raises:
        TypeError: an argument is not a floating-point tensor (theta: or number), or dtypes differ.
        ValueError: theta has another shape, or devices differ.

    Example:
        >>> import torch
        >>> from scvae_fast import soft_threshold
        >>> soft_threshold(torch.tensor([2.0, 0.5, -3.0]), 1.0)
        tensor([ 1.,  0., -2.])
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
    """The result of `lasso`."""

    codes: torch.Tensor  # (..., K)
    gap: torch.Tensor  # (...), duality gap as a share of ½‖x‖²


def lasso(
    x: torch.Tensor,
    D: torch.Tensor,
    alpha: torch.Tensor | float,
    *,
    positive: bool = False,
    z0: torch.Tensor | None = None,
    tol: float = 1e-4,
    max_iter: int = 1000,
    algorithm: Literal["cd", "fista", "ista"] | None = None,
) -> LassoResult:
    """The codes that minimise ½‖x − Dz‖² + Σ α_k|z_k|, with a bound on each row's distance from its minimum.

    Each row is iterated until its duality gap is at most tol · ½‖x‖², or for max_iter iterations; one RuntimeWarning
    gives the number of rows that miss this limit. Up to rounding, a row's codes depend neither on other rows nor on the
    units of x, D and α; with "cd", other rows don't change a single bit.

    - "cd", for CPUs: coordinate descent with working sets (Friedman et al. 2010; Johnson & Guestrin 2015). Its
      iterations are sweeps over a row's working set.
    - "fista" (Beck & Teboulle 2009), with the restarts of O'Donoghue & Candès (2015), and "ista", which is `lista` with
      W_e = Dᵀ/c, S = I − DᵀD/c, θ = α/c and c = ‖D‖₂². They run on any device.

    The codes are differentiable with respect to x, D and α in every mode and order, by the implicit function theorem on
    their support (see `ops/optimum.py`), as if the row were solved exactly. At a change of the support, this is a
    one-sided derivative. Linearly dependent atoms of the support share their gradient by the pseudo-inverse of D_SᵀD_S.
    The gradient of z0 is zero.

    Args:
        x: (..., n) vectors; float32 or float64, finite.
        D: (n, K) dictionary, an atom a column, in x's dtype; finite, and no atom zero.
        alpha: α ≥ 0, finite, the weight of the codes' absolute values, usually called λ: one value, (K,), (..., 1) or
            (..., K). If all weights of a row are 0, this is least squares, with many solutions for K > n; the result is
            the one of least norm or, with `positive`, one of them. "cd" needs α > 0.
        positive: whether codes are non-negative.
        z0: (..., K) codes to start from, finite; with `positive`, their positive parts.
        tol: largest relative gap, ≥ 0. With 0, "fista" and "ista" make exactly max_iter iterations, and "cd"
            continues until rounding stops it.
        max_iter: largest number of iterations per row, ≥ 0.
        algorithm: None chooses "cd" if it supports the call, otherwise "fista".

    Returns:
        Codes (..., K) and the relative duality gap (...) of each row, in x's dtype. A gap above tol means that the
        row is not solved. It is 0 if x = 0. In float32, rounding of the codes keeps it from falling much below 1e-6.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes, devices or numbers don't fit, or "cd" was requested and doesn't support the call.

    Example:
        >>> import torch
        >>> from scvae_fast import dictionaries, lasso
        >>> codes, gap = lasso(torch.randn(5, 16), dictionaries.dct(16, 32), alpha=0.1)
        >>> codes.shape, bool((gap <= 1e-4).all())
        (torch.Size([5, 32]), True)
    """
    op = "lasso"
    checks.are_tensors(op, x=x, D=D, **({} if z0 is None else {"z0": z0}))
    weights = checks.scalar_tensor(op, "alpha", alpha, x)
    if positive is not False and positive is not True:
        raise TypeError(f"{op}: positive must be a bool, got {type(positive).__name__}")
    tol = checks.number(op, "tol", tol)
    if not (math.isfinite(tol) and tol >= 0):
        raise ValueError(f"{op}: tol must be a finite number >= 0, got {tol}")
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise ValueError(f"{op}: algorithm must be None or one of {ALGORITHMS}, got {algorithm!r}")
    max_iter = checks.count(op, "max_iter", max_iter)
    if weights.numel() == 1:
        weights = weights.reshape(())
    shared, each = (weights, None) if weights.dim() < 2 else (None, weights)
    return LassoResult(*OPTIMUM(x, D, shared, each, z0, positive, float(tol), max_iter, algorithm))


def _common(op: str, n_iter: int, positive: bool, backend: str | None) -> Any:
    """T as an int; raises an error if T, `positive` or `backend` is invalid."""
    if positive is not False and positive is not True:
        raise TypeError(f"{op}: positive must be a bool, got {type(positive).__name__}")
    if backend is not None:
        check_name(op, backend)
    return checks.count(op, "n_iter", n_iter)


def _number(op: str, name: str, value: object, like: torch.Tensor, *, default: float | None) -> torch.Tensor | None:
    """A number or tensor in the form that the operation takes; None stands for the default."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is default or (is_number and value == default):
        return None
    return checks.scalar_tensor(op, name, value, like)
