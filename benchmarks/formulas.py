"""The rivals: LISTA in eager PyTorch, as the released code writes it and as one would write it with care."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from scvae_fast import soft_threshold


def released(
    b: torch.Tensor,  # (M, K)
    S: torch.Tensor,  # (K, K)
    theta: torch.Tensor,  # ()
    n_iter: int,
    gain: torch.Tensor | None = None,  # (); None stands for 1
) -> torch.Tensor:
    """Codes z_T (M, K) by the released code's formula: sign·max and matmul, one kernel a step."""
    u = b if gain is None else b * gain
    z = torch.sign(u) * torch.max(torch.abs(u) - theta, torch.zeros_like(u))
    for _ in range(n_iter):
        u = torch.matmul(z, S.T) + b
        z = torch.sign(u) * torch.max(torch.abs(u) - theta, torch.zeros_like(u))
    return z


def clean(
    b: torch.Tensor,  # (M, K)
    S: torch.Tensor,  # (K, K)
    theta: torch.Tensor,  # ()
    n_iter: int,
    gain: torch.Tensor | None = None,  # (); None stands for 1
) -> torch.Tensor:
    """Codes z_T (M, K) with addmm, and a threshold that is one kernel; it gives no gradient of the threshold."""
    threshold = theta.item()
    z = torch.nn.functional.softshrink(b if gain is None else b * gain, threshold)
    for _ in range(n_iter):
        z = torch.nn.functional.softshrink(torch.addmm(b, z, S.T), threshold)
    return z


def iterates(
    b: torch.Tensor,  # (M, K)
    S: torch.Tensor,  # (K, K)
    theta: torch.Tensor,  # ()
    n_iter: int,
    gain: torch.Tensor | None = None,  # (); None stands for 1
) -> Iterator[torch.Tensor]:
    """z_0 … z_T, each (M, K), one after the other."""
    z = soft_threshold(b if gain is None else b * gain, theta)
    yield z
    for _ in range(n_iter):
        z = soft_threshold(b + z @ S.T, theta)
        yield z


def density(codes: torch.Tensor) -> float:
    """The part of the entries that is not zero."""
    return int(torch.count_nonzero(codes)) / codes.numel()
