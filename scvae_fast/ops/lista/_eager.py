"""lista in plain PyTorch: the specification. Readable, exact in float64, never optimised.

`iterates` is the formula, for autograd to differentiate; `forward` and `backward` are the operation's, the backward
pass written by hand. 16-bit inputs are computed in float32 and rounded once, at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeVar

import torch

from scvae_fast.ops._checks import is_half
from scvae_fast.ops._library import Gradients
from scvae_fast.ops.lista._contract import Problem
from scvae_fast.ops.soft_threshold import shrink

_T = TypeVar("_T", torch.Tensor, torch.Tensor | None)


def widen(tensor: _T) -> _T:
    """A 16-bit tensor in float32, any other as it is."""
    return tensor.float() if tensor is not None and is_half(tensor.dtype) else tensor


def _widened(p: Problem) -> Problem:
    return Problem(widen(p.b), widen(p.S), widen(p.theta), widen(p.gain), widen(p.z0), p.n_iter)


def iterates(p: Problem) -> Iterator[torch.Tensor]:
    """z_0 … z_T, each (M, K)."""
    z = p.z0 if p.z0 is not None else shrink(p.b if p.gain is None else p.b * p.gain, p.theta)
    yield z
    for _ in range(p.n_iter):
        z = shrink(p.b + z @ p.S.T, p.theta)
        yield z


def forward(p: Problem) -> torch.Tensor:
    """Codes z_T (M, K)."""
    (z,) = deque(iterates(_widened(p)), maxlen=1)
    # A result may not share memory with an argument, as it would for T = 0 from a given z0.
    return z.to(p.b.dtype, copy=z is p.z0)


def backward(grad: torch.Tensor, z: torch.Tensor, p: Problem, needed: list[bool]) -> Gradients:
    """Gradients of b, S, theta, gain and z0 for grad = ∂L/∂z_T, z = z_T; None where one is not needed.

    Nothing is changed in place: the gradients can be differentiated again.
    """
    dtypes = [None if t is None else t.dtype for t in p[:5]]
    p = _widened(p)
    codes = [*iterates(p._replace(n_iter=p.n_iter - 1)), widen(z)] if p.n_iter > 0 else [widen(z)]
    d_b, d_S, d_theta = torch.zeros_like(p.b), torch.zeros_like(p.S), p.b.new_zeros(p.b.shape[1])
    d_gain, d_z0 = None, None
    g = widen(grad)
    for t in range(p.n_iter, 0, -1):
        g = torch.where(codes[t] != 0, g, 0)
        d_b = d_b + g
        d_theta = d_theta - (torch.sign(codes[t]) * g).sum(0)
        d_S = d_S + g.T @ codes[t - 1]
        g = g @ p.S
    if p.z0 is not None:
        d_z0 = g
    else:
        g = torch.where(codes[0] != 0, g, 0)
        d_theta = d_theta - (torch.sign(codes[0]) * g).sum(0)
        d_gain = (p.b * g).sum()
        d_b = d_b + (g if p.gain is None else p.gain * g)
    if p.theta.numel() == 1:
        d_theta = d_theta.sum()
    gradients = zip((d_b, d_S, d_theta, d_gain, d_z0), needed, dtypes, strict=True)
    return tuple(d.to(dtype) if d is not None and n else None for d, n, dtype in gradients)
