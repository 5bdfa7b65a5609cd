"""decode: what sparse codes stand for, as a combination of atoms."""

from __future__ import annotations

import torch

from scvae_fast.ops import _backend, _checks
from scvae_fast.ops.decode._autograd import OPERATION


def decode(z: torch.Tensor, D: torch.Tensor, *, backend: str | None = None) -> torch.Tensor:
    """Reconstruction x̂ = D z of every row, x̂ = z Dᵀ in matrices; differentiable in every mode and order.

    Args:
        z: (..., K) codes; float32, float64, bfloat16 or float16 (16-bit types are accumulated in float32).
        D: (n, K) dictionary, an atom a column, in z's dtype.
        backend: a name of `backends()`; None chooses by device, dtype and number of rows.

    Returns:
        (..., n) in z's dtype. Under autocast the operation runs in float32.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes, devices or the backend's name don't fit.
        RuntimeError: the backend asked for can't take this call.
    """
    _checks.are_tensors("decode", z=z, D=D)
    _backend.check_name("decode", backend)
    return OPERATION(z, D, backend)
