"""decode by a set of fused kernels: matrix products in float32's accuracy on the matrix units."""

from __future__ import annotations

from typing import NamedTuple

import torch

from scvae_fast.ops._bottleneck import OnDevice
from scvae_fast.ops._library import Gradients
from scvae_fast.ops.decode._contract import Problem


class Decode(NamedTuple):
    """The sibling on those kernels."""

    on_device_of: OnDevice

    def forward(self, p: Problem) -> torch.Tensor:
        """x̂ (M, n)."""
        with self.on_device_of(p.z) as kernels:
            return kernels.product(p.z, p.D)

    def backward(self, grad: torch.Tensor, p: Problem, needed: list[bool]) -> Gradients:
        """Gradients of z and D for grad = ∂L/∂x̂; None where one is not needed."""
        with self.on_device_of(p.z) as kernels:
            d_z = kernels.product(grad, p.D.T) if needed[0] else None
            d_D = kernels.outer(grad, p.z).to(p.D.dtype) if needed[1] else None
        return d_z, d_D
