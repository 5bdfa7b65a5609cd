"""The soft threshold, in plain differentiable PyTorch: torch.compile fuses it, double backward works."""

from __future__ import annotations

import torch

from scvae_fast.ops import _checks


def shrink(u: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """sign(u)·max(|u| − θ, 0), unchecked. relu's derivative is 0 at the tie |u| = θ, and it keeps a NaN."""
    return torch.sign(u) * torch.relu(u.abs() - theta)


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
    _checks.are_tensors(op, u=u)
    threshold = _checks.scalar_tensor(op, "theta", theta, u)
    _checks.agree(op, ("u", "theta"), (u, threshold), may_be_float32=("theta",))
    if threshold.numel() != 1:
        _checks.is_scalar_or_per_atom(op, "theta", threshold, _checks.has_rows(op, "u", u, "(..., K)"))
    else:
        threshold = threshold.reshape(())
    if _checks.is_half(u.dtype):
        return shrink(u.float(), threshold.float()).to(u.dtype)
    return shrink(u, threshold)
