"""lista and sparse_code on fused kernels of a GPU: forward; backward in chunks of rows that are computed again.

What a set of kernels must offer is `Kernels`; what is done with them is the same for all of them. Scratch is bounded
whatever M and T are: the iterates and adjoints of a chunk of rows take at most CHUNK_BYTES.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch

CHUNK_BYTES = 1 << 30


class Bottleneck(NamedTuple):
    """sparse_code; or lista, where W_e and D are None and x is its drive b. Matrices have packed rows; T ≥ 1."""

    x: torch.Tensor  # (M, n), or b (M, K)
    W_e: torch.Tensor | None  # (K, n)
    S: torch.Tensor  # (K, K)
    theta: torch.Tensor  # one value or (K,)
    D: torch.Tensor | None  # (n, K)
    gain: torch.Tensor | None  # one value
    z0: torch.Tensor | None  # (M, K)
    n_iter: int

    def rows(self, begin: int, end: int) -> Bottleneck:
        """Some of the rows."""
        return self._replace(x=self.x[begin:end], z0=None if self.z0 is None else self.z0[begin:end])


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

    def forward(self, p: Bottleneck, z: torch.Tensor, x_hat: torch.Tensor | None) -> None:
        """Writes z (M, K), and x̂ (M, n) where there is a dictionary."""

    def settle(self, p: Bottleneck, first_chunk: Callable[[], object]) -> None:
        """Before the backward pass of p: may try out on its first chunk of rows how to compute all of them."""

    def padding(self, p: Bottleneck) -> Padding:
        """As it was settled."""

    def iterates(self, p: Bottleneck, codes: torch.Tensor) -> torch.Tensor:
        """Writes z_0 … z_{T−1}; what rows and atoms there are not get zeros. Returns the drive, (≥ M, ≥ K)."""

    def adjoints(self, p: Bottleneck, codes: torch.Tensor, adjoints: torch.Tensor) -> None:
        """Writes ĝ_{T−1} … ĝ_0, given ĝ_T and the codes."""

    def collect(self, p: Bottleneck, drive: torch.Tensor, codes: torch.Tensor, adjoints: torch.Tensor) -> Collected:
        """Sums over t, and over rows what the rows share."""

    def outer(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """leftᵀ · right in float32, for left (rows, I) and right (rows, J)."""

    def product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The product left · rightᵀ for left (M, depth), rows any distance apart, and right (columns, depth)."""


OnDevice = Callable[[torch.Tensor], AbstractContextManager[Kernels]]
"""The kernels for a tensor's dtype, on its device and that device's current stream."""


class Gradients(NamedTuple):
    """Of the tensors of a `Bottleneck`, in their dtypes; None where one is not needed."""

    x: torch.Tensor | None
    W_e: torch.Tensor | None
    S: torch.Tensor | None
    theta: torch.Tensor | None
    D: torch.Tensor | None
    gain: torch.Tensor | None
    z0: torch.Tensor | None


class Incoming(NamedTuple):
    """What the backward pass starts from."""

    grad_z: torch.Tensor | None  # (M, K)
    grad_x_hat: torch.Tensor | None  # (M, n)
    z: torch.Tensor  # (M, K)

    def rows(self, begin: int, end: int) -> Incoming:
        """Some of the rows."""
        return Incoming._make(None if t is None else t[begin:end] for t in self)


def forward(kernels: Kernels, p: Bottleneck) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Codes z (M, K); and the reconstruction x̂ (M, n) where there is a dictionary."""
    z = p.x.new_empty(len(p.x), p.S.shape[0])
    x_hat = None if p.D is None else torch.empty_like(p.x)
    if len(p.x) > 0:
        kernels.forward(p, z, x_hat)
    return z, x_hat


def chunk_rows(padding: Padding, slabs: int, itemsize: int) -> int:
    """Rows for which so many slabs of scratch take at most CHUNK_BYTES: whole blocks, one at least."""
    row_bytes = slabs * itemsize * padding.KP
    return max(1, min(padding.rows, CHUNK_BYTES // row_bytes) // padding.block) * padding.block


class _Iterates(NamedTuple):
    """Of a chunk of rows."""

    drive: torch.Tensor  # (≥ M, ≥ K)
    codes: torch.Tensor  # z_0 … z_T (T + 1, rows, KP)
    adjoints: torch.Tensor  # ĝ_0 … ĝ_T likewise


def _grad_of_codes(kernels: Kernels, p: Bottleneck, given: Incoming) -> torch.Tensor:
    """Through both results."""
    if given.grad_x_hat is None or p.D is None:
        return torch.zeros_like(given.z) if given.grad_z is None else given.grad_z
    through = kernels.product(given.grad_x_hat, p.D.T)
    return through if given.grad_z is None else given.grad_z + through


def _recompute(kernels: Kernels, p: Bottleneck, given: Incoming) -> _Iterates:
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


class _Backward:
    """Sums of the gradients of what all rows share, in float32; and the gradients of the rows themselves."""

    def __init__(self, kernels: Kernels, p: Bottleneck, needed: list[bool]) -> None:
        self.kernels = kernels
        fields = zip(p._fields[:7], p[:7], needed, strict=True)
        wanted = {name: tensor for name, tensor, is_needed in fields if is_needed and tensor is not None}
        self.rows: dict[str, torch.Tensor] = {
            name: torch.empty_like(wanted.pop(name)) for name in ("x", "z0") if name in wanted
        }
        self.sums = {name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in wanted.items()}

    def add(self, p: Bottleneck, given: Incoming, begin: int) -> None:
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

    def gradients(self, p: Bottleneck) -> Gradients:
        shared = {name: total.to(getattr(p, name).dtype) for name, total in self.sums.items()}
        return Gradients._make(self.rows.get(name, shared.get(name)) for name in Gradients._fields)


def backward(kernels: Kernels, p: Bottleneck, given: Incoming, needed: list[bool]) -> Gradients:
    """Gradients of the tensors of p, of which those of `needed` are computed."""

    def chunk() -> int:
        return chunk_rows(kernels.padding(p), 2 * (p.n_iter + 2), p.x.dtype.itemsize)

    kernels.settle(p, lambda: _recompute(kernels, p.rows(0, chunk()), given.rows(0, chunk())))
    gathered, rows = _Backward(kernels, p, needed), chunk()
    for begin in range(0, len(p.x), rows):
        gathered.add(p.rows(begin, begin + rows), given.rows(begin, begin + rows), begin)
    return gathered.gradients(p)
