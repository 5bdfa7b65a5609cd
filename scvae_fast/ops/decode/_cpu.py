"""decode by the C++ kernels of csrc/cpu, which skip the zeros of z. Takes float32 and float64."""

from __future__ import annotations

from typing import Any

import torch

from scvae_fast.ops._library import Gradients
from scvae_fast.ops._native import address, native, strided
from scvae_fast.ops.decode._contract import Problem


def _arguments(p: Problem) -> Any:
    return native.DecodeArguments(
        rows=p.z.shape[0], atoms=p.z.shape[1], features=p.D.shape[0], z=strided(p.z), D=strided(p.D)
    )


def forward(p: Problem) -> torch.Tensor:
    """x̂ (M, n)."""
    x_hat = p.z.new_empty(p.z.shape[0], p.D.shape[0])
    native.decode_forward(p.z.dtype == torch.float64, _arguments(p), address(x_hat), torch.get_num_threads())
    return x_hat


def backward(grad: torch.Tensor, p: Problem, needed: list[bool]) -> Gradients:
    """Gradients of z and D for grad = ∂L/∂x̂; None where one is not needed."""
    d_z, d_D = (torch.empty_like(t) if n else None for t, n in zip(p, needed, strict=True))
    native.decode_backward(
        p.z.dtype == torch.float64,
        _arguments(p),
        strided(grad),
        address(d_z),
        address(d_D),
        torch.get_num_threads(),
    )
    return d_z, d_D
