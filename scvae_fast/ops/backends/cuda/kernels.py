"""The CUDA kernels in the form that `fused.Fused` uses: packs matrices, allocates scratch, launches.

All sizes come from the plan of csrc/cuda/tiles.h, a pure function of the card and the shape.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from scvae_fast.ops.backends.cuda import device
from scvae_fast.ops.backends.fused import Collected, Iterates, Padding, chunk_rows
from scvae_fast.ops.native import address
from scvae_fast.ops.problem import Needed, Problem

_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def _kind(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else _KINDS[tensor.dtype]


@contextlib.contextmanager
def on_device_of(tensor: torch.Tensor) -> Iterator[CudaKernels]:
    """The kernels for the tensor's dtype, on its device and that device's current stream."""
    three = torch.backends.cuda.matmul.fp32_precision != "tf32"
    if tensor.device.type != "cuda":
        yield CudaKernels(tensor.dtype, device.card(None), device.module().CudaCall(_kind(tensor), three, 0, 0))
        return
    with torch.cuda.device(tensor.device):
        index = tensor.get_device()
        call = device.module().CudaCall(_kind(tensor), three, index, torch.cuda.current_stream().cuda_stream)
        yield CudaKernels(tensor.dtype, device.card(index), call)


def _theta(p: Problem, KP: int) -> torch.Tensor:
    """(KP,), or (R, KP) if each iteration has its own, in float32."""
    rows = p.theta.shape[:1] if p.is_for_each("theta") else ()
    theta = p.theta.new_zeros(*rows, KP, dtype=torch.float32)
    theta[..., : p.n_atoms] = p.theta
    return theta


def _matrices(p: Problem) -> list[torch.Tensor]:
    """S (K, K) of all iterations, or a list with that of each."""
    assert p.S is not None
    S = -p.S if p.op == "ista" else p.S
    return [S] if S.dim() == 2 else list(S)


def _start_alone(p: Problem, drive: torch.Tensor) -> Problem:
    """The problem that computes z_0 from its drive (M, K)."""
    return p._replace(x=drive, W_e=None, S=p.inhibition(0), theta=p.threshold(0), D=None, n_iter=0)


def _iteration_alone(p: Problem, t: int, drive: torch.Tensor, z: torch.Tensor) -> Problem:
    """The problem that computes z_{t+1} from z_t (M, K) and the drive of that iteration (M, K)."""
    shared = p._replace(S=p.inhibition(t), theta=p.threshold(p.row(t)), step=p.step_of(t))
    return shared._replace(x=drive, W_e=None, D=None, gain=None, z0=z, n_iter=1)


def _in_whole_chunks(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix, or a copy whose rows start at multiples of 16 bytes and are padded to whole chunks."""
    unit = 16 // matrix.element_size()
    width = -(-matrix.shape[1] // unit) * unit
    strides = matrix.stride(1) == 1 and matrix.stride(0) % unit == 0 and matrix.stride(0) >= width
    if strides and matrix.data_ptr() % 16 == 0:
        return matrix
    copy = matrix.new_zeros(matrix.shape[0], width)
    copy[:, : matrix.shape[1]] = matrix
    return copy[:, : matrix.shape[1]]


class CudaKernels:
    """Implements `fused.Kernels`."""

    def __init__(self, dtype: torch.dtype, card: Any, call: Any) -> None:
        self._native = device.module()
        self._dtype = dtype
        self._card = card
        self._call = call

    def _plan(self, rows: int, atoms: int, features: int, *, product: bool = False) -> Any:
        return self._native.cuda_plan(self._card, rows, atoms, features, product, self._dtype.itemsize)

    def plan(self, p: Problem) -> Any:
        """Raises ValueError if there are too many atoms or features for the card's shared memory."""
        encodes = p.W_e is not None and not p.is_for_each("W_e")
        return self._plan(len(p.x), p.n_atoms, p.x.shape[1] if encodes else 0)

    def _packed(self, plan: Any, *factors: tuple[torch.Tensor, int, int]) -> torch.Tensor:
        """Matrices of any strides as right factors, one after another; each comes with its passes and padded depth."""
        columns, size = plan.warps * self._native.cuda_warp_columns, self._dtype.itemsize
        sizes = [passes * columns * depth for _, passes, depth in factors]
        packed = torch.empty(sum(sizes), dtype=self._dtype, device=factors[0][0].device)
        for (matrix, passes, depth), part in zip(factors, packed.split(sizes), strict=True):
            steps = depth * size // self._native.cuda_step_bytes
            self._native.cuda_pack(
                self._call, matrix.data_ptr(), _kind(matrix), *matrix.stride(), *matrix.shape, plan.warps, passes,
                steps, part.data_ptr(),
            )  # fmt: skip
        return packed

    def prepare_backward(self, p: Problem, needed: Needed, first_chunk: Callable[[], object]) -> None:
        """Does nothing: there is nothing to choose."""

    def padding(self, p: Problem) -> Padding:
        """The padding of iterates."""
        plan = self.plan(p)
        return Padding(-(-len(p.x) // plan.rows) * plan.rows, plan.rows, plan.KP, plan.NP)

    def forward(self, p: Problem, z: torch.Tensor, x_hat: torch.Tensor | None) -> None:
        """One launch with codes in shared memory, or one launch per iteration if each has its own W_e."""
        if not p.is_for_each("W_e"):
            plan = self.plan(p)
            self._forward(p, p.n_iter, p.x.new_empty(plan.blocks * plan.rows, plan.KP), z=z, x_hat=x_hat)
            return
        padding = self.padding(p)
        rows = chunk_rows(padding, 2 * padding.KP * p.x.dtype.itemsize)
        for begin in range(0, len(p.x), rows):
            self._forward_by_iteration(p.rows(begin, begin + rows), z[begin : begin + rows])
        if x_hat is not None and p.D is not None:
            x_hat.copy_(self.product(z, p.D))

    def _forward_by_iteration(self, p: Problem, z: torch.Tensor) -> None:
        plan = self.plan(p)
        drives = p.x.new_empty(plan.blocks * plan.rows, plan.KP)
        if p.z0 is not None:
            z.copy_(p.z0)
        elif p.kappa:
            z.zero_()
        else:
            self._forward(_start_alone(p, self._drive(p, 0)), 0, drives, z=z)
        for t in range(p.n_iter):
            self._forward(_iteration_alone(p, t, self._drive(p, p.row(t)), z), 1, drives, z=z)

    def _drive(self, p: Problem, row: int) -> torch.Tensor:
        return self.product(p.x, p.filter(row))

    def iterates(self, p: Problem, found: Iterates) -> torch.Tensor | None:
        """The same launches, which also write what is kept; z_T is recomputed only on the way to v_{T−1}."""
        n_iter = p.n_iter - (found.directions is None)
        drives = torch.empty_like(found.codes[0])
        if not p.is_for_each("W_e"):
            self._forward(p, n_iter, drives, codes=found.codes, directions=found.directions)
            return drives
        M, K = len(p.x), p.n_atoms
        starts, used = p.z0 is None and not p.kappa, torch.empty_like(drives)
        if starts:
            self._forward(_start_alone(p, self._drive(p, 0)), 0, drives, codes=found.codes)
        else:
            found.codes[0].zero_()
            found.codes[0, :M, :K] = 0 if p.z0 is None else p.z0
        for t in range(n_iter):
            alone = _iteration_alone(p, t, self._drive(p, p.row(t)), found.codes[t, :M, :K].contiguous())
            directions = None if found.directions is None else found.directions[t:]
            self._forward(alone, 1, used, codes=found.codes[t:], directions=directions)
        return drives if starts else None

    def _forward(
        self,
        p: Problem,
        n_iter: int,
        drives: torch.Tensor,  # scratch of all blocks, (rows, KP); receives b if codes are kept
        *,
        codes: torch.Tensor | None = None,  # receives z_0, z_1 … (slabs, rows, KP)
        directions: torch.Tensor | None = None,  # likewise: v_0 …
        z: torch.Tensor | None = None,
        x_hat: torch.Tensor | None = None,
    ) -> None:
        plan = self.plan(p)
        factors = [(S, plan.passes, plan.KP) for S in _matrices(p)]
        if p.W_e is not None:
            factors.insert(0, (p.W_e, plan.passes, plan.NP))
        if x_hat is not None and p.D is not None:
            factors.append((p.D, plan.feature_passes, plan.KP))
        packed, theta = self._packed(plan, *factors), _theta(p, plan.KP)
        self._native.cuda_forward(
            self._call, plan, len(p.x), p.n_atoms, p.x.shape[1], n_iter, p.x.data_ptr(), packed.data_ptr(),
            p.W_e is not None, x_hat is not None, theta.data_ptr(), address(p.gain), _kind(p.gain), address(p.z0),
            drives.data_ptr(), address(codes), 0 if codes is None else codes.stride(0), address(z), address(x_hat),
            self._family(p), p.positive, plan.KP if theta.dim() == 2 else 0, address(directions),
        )  # fmt: skip

    def _family(self, p: Problem) -> Any:
        stride = 0 if p.step is None else p.step.dim()
        return self._native.CudaFamily(p.kappa, address(p.step), _kind(p.step), stride, p.is_for_each("S"))

    def adjoints(self, p: Problem, found: Iterates) -> None:
        """One launch with the adjoints of a block of rows in shared memory."""
        plan, codes = self.plan(p), found.codes
        inhibition = self._packed(plan, *((S.T, plan.passes, plan.KP) for S in _matrices(p)))
        self._native.cuda_adjoint(
            self._call, plan, len(p.x), p.n_iter, inhibition.data_ptr(), codes.data_ptr(), found.adjoints.data_ptr(),
            codes.stride(0), p.z0 is not None, self._family(p),
        )  # fmt: skip

    def collect(self, p: Problem, drive: torch.Tensor | None, found: Iterates, needed: Needed) -> Collected:
        """Gradients of b, of θ per atom, of gain and γ."""
        (_, rows, KP), M, K = found.codes.shape, len(p.x), p.n_atoms
        blocks = rows // self._native.cuda_collect_rows
        each_theta, starts = p.is_for_each("theta"), p.z0 is None and not p.kappa

        def sums(count: int) -> torch.Tensor:
            return p.x.new_zeros(count, blocks, KP, dtype=torch.float32)

        d_drive = None if p.is_for_each("W_e") else p.x.new_empty(rows, KP)
        d_theta, d_gain = sums(p.n_rows if each_theta else 1), sums(1)
        d_step = None if found.directions is None else sums(p.n_iter)
        self._native.cuda_collect(
            self._call, rows, KP, p.n_iter, found.codes.data_ptr(), found.adjoints.data_ptr(), found.codes.stride(0),
            address(drive), address(p.gain), _kind(p.gain), not starts,
            address(d_drive), d_theta.data_ptr(), d_gain.data_ptr(),
            self._family(p), address(found.directions), address(d_step), each_theta,
        )  # fmt: skip
        theta = d_theta.sum(1)[:, :K]
        return Collected(
            drive=None if d_drive is None else d_drive[:M, :K],
            theta=theta if each_theta else theta[0],
            gain=d_gain.sum() if starts else None,
            step=None if d_step is None else d_step.sum((1, 2)),
            momentum=None,
        )

    def outer(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """leftᵀ right in float32."""
        (rows, I), J = left.shape, right.shape[1]  # noqa: E741
        left, right = _in_whole_chunks(left), _in_whole_chunks(right)
        sums = left.new_empty(self._native.cuda_splits(rows, I, J), I, J, dtype=torch.float32)
        self._native.cuda_outer(
            self._call, rows, I, J, left.data_ptr(), left.stride(0), right.data_ptr(), right.stride(0), sums.data_ptr()
        )
        return sums.sum(0)

    def product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The product left · rightᵀ; left may have any row stride, right any strides."""
        (M, depth), columns = left.shape, right.shape[0]
        out = left.new_empty(M, columns)
        if M > 0:
            plan = self._plan(M, columns, depth, product=True)
            packed = self._packed(plan, (right, plan.passes, plan.NP))
            self._native.cuda_product(
                self._call, plan, M, columns, depth, left.data_ptr(), left.stride(0), packed.data_ptr(), out.data_ptr()
            )
        return out
