"""The rivals' arithmetic: LISTA in eager PyTorch, written like the released code, and written with care."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from scvae_fast import soft_threshold


def released(
    b: torch.Tensor,  # (M, K)
    S: torch.Tensor,  # (K, K)
    theta: torch.Tensor,  # () or (K,)
    n_iter: int,
    gain: torch.Tensor | None = None,  # (); None stands for 1
) -> torch.Tensor:
    """Codes z_T (M, K) by the released code's formula: sign·max and matmul, one kernel per step."""
    u = b if gain is None else b * gain
    z = torch.sign(u) * torch.max(torch.abs(u) - theta, torch.zeros_like(u))
    for _ in range(n_iter):
        u = torch.matmul(z, S.T) + b
        z = torch.sign(u) * torch.max(torch.abs(u) - theta, torch.zeros_like(u))
    return z


def clean(
    b: torch.Tensor,  # (M, K)
    S: torch.Tensor,  # (K, K)
    theta: float | torch.Tensor,  # a number, or (K,)
    n_iter: int,
    gain: torch.Tensor | None = None,  # (); None stands for 1
) -> torch.Tensor:
    """Codes z_T (M, K) with addmm. If the threshold is a number, thresholding is one kernel, without its gradient."""
    z = _shrink(b if gain is None else b * gain, theta)
    for _ in range(n_iter):
        z = _shrink(torch.addmm(b, z, S.T), theta)
    return z


def _shrink(u: torch.Tensor, theta: float | torch.Tensor) -> torch.Tensor:
    if isinstance(theta, torch.Tensor):
        return u - torch.clamp(u, -theta, theta)
    return torch.nn.functional.softshrink(u, theta)


def iterates(
    b: torch.Tensor,  # (M, K)
    S: torch.Tensor,  # (K, K)
    theta: torch.Tensor,  # () or (K,)
    n_iter: int,
    gain: torch.Tensor | None = None,  # (); None stands for 1
) -> Iterator[torch.Tensor]:
    """Yields z_0 … z_T, each (M, K)."""
    z = soft_threshold(b if gain is None else b * gain, theta)
    yield z
    for _ in range(n_iter):
        z = soft_threshold(b + z @ S.T, theta)
        yield z


def density(codes: torch.Tensor) -> float:
    """The share of nonzero entries."""
    return int(torch.count_nonzero(codes)) / codes.numel()
