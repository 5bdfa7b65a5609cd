"""decode by Triton kernels: matrix products in float32's accuracy on the matrix units."""

from __future__ import annotations

import torch

from scvae_fast.ops._library import Gradients
from scvae_fast.ops.decode._contract import Problem


def forward(p: Problem) -> torch.Tensor:
    """x̂ (M, n)."""
    from scvae_fast.ops._triton import launch

    with launch.on_device_of(p.z) as card:
        return launch.product(p.z, p.D, card)


def backward(grad: torch.Tensor, p: Problem, needed: list[bool]) -> Gradients:
    """Gradients of z and D for grad = ∂L/∂x̂; None where one is not needed."""
    from scvae_fast.ops._triton import launch

    with launch.on_device_of(p.z) as card:
        d_z = launch.product(grad, p.D.T, card) if needed[0] else None
        d_D = launch.outer(grad, p.z, card).to(p.D.dtype) if needed[1] else None
    return d_z, d_D
