"""sparse_code: the whole bottleneck, from a vector to its sparse code and back."""

from __future__ import annotations

import torch

from scvae_fast.ops import _backend, _checks
from scvae_fast.ops.lista import start_gain
from scvae_fast.ops.sparse_code._autograd import OPERATION


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
    _checks.are_tensors(op, x=x, W_e=W_e, S=S, D=D, **({} if z0 is None else {"z0": z0}))
    n_iter = _checks.count(op, "n_iter", n_iter)
    _checks.is_constant_if_narrowed(op, "S", S, "x", x)
    _backend.check_name(op, backend)
    threshold = _checks.scalar_tensor(op, "theta", theta, x)
    start = start_gain(op, gain, z0, x)
    return OPERATION(x, W_e, S, threshold, D, start, z0, n_iter, backend)
