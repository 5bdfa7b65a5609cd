"""decode by the C++ kernels of csrc/cpu, which skip the zeros of z. Takes float32 and float64."""

from __future__ import annotations

import torch

from scvae_fast.ops._library import Gradients
from scvae_fast.ops._native import address, native, threads
from scvae_fast.ops.decode._contract import Problem


def _arguments(p: Problem) -> tuple[bool | int, ...]:
    """The problem as the kernels take it."""
    z, D = p
    return (z.dtype is torch.float64, *z.shape, D.shape[0], z.data_ptr(), D.data_ptr())


def forward(p: Problem) -> torch.Tensor:
    """x̂ (M, n)."""
    x_hat = p.z.new_empty(p.z.shape[0], p.D.shape[0])
    native.decode_forward(*_arguments(p), x_hat.data_ptr(), threads())
    return x_hat


def backward(grad: torch.Tensor, p: Problem, needed: list[bool]) -> Gradients:
    """Gradients of z and D for grad = ∂L/∂x̂; None where one is not needed."""
    d_z, d_D = (torch.empty_like(t) if n else None for t, n in zip(p, needed, strict=True))
    native.decode_backward(*_arguments(p), grad.data_ptr(), address(d_z), address(d_D), threads())
    return d_z, d_D
