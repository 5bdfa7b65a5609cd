"""sparse_code by Triton kernels: encoding, all iterations and decoding in one launch, or a launch for each."""

from __future__ import annotations

import torch

from scvae_fast.ops._library import Gradients
from scvae_fast.ops.decode import _triton as decode
from scvae_fast.ops.lista import _triton as lista
from scvae_fast.ops.sparse_code._composed import Composed
from scvae_fast.ops.sparse_code._contract import Problem

_COMPOSED = Composed(lista, decode)  # of products alone, where there are no iterations


def forward(p: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes z (M, K) and reconstruction x̂ (M, n)."""
    if p.n_iter == 0:
        return _COMPOSED.forward(p)
    from scvae_fast.ops._triton import bottleneck

    z, x_hat = bottleneck.forward(bottleneck.Bottleneck(*p))
    assert x_hat is not None
    return z, x_hat


def backward(
    grad_z: torch.Tensor | None,  # (M, K)
    grad_x_hat: torch.Tensor | None,  # (M, n)
    z: torch.Tensor,  # (M, K)
    p: Problem,
    needed: list[bool],
) -> Gradients:
    """Gradients of x, W_e, S, theta, D, gain and z0; None where one is not needed."""
    if p.n_iter == 0:
        return _COMPOSED.backward(grad_z, grad_x_hat, z, p, needed)
    from scvae_fast.ops._triton import bottleneck

    return bottleneck.backward(bottleneck.Bottleneck(*p), bottleneck.Incoming(grad_z, grad_x_hat, z), needed)
