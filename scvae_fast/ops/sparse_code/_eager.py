"""sparse_code in plain PyTorch: the specification. 16-bit inputs are computed in float32, rounded once at the end."""

from __future__ import annotations

import torch

from scvae_fast.ops._library import Gradients
from scvae_fast.ops.decode import _eager as decode
from scvae_fast.ops.lista import _eager as lista
from scvae_fast.ops.lista._eager import widen
from scvae_fast.ops.sparse_code._composed import Composed
from scvae_fast.ops.sparse_code._contract import Problem

_COMPOSED = Composed(lista, decode)


def _widened(p: Problem) -> Problem:
    return Problem(
        widen(p.x), widen(p.W_e), widen(p.S), widen(p.theta), widen(p.D), widen(p.gain), widen(p.z0), p.n_iter
    )


def forward(p: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes z (M, K) and reconstruction x̂ (M, n)."""
    z, x_hat = _COMPOSED.forward(_widened(p))
    return z.to(p.x.dtype), x_hat.to(p.x.dtype)


def backward(
    grad_z: torch.Tensor | None,  # (M, K)
    grad_x_hat: torch.Tensor | None,  # (M, n)
    z: torch.Tensor,  # (M, K)
    p: Problem,
    needed: list[bool],
) -> Gradients:
    """Gradients of x, W_e, S, theta, D, gain and z0; None where one is not needed."""
    gradients = _COMPOSED.backward(widen(grad_z), widen(grad_x_hat), widen(z), _widened(p), needed)
    return tuple(None if d is None or t is None else d.to(t.dtype) for d, t in zip(gradients, p[:7], strict=True))
