"""A backend built on fused GPU kernels: `Fused`. The backward pass recomputes the iterates, in chunks of rows.

`Kernels` is the interface of a set of kernels; `Fused` uses every set in the same way. Scratch is bounded for all M
and T: the iterates and adjoints of a chunk of rows take at most CHUNK_BYTES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch

from scvae_fast.ops.backends import reference
from scvae_fast.ops.backends.half import InFloat32
from scvae_fast.ops.problem import Decoding, Gradients, Incoming, Needed, Problem

CHUNK_BYTES = 1 << 30

_REFERENCE = InFloat32(reference)


class Padding(NamedTuple):
    """Padded sizes of the iterates of a chunk of rows."""

    rows: int  # M, rounded up to whole blocks
    block: int  # rows per block
    KP: int  # atoms, rounded up to whole tiles
    NP: int  # features, rounded up to whole tiles


class Iterates(NamedTuple):
    """The tensors of the backward pass for a chunk of rows. Those that a problem doesn't need are None."""

    codes: torch.Tensor  # z_0 … z_T (T + 1, rows, KP)
    adjoints: torch.Tensor  # ĝ_0 … ĝ_T likewise
    points: torch.Tensor  # y_0 … y_{T−1}, and one more, likewise; the codes themselves without momentum
    point_grads: torch.Tensor | None  # with momentum: q_0 … q_{T−1} (T, rows, KP), the gradients of the points
    directions: torch.Tensor | None  # if the step needs a gradient: v_0 … v_{T−1} (T, rows, KP)
    residuals: torch.Tensor | None  # in the factored form: x − y_t Dᵀ (T, rows, NP)
    residual_grads: torch.Tensor | None  # in the factored form: e_t, their gradients


class Collected(NamedTuple):
    """Sums of the adjoints that are not matrix products. All but the drive is float32."""

    drive: torch.Tensor | None  # (M, K); None unless all iterations share one drive
    theta: torch.Tensor  # (K,), or (R, K) if each iteration has its own threshold
    gain: torch.Tensor | None  # one value; None if z_0 does not come from the drive
    step: torch.Tensor | None  # (T,), if needed
    momentum: torch.Tensor | None  # (T,), if needed


class Kernels(Protocol):
    """The launches, all on the current stream of the tensors' device."""

    def forward(self, p: Problem, z: torch.Tensor, x_hat: torch.Tensor | None) -> None:
        """Writes z (M, K), and x̂ (M, n) if there is a dictionary."""

    def prepare_backward(self, p: Problem, needed: Needed, first_chunk: Callable[[], object]) -> None:
        """Called before the backward pass of p. It may time tiles on the first chunk of rows, and choose among them."""

    def padding(self, p: Problem) -> Padding:
        """The padding for the tile that `prepare_backward` chose."""

    def iterates(self, p: Problem, found: Iterates) -> torch.Tensor | None:
        """Writes codes except z_T, points, directions and residuals; padding rows and atoms are zero.

        Returns the drive of row 0 (≥ M, ≥ K), or None if nothing is computed from it.
        """

    def adjoints(self, p: Problem, found: Iterates) -> None:
        """Writes ĝ_{T−1} … ĝ_0 and the gradients of points and residuals, given ĝ_T and the results of `iterates`."""

    def collect(self, p: Problem, drive: torch.Tensor | None, found: Iterates, needed: Needed) -> Collected:
        """Sums over t, and also over rows for what the rows share."""

    def outer(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """leftᵀ · right in float32, for left (rows, I) and right (rows, J)."""

    def product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The product left · rightᵀ for left (M, depth) with any row stride, and right (columns, depth)."""


OnDevice = Callable[[torch.Tensor], AbstractContextManager[Kernels]]
"""The kernels for a tensor's dtype, on its device and that device's current stream."""


def _code(kernels: Kernels, p: Problem) -> tuple[torch.Tensor, ...]:
    z = p.x.new_empty(len(p.x), p.n_atoms)
    x_hat = None if p.D is None else torch.empty_like(p.x)
    if len(p.x) > 0:
        kernels.forward(p, z, x_hat)
    return (z,) if x_hat is None else (z, x_hat)


def chunk_rows(padding: Padding, row_bytes: int) -> int:
    """Number of rows whose scratch of `row_bytes` each fits into CHUNK_BYTES: whole blocks, at least one."""
    return max(1, min(padding.rows, CHUNK_BYTES // row_bytes) // padding.block) * padding.block


def _row_bytes(p: Problem, padding: Padding, needed: Needed) -> int:
    """Bytes that `_recompute` and `Kernels.collect` need per row."""
    T, momentum, factored = p.n_iter, p.momentum is not None, p.S is None
    slabs = 2 * (T + 2) + (2 * T + 1) * momentum + T * ("step" in needed)
    return (slabs * padding.KP + 2 * T * factored * padding.NP) * p.x.dtype.itemsize


def _grad_of_codes(kernels: Kernels, p: Problem, given: Incoming) -> torch.Tensor:
    """∂L/∂z_T, through both results."""
    if given.grad_x_hat is None or p.D is None:
        return torch.zeros_like(given.z) if given.grad_z is None else given.grad_z
    through = kernels.product(given.grad_x_hat, p.D.T)
    return through if given.grad_z is None else given.grad_z + through


def _room(p: Problem, padding: Padding, needed: Needed) -> Iterates:
    """Allocated iterates, with nothing written yet."""
    T, (rows, _, KP, NP) = p.n_iter, padding
    momentum, factored = p.momentum is not None, p.S is None
    codes = p.x.new_empty(T + 1, rows, KP)
    return Iterates(
        codes=codes,
        adjoints=torch.empty_like(codes),
        points=torch.empty_like(codes) if momentum else codes,
        point_grads=torch.empty_like(codes[1:]) if momentum else None,
        directions=torch.empty_like(codes[1:]) if "step" in needed else None,
        residuals=p.x.new_empty(T, rows, NP) if factored else None,
        residual_grads=p.x.new_empty(T, rows, NP) if factored else None,
    )


def _recompute(kernels: Kernels, p: Problem, given: Incoming, needed: Needed) -> tuple[torch.Tensor | None, Iterates]:
    """The drive, if anything is computed from it, and all iterates and adjoints."""
    M, K = given.z.shape
    found = _room(p, kernels.padding(p), needed)
    drive = kernels.iterates(p, found)
    last = torch.where(given.z != 0, _grad_of_codes(kernels, p, given), 0)
    for slab, known in ((found.codes[-1], given.z), (found.adjoints[-1], last)):
        slab.zero_()
        slab[:M, :K] = known
    kernels.adjoints(p, found)
    return drive, found


class _Arrival(NamedTuple):
    """∂L/∂v_t = factor · ĝ, or the same at the start of κ = 0."""

    place: int  # index of the gradient among those of the iterations
    factor: torch.Tensor | None  # None stands for 1
    adjoint: torch.Tensor  # ĝ (rows, KP)
    beside: torch.Tensor  # the other factor in the gradient of a matrix


def _scaled(value: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    return value if factor is None else factor.to(value.dtype) * value


_OF_ROWS = {"x", "z0"}


class _Backward:
    """Accumulates the gradients of everything that rows share, in float32, and collects the gradients of the rows."""

    def __init__(self, kernels: Kernels, p: Problem, needed: Needed) -> None:
        self.kernels, self.needed = kernels, needed
        self.rows = {name: torch.empty_like(getattr(p, name)) for name in needed & _OF_ROWS}
        self.sums = {name: torch.zeros_like(getattr(p, name), dtype=torch.float32) for name in needed - _OF_ROWS}

    def add_decoding(self, given: Incoming) -> None:
        """Add the gradient of D through the reconstruction."""
        if "D" in self.sums and given.grad_x_hat is not None:
            self.sums["D"] += self.kernels.outer(given.grad_x_hat, given.z)

    def add(self, p: Problem, given: Incoming, begin: int) -> None:
        """Add a chunk of rows, the first of which is row `begin`."""
        M, K = given.z.shape
        drive, found = _recompute(self.kernels, p, given, self.needed)
        collected = self.kernels.collect(p, drive, found, self.needed)
        own = slice(begin, begin + M)
        if "z0" in self.rows:
            self.rows["z0"][own] = found.adjoints[0, :M, :K]
        if "x" in self.rows:
            self.rows["x"][own] = self._of_x(p, collected, found)
        for name in self.sums.keys() & {"theta", "gain", "step", "momentum"}:
            self.sums[name] += getattr(collected, name).sum_to_size(self.sums[name].shape)
        self._add_products(p, collected, found)

    def _of_x(self, p: Problem, collected: Collected, found: Iterates) -> torch.Tensor:
        M, n = p.x.shape
        if found.residual_grads is not None:
            return found.residual_grads.sum(0, dtype=torch.float32)[:M, :n]
        if collected.drive is not None:
            return collected.drive if p.W_e is None else self.kernels.product(collected.drive, p.W_e.T)
        total = torch.zeros_like(p.x, dtype=torch.float32)
        for row, factor, adjoint, _ in self._at_drives(p, found):
            filter_ = p.filter(row)
            total += _scaled(self.kernels.product(adjoint[:M, : len(filter_)], filter_.T).float(), factor)
        return total

    def _add_products(self, p: Problem, collected: Collected, found: Iterates) -> None:
        points, rows = found.points[:-1], [p.row(t) for t in range(p.n_iter)]
        if "S" in self.sums:
            of_each = self._at_iterations(p, found, range(p.n_iter), points, p.is_for_each("S"))
            self._add_outer(p, "S", of_each, sign=-1 if p.op == "ista" else 1)
        if "W_e" in self.sums:
            if found.residuals is not None:
                of_each = self._at_iterations(p, found, rows, found.residuals, p.is_for_each("W_e"))
                self._add_outer(p, "W_e", of_each)
            elif collected.drive is not None:
                self.sums["W_e"] += self.kernels.outer(collected.drive, p.x)
            else:
                self._add_outer(p, "W_e", self._at_drives(p, found))
        if "D" in self.sums and found.residual_grads is not None:
            n, K = self.sums["D"].shape
            self.sums["D"] -= self.kernels.outer(found.residual_grads.flatten(0, 1), points.flatten(0, 1))[:n, :K]

    def _at_iterations(
        self, p: Problem, found: Iterates, places: Iterable[int], beside: torch.Tensor, for_each: bool
    ) -> Iterator[_Arrival]:
        """Arrivals at v_t, with beside (T, rows, …); a single one if all add to one gradient with one factor."""
        arrived = found.adjoints[1:]
        if not for_each and (p.step is None or p.step.dim() == 0):
            yield _Arrival(0, p.step, arrived.flatten(0, 1), beside.flatten(0, 1))
            return
        for t, place in enumerate(places):
            yield _Arrival(place, p.step_of(t), arrived[t], beside[t])

    def _at_drives(self, p: Problem, found: Iterates) -> Iterator[_Arrival]:
        """Arrivals at the drive of every row, if each row has its own."""
        M = len(p.x)
        if not p.kappa and p.z0 is None:
            yield _Arrival(0, p.gain, found.adjoints[0, :M], p.x)
        for t in range(p.n_iter):
            yield _Arrival(p.row(t), p.step_of(t), found.adjoints[t + 1, :M], p.x)

    def _add_outer(self, p: Problem, name: str, arrivals: Iterable[_Arrival], sign: int = 1) -> None:
        for place, factor, adjoint, beside in arrivals:
            total = self.sums[name][place] if p.is_for_each(name) else self.sums[name]
            I, J = total.shape  # noqa: E741
            total.add_(_scaled(self.kernels.outer(adjoint, beside)[:I, :J], factor), alpha=sign)

    def gradients(self, p: Problem) -> Gradients:
        return self.rows | {name: total.to(getattr(p, name).dtype) for name, total in self.sums.items()}


def _code_backward(kernels: Kernels, p: Problem, given: Incoming, needed: Needed) -> Gradients:
    def chunk() -> int:
        padding = kernels.padding(p)
        return chunk_rows(padding, _row_bytes(p, padding, needed))

    gathered = _Backward(kernels, p, needed)
    gathered.add_decoding(given)
    if needed == {"D"} and p.S is not None:
        return gathered.gradients(p)
    kernels.prepare_backward(p, needed, lambda: _recompute(kernels, p.rows(0, chunk()), given.rows(0, chunk()), needed))
    rows = chunk()
    for begin in range(0, len(p.x), rows):
        gathered.add(p.rows(begin, begin + rows), given.rows(begin, begin + rows), begin)
    return gathered.gradients(p)


class Fused(NamedTuple):
    """The functions of a backend, on a set of kernels."""

    on_device_of: OnDevice

    def code(self, p: Problem) -> tuple[torch.Tensor, ...]:
        """Codes z_T (M, K), and the reconstruction x̂ (M, n) if there is a dictionary."""
        if p.n_iter == 0:
            (z,) = _REFERENCE.code(p._replace(D=None))
            return (z,) if p.D is None else (z, self.decode(Decoding(z, p.D)))
        with self.on_device_of(p.x) as kernels:
            return _code(kernels, p)

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
