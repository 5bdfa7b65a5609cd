"""lista by the C++ kernels of csrc/cpu. Takes float32 and float64."""

from __future__ import annotations

from typing import Any

import torch

from scvae_fast.ops._library import Gradients
from scvae_fast.ops._native import address, native, strided
from scvae_fast.ops.lista._contract import Problem


def _arguments(p: Problem) -> Any:
    return native.ListaArguments(
        rows=p.b.shape[0],
        atoms=p.b.shape[1],
        n_iter=p.n_iter,
        b=strided(p.b),
        S=strided(p.S),
        theta=address(p.theta),
        theta_per_atom=p.theta.numel() > 1,
        gain=1.0 if p.gain is None else p.gain.item(),
        z0=strided(p.z0),
    )


def forward(p: Problem) -> torch.Tensor:
    """Codes z_T (M, K)."""
    z = torch.empty_like(p.b)
    native.lista_forward(p.b.dtype == torch.float64, _arguments(p), address(z), torch.get_num_threads())
    return z


def backward(grad: torch.Tensor, z: torch.Tensor, p: Problem, needed: list[bool]) -> Gradients:
    """Gradients of b, S, theta, gain and z0 for grad = ∂L/∂z_T, z = z_T; None where one is not needed."""
    tensors = zip(p[:5], needed, strict=True)
    gradients = tuple(t.new_empty(t.shape) if t is not None and n else None for t, n in tensors)
    out = native.GradientAddresses(*map(address, gradients))
    native.lista_backward(
        p.b.dtype == torch.float64, _arguments(p), strided(z), strided(grad), out, torch.get_num_threads()
    )
    return gradients
