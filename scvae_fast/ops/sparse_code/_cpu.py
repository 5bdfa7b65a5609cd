"""sparse_code by the C++ kernels of csrc/cpu: the whole bottleneck, a block of rows at a time."""

from __future__ import annotations

import torch

from scvae_fast.ops._library import Gradients
from scvae_fast.ops._native import address, native, threads
from scvae_fast.ops.sparse_code._contract import Problem


def _arguments(p: Problem) -> tuple[bool | int | float, ...]:
    """The problem as the kernels take it."""
    M, n = p.x.shape
    return (
        p.x.dtype is torch.float64,
        M,
        p.W_e.shape[0],
        p.n_iter,
        n,
        p.x.data_ptr(),
        p.W_e.data_ptr(),
        p.S.data_ptr(),
        p.theta.data_ptr(),
        p.theta.numel() > 1,
        p.D.data_ptr(),
        1.0 if p.gain is None else p.gain.item(),
        address(p.z0),
    )


def forward(p: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes z (M, K) and reconstruction x̂ (M, n)."""
    z, x_hat = p.x.new_empty(p.x.shape[0], p.W_e.shape[0]), torch.empty_like(p.x)
    native.sparse_code_forward(*_arguments(p), z.data_ptr(), x_hat.data_ptr(), threads())
    return z, x_hat


def backward(
    grad_z: torch.Tensor | None,  # (M, K)
    grad_x_hat: torch.Tensor | None,  # (M, n)
    z: torch.Tensor,  # (M, K)
    p: Problem,
    needed: list[bool],
) -> Gradients:
    """Gradients of x, W_e, S, theta, D, gain and z0; None where one is not needed."""
    gradients = tuple(torch.empty_like(t) if t is not None and n else None for t, n in zip(p[:7], needed, strict=True))
    native.sparse_code_backward(
        *_arguments(p),
        z.data_ptr(),
        address(grad_z),
        address(grad_x_hat),
        *map(address, gradients),
        threads(),
    )
    return gradients
