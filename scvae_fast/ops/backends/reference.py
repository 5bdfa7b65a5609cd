"""The specification, in plain PyTorch: readable, exact in float64, never optimised.

It also gives the operations their forward mode and the derivatives of their gradients, so nothing in it may change a
tensor in place. `half.py` computes 16-bit problems with it in float32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from scvae_fast.ops.problem import Decoding, Gradients, Incoming, Needed, Problem


def shrink(u: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """sign(u)·max(|u| − θ, 0). relu's derivative is 0 at the tie |u| = θ, and it keeps a NaN."""
    return torch.sign(u) * torch.relu(u.abs() - theta)


def iterates(p: Problem) -> Iterator[torch.Tensor]:
    """z_0 … z_T, each (M, K)."""
    b = p.drive()
    z = p.z0 if p.z0 is not None else shrink(b if p.gain is None else b * p.gain, p.theta)
    yield z
    for _ in range(p.n_iter):
        z = shrink(b + z @ p.S.T, p.theta)
        yield z


def code(p: Problem) -> tuple[torch.Tensor, ...]:
    """Codes z_T (M, K), and the reconstruction x̂ (M, n) where there is a dictionary."""
    (z,) = deque(iterates(p), maxlen=1)
    if z is p.z0:  # for T = 0; a result may not share memory with an argument
        z = z.clone()
    return (z,) if p.D is None else (z, z @ p.D.T)


def code_backward(p: Problem, given: Incoming, needed: Needed) -> Gradients:
    """Gradients of the tensors of p."""
    g, found = given.grad_z, {}
    if p.D is not None and given.grad_x_hat is not None:
        found["D"] = given.grad_x_hat.T @ given.z
        g = given.grad_x_hat @ p.D if g is None else g + given.grad_x_hat @ p.D
    if g is not None and needed != {"D"}:
        found |= _through_iterations(p, g, given.z)
    return {name: found[name] if name in found else torch.zeros_like(getattr(p, name)) for name in needed}


def _through_iterations(p: Problem, g: torch.Tensor, z: torch.Tensor) -> Gradients:
    """Gradients of all tensors but D, for g = ∂L/∂z_T, z = z_T."""
    b = p.drive()
    codes = [*iterates(p._replace(n_iter=p.n_iter - 1)), z] if p.n_iter > 0 else [z]
    d_b, d_S, d_theta = torch.zeros_like(b), torch.zeros_like(p.S), b.new_zeros(b.shape[1])
    for t in range(p.n_iter, 0, -1):
        g = torch.where(codes[t] != 0, g, 0)
        d_b = d_b + g
        d_theta = d_theta - (torch.sign(codes[t]) * g).sum(0)
        d_S = d_S + g.T @ codes[t - 1]
        g = g @ p.S
    found = {"S": d_S}
    if p.z0 is not None:
        found["z0"] = g
    else:
        g = torch.where(codes[0] != 0, g, 0)
        d_theta = d_theta - (torch.sign(codes[0]) * g).sum(0)
        found["gain"] = (b * g).sum()
        d_b = d_b + (g if p.gain is None else p.gain * g)
    found["theta"] = d_theta if p.theta.numel() > 1 else d_theta.sum()
    found["x"] = d_b if p.W_e is None else d_b @ p.W_e
    if p.W_e is not None:
        found["W_e"] = d_b.T @ p.x
    return found


def decode(p: Decoding) -> torch.Tensor:
    """x̂ (M, n)."""
    return p.z @ p.D.T


def decode_backward(p: Decoding, grad: torch.Tensor, needed: Needed) -> Gradients:
    """Gradients of z and D for grad = ∂L/∂x̂ (M, n)."""
    gradients = {}
    if "z" in needed:
        gradients["z"] = grad @ p.D
    if "D" in needed:
        gradients["D"] = grad.T @ p.z
    return gradients
