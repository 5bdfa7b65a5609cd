"""lista by a set of fused kernels: all iterations in one launch."""

from __future__ import annotations

from typing import NamedTuple

import torch

from scvae_fast.ops._bottleneck import Bottleneck, Incoming, OnDevice, backward, forward
from scvae_fast.ops._library import Gradients
from scvae_fast.ops.lista import _eager
from scvae_fast.ops.lista._contract import Problem


def _bottleneck_of(p: Problem) -> Bottleneck:
    """Its drive is given, and it is not decoded."""
    return Bottleneck(p.b, None, p.S, p.theta, None, p.gain, p.z0, p.n_iter)


class Lista(NamedTuple):
    """The sibling on those kernels. Without iterations it is one elementwise formula: there is nothing to fuse."""

    on_device_of: OnDevice

    def forward(self, p: Problem) -> torch.Tensor:
        """Codes z_T (M, K)."""
        if p.n_iter == 0:
            return _eager.forward(p)
        with self.on_device_of(p.b) as kernels:
            return forward(kernels, _bottleneck_of(p))[0]

    def backward(self, grad: torch.Tensor, z: torch.Tensor, p: Problem, needed: list[bool]) -> Gradients:
        """Gradients of b, S, theta, gain and z0 for grad = ∂L/∂z_T, z = z_T; None where one is not needed."""
        if p.n_iter == 0:
            return _eager.backward(grad, z, p, needed)
        need_b, need_S, need_theta, need_gain, need_z0 = needed
        wanted = [need_b, False, need_S, need_theta, False, need_gain, need_z0]
        with self.on_device_of(p.b) as kernels:
            found = backward(kernels, _bottleneck_of(p), Incoming(grad, None, z), wanted)
        return found.x, found.S, found.theta, found.gain, found.z0
