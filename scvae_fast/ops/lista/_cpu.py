"""lista by the C++ kernels of csrc/cpu. Takes float32 and float64."""

from __future__ import annotations

import torch

from scvae_fast.ops._library import Gradients
from scvae_fast.ops._native import address, native, threads
from scvae_fast.ops.lista._contract import Problem


def _arguments(p: Problem) -> tuple[bool | int | float, ...]:
    """The problem as the kernels take it."""
    b, S, theta, gain, z0, n_iter = p
    M, K = b.shape
    return (
        b.dtype is torch.float64,
        M,
        K,
        n_iter,
        b.data_ptr(),
        S.data_ptr(),
        theta.data_ptr(),
        theta.numel() > 1,
        1.0 if gain is None else gain.item(),
        address(z0),
    )


def forward(p: Problem) -> torch.Tensor:
    """Codes z_T (M, K)."""
    z = torch.empty_like(p.b)
    native.lista_forward(*_arguments(p), z.data_ptr(), threads())
    return z


def backward(grad: torch.Tensor, z: torch.Tensor, p: Problem, needed: list[bool]) -> Gradients:
    """Gradients of b, S, theta, gain and z0 for grad = ∂L/∂z_T, z = z_T; None where one is not needed."""
    gradients = tuple(torch.empty_like(t) if t is not None and n else None for t, n in zip(p[:5], needed, strict=True))
    out = map(address, gradients)
    native.lista_backward(*_arguments(p), z.data_ptr(), grad.data_ptr(), *out, threads())
    return gradients
