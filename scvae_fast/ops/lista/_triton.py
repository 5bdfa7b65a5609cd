"""lista by Triton kernels: all iterations in one launch, or a launch for each."""

from __future__ import annotations

import torch

from scvae_fast.ops._library import Gradients
from scvae_fast.ops.lista import _eager
from scvae_fast.ops.lista._contract import Problem


def forward(p: Problem) -> torch.Tensor:
    """Codes z_T (M, K)."""
    if p.n_iter == 0:  # one elementwise formula: there is nothing to fuse
        return _eager.forward(p)
    from scvae_fast.ops._triton import bottleneck

    return bottleneck.forward(bottleneck.lista(p))[0]


def backward(grad: torch.Tensor, z: torch.Tensor, p: Problem, needed: list[bool]) -> Gradients:
    """Gradients of b, S, theta, gain and z0 for grad = ∂L/∂z_T, z = z_T; None where one is not needed."""
    if p.n_iter == 0:
        return _eager.backward(grad, z, p, needed)
    from scvae_fast.ops._triton import bottleneck

    need_b, need_S, need_theta, need_gain, need_z0 = needed
    wanted = [need_b, False, need_S, need_theta, False, need_gain, need_z0]
    found = bottleneck.backward(bottleneck.lista(p), bottleneck.Incoming(grad, None, z), wanted)
    return found.x, found.S, found.theta, found.gain, found.z0
