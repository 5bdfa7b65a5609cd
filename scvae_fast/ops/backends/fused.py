"""A backend on fused kernels of a GPU: `Fused`. The backward pass computes the iterates again, in chunks of rows.

What a set of kernels must offer is `Kernels`; `Fused` uses every set in the same way. Scratch is bounded whatever M and
T are: the iterates and adjoints of a chunk of rows take at most CHUNK_BYTES.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch

from scvae_fast.ops.backends import reference
from scvae_fast.ops.backends.half import InFloat32
from scvae_fast.ops.problem import Decoding, Gradients, Incoming, Needed, Problem

CHUNK_BYTES = 1 << 30

_REFERENCE = InFloat32(reference)


class Padding(NamedTuple):
    """Of the iterates of a chunk of rows."""

    rows: int  # M in whole blocks
    block: int  # rows of a block
    KP: int  # atoms in whole tiles


class Collected(NamedTuple):
    """What adjoints add up to, besides the products."""

    drive: torch.Tensor  # (M, K)
    theta: torch.Tensor  # (K,), float32: for each atom
    gain: torch.Tensor  # one value, float32


class Kernels(Protocol):
    """The launches, all on the current stream of the tensors' device. Iterates and adjoints are (T + 1, rows, KP)."""

    def forward(self, p: Problem, z: torch.Tensor, x_hat: torch.Tensor | None) -> None:
        """Writes z (M, K), and x̂ (M, n) where there is a dictionary."""

    def prepare_backward(self, p: Problem, first_chunk: Callable[[], object]) -> None:
        """Called before the backward pass of p. May time tiles on its first chunk of rows, and choose among them."""

    def padding(self, p: Problem) -> Padding:
        """For the tile that `prepare_backward` chose."""

    def iterates(self, p: Problem, codes: torch.Tensor) -> torch.Tensor:
        """Writes z_0 … z_{T−1}; what rows and atoms there are not get zeros. Returns the drive, (≥ M, ≥ K)."""

    def adjoints(self, p: Problem, codes: torch.Tensor, adjoints: torch.Tensor) -> None:
        """Writes ĝ_{T−1} … ĝ_0, given ĝ_T and the codes."""

    def collect(self, p: Problem, drive: torch.Tensor, codes: torch.Tensor, adjoints: torch.Tensor) -> Collected:
        """Sums over t, and over rows what the rows share."""

    def outer(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """leftᵀ · right in float32, for left (rows, I) and right (rows, J)."""

    def product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The product left · rightᵀ for left (M, depth), rows any distance apart, and right (columns, depth)."""


OnDevice = Callable[[torch.Tensor], AbstractContextManager[Kernels]]
"""The kernels for a tensor's dtype, on its device and that device's current stream."""


def _code(kernels: Kernels, p: Problem) -> tuple[torch.Tensor, ...]:
    z = p.x.new_empty(len(p.x), p.S.shape[0])
    x_hat = None if p.D is None else torch.empty_like(p.x)
    if len(p.x) > 0:
        kernels.forward(p, z, x_hat)
    return (z,) if x_hat is None else (z, x_hat)


def chunk_rows(padding: Padding, slabs: int, itemsize: int) -> int:
    """Rows for which so many slabs of scratch take at most CHUNK_BYTES: whole blocks, one at least."""
    row_bytes = slabs * itemsize * padding.KP
    return max(1, min(padding.rows, CHUNK_BYTES // row_bytes) // padding.block) * padding.block


class _Iterates(NamedTuple):
    """Of a chunk of rows."""

    drive: torch.Tensor  # (≥ M, ≥ K)
    codes: torch.Tensor  # z_0 … z_T (T + 1, rows, KP)
    adjoints: torch.Tensor  # ĝ_0 … ĝ_T likewise


def _grad_of_codes(kernels: Kernels, p: Problem, given: Incoming) -> torch.Tensor:
    """Through both results."""
    if given.grad_x_hat is None or p.D is None:
        return torch.zeros_like(given.z) if given.grad_z is None else given.grad_z
    through = kernels.product(given.grad_x_hat, p.D.T)
    return through if given.grad_z is None else given.grad_z + through


def _recompute(kernels: Kernels, p: Problem, given: Incoming) -> _Iterates:
    M, K = given.z.shape
    padding = kernels.padding(p)
    codes = p.x.new_empty(p.n_iter + 1, padding.rows, padding.KP)
    drive = kernels.iterates(p, codes)
    adjoints = torch.empty_like(codes)
    last = torch.where(given.z != 0, _grad_of_codes(kernels, p, given), 0)
    for slab, known in ((codes[-1], given.z), (adjoints[-1], last)):
        slab.zero_()
        slab[:M, :K] = known
    kernels.adjoints(p, codes, adjoints)
    return _Iterates(drive, codes, adjoints)


_OF_ROWS = {"x", "z0"}


class _Backward:
    """Sums of the gradients of what all rows share, in float32; and the gradients of the rows themselves."""

    def __init__(self, kernels: Kernels, p: Problem, needed: Needed) -> None:
        self.kernels = kernels
        self.rows = {name: torch.empty_like(getattr(p, name)) for name in needed & _OF_ROWS}
        self.sums = {name: torch.zeros_like(getattr(p, name), dtype=torch.float32) for name in needed - _OF_ROWS}

    def add(self, p: Problem, given: Incoming, begin: int) -> None:
        """The rows of a chunk, of which the first is row `begin`."""
        M, K = given.z.shape
        drive, codes, adjoints = _recompute(self.kernels, p, given)
        collected = self.kernels.collect(p, drive, codes, adjoints)
        own = slice(begin, begin + M)
        if "z0" in self.rows:
            self.rows["z0"][own] = adjoints[0, :M, :K]
        if "x" in self.rows:
            through = collected.drive if p.W_e is None else self.kernels.product(collected.drive, p.W_e.T)
            self.rows["x"][own] = through
        if "theta" in self.sums:
            per_atom = p.theta.numel() > 1
            self.sums["theta"] += (collected.theta if per_atom else collected.theta.sum()).reshape(p.theta.shape)
        if "gain" in self.sums:
            self.sums["gain"] += collected.gain
        if "S" in self.sums:
            every_t = adjoints[1:].flatten(0, 1), codes[:-1].flatten(0, 1)
            self.sums["S"] += self.kernels.outer(*every_t)[:K, :K]
        if "W_e" in self.sums:
            self.sums["W_e"] += self.kernels.outer(collected.drive, p.x)
        if "D" in self.sums and given.grad_x_hat is not None:
            self.sums["D"] += self.kernels.outer(given.grad_x_hat, given.z)

    def gradients(self, p: Problem) -> Gradients:
        return self.rows | {name: total.to(getattr(p, name).dtype) for name, total in self.sums.items()}


def _code_backward(kernels: Kernels, p: Problem, given: Incoming, needed: Needed) -> Gradients:
    def chunk() -> int:
        return chunk_rows(kernels.padding(p), 2 * (p.n_iter + 2), p.x.dtype.itemsize)

    kernels.prepare_backward(p, lambda: _recompute(kernels, p.rows(0, chunk()), given.rows(0, chunk())))
    gathered, rows = _Backward(kernels, p, needed), chunk()
    for begin in range(0, len(p.x), rows):
        gathered.add(p.rows(begin, begin + rows), given.rows(begin, begin + rows), begin)
    return gathered.gradients(p)


class Fused(NamedTuple):
    """What a backend computes, on a set of kernels."""

    on_device_of: OnDevice

    def code(self, p: Problem) -> tuple[torch.Tensor, ...]:
        """Codes z_T (M, K), and the reconstruction x̂ (M, n) where there is a dictionary."""
        if p.n_iter == 0:
            return self._code_without_iterations(p)
        with self.on_device_of(p.x) as kernels:
            return _code(kernels, p)

    def _code_without_iterations(self, p: Problem) -> tuple[torch.Tensor, ...]:
        """A product and an elementwise formula: there is nothing to fuse."""
        (z,) = _REFERENCE.code(p._replace(x=p.drive(), W_e=None, D=None))
        return (z,) if p.D is None else (z, self.decode(Decoding(z, p.D)))

    def code_backward(self, p: Problem, given: Incoming, needed: Needed) -> Gradients:
        """Gradients of the tensors of p."""
        if p.n_iter == 0:
            return _REFERENCE.code_backward(p, given, needed)
        with self.on_device_of(p.x) as kernels:
            return _code_backward(kernels, p, given, needed)

    def decode(self, p: Decoding) -> torch.Tensor:
        """x̂ (M, n)."""
        with self.on_device_of(p.z) as kernels:
            return kernels.product(p.z, p.D)

    def decode_backward(self, p: Decoding, grad: torch.Tensor, needed: Needed) -> Gradients:
        """Gradients of z and D for grad = ∂L/∂x̂ (M, n)."""
        gradients = {}
        with self.on_device_of(p.z) as kernels:
            if "z" in needed:
                gradients["z"] = kernels.product(grad, p.D.T)
            if "D" in needed:
                gradients["D"] = kernels.outer(grad, p.z).to(p.D.dtype)
        return gradients
