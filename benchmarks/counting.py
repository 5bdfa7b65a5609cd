"""The useful arithmetic of a case: the multiply-adds of a machine that skips every zero.

A multiply-add is useful if its factor z_t (a code) or ĝ_t (an adjoint, the gradient of z_t on its support) is nonzero;
factors of x, ∂x̂ and ∂b count as dense. They are counted on the iterates themselves, with nnz() the number of nonzero
entries; ĝ_t counts as nonzero on the whole support of z_t:

    forward    b = x W_eᵀ            M·n·K
               z_t Sᵀ                nnz(z_t)·K                                   for t = 0 … T−1
               x̂ = z_T Dᵀ            nnz(z_T)·n
    backward   g_T = ∂x̂ D            M·n·K
               g_{t−1} = ĝ_t S       nnz(z_t)·K                                   for t = 1 … T
               ∂S += ĝ_tᵀ z_{t−1}    Σ over the rows of nnz(z_t)·nnz(z_{t−1})     for t = 1 … T
               ∂D = ∂x̂ᵀ z_T          nnz(z_T)·n
               ∂x = ∂b W_e           M·n·K
               ∂W_e = ∂bᵀ x          M·n·K

Recomputation in a backward pass (b and the iterates) is overhead, not useful: an implementation gets no credit for
trading time for memory. Pure additions, thresholds and ∂θ don't count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from benchmarks.formulas import density


class Arithmetic(NamedTuple):
    """Useful multiply-adds of a call, and the density of every iterate z_0 … z_T."""

    forward: int
    backward: int
    densities: list[float]


def useful(iterates: Iterable[torch.Tensor], op: str, n_features: int) -> Arithmetic:
    """Counts for the iterates z_0 … z_T, each (M, K), of an operation or layer with vectors of n features.

    `sparse_code` and DictionaryLISTA include all of it; `lista` neither encodes nor decodes, the layer LISTA only
    encodes, and `decode` only decodes.
    """
    forward = backward = 0
    densities: list[float] = []
    before: torch.Tensor | None = None  # non-zeros of each row of z_{t−1}
    for codes in iterates:
        rows, atoms = codes.shape
        in_row = torch.count_nonzero(codes, dim=1)  # (M,)
        if before is not None and op != "decode":
            forward += int(before.sum()) * atoms
            backward += int(in_row.sum()) * atoms + int(in_row @ before)
        densities.append(density(codes))
        before = in_row
    if before is None:
        raise ValueError("useful: iterates must hold z_0 at least, got none")
    dense, last = rows * n_features * atoms, int(before.sum()) * n_features
    if op not in ("lista", "decode"):  # b; ∂x and ∂W_e
        forward, backward = forward + dense, backward + 2 * dense
    if op not in ("lista", "LISTA"):  # x̂; g_T and ∂D
        forward, backward = forward + last, backward + dense + last
    return Arithmetic(forward, backward, densities)
