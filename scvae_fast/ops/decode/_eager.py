"""decode in plain PyTorch: the specification. 16-bit inputs are computed in float32 and rounded once, at the end."""

from __future__ import annotations

import torch

from scvae_fast.ops._library import Gradients
from scvae_fast.ops.decode._contract import Problem
from scvae_fast.ops.lista._eager import widen


def forward(p: Problem) -> torch.Tensor:
    """x̂ (M, n)."""
    return (widen(p.z) @ widen(p.D).T).to(p.z.dtype)


def backward(grad: torch.Tensor, p: Problem, needed: list[bool]) -> Gradients:
    """Gradients of z and D for grad = ∂L/∂x̂; None where one is not needed."""
    wide = widen(grad)
    d_z = (wide @ widen(p.D)).to(p.z.dtype) if needed[0] else None
    d_D = (wide.T @ widen(p.z)).to(p.D.dtype) if needed[1] else None
    return d_z, d_D
