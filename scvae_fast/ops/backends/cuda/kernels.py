"""The CUDA kernels as `fused.Fused` uses them: packs the matrices, makes the scratch, launches.

All sizes come from the plan that csrc/cuda/tiles.h makes, a pure function of the card and the shape.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from scvae_fast.ops.backends.cuda import device
from scvae_fast.ops.backends.fused import Collected, Padding
from scvae_fast.ops.native import address
from scvae_fast.ops.problem import Problem

_KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def _kind(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else _KINDS[tensor.dtype]


@contextlib.contextmanager
def on_device_of(tensor: torch.Tensor) -> Iterator[CudaKernels]:
    """The kernels for its dtype, on its device and that device's current stream."""
    three = torch.backends.cuda.matmul.fp32_precision != "tf32"
    if tensor.device.type != "cuda":
        yield CudaKernels(tensor.dtype, device.card(None), device.module().CudaCall(_kind(tensor), three, 0, 0))
        return
    with torch.cuda.device(tensor.device):
        index = tensor.get_device()
        call = device.module().CudaCall(_kind(tensor), three, index, torch.cuda.current_stream().cuda_stream)
        yield CudaKernels(tensor.dtype, device.card(index), call)


def _theta(p: Problem, KP: int) -> torch.Tensor:
    """(KP,) in float32."""
    theta = p.theta.new_zeros(KP, dtype=torch.float32)
    theta[: p.S.shape[0]] = p.theta
    return theta


def _in_whole_chunks(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix, or a copy of it, with rows that begin at multiples of 16 bytes and end in room of their own."""
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
        """Raises ValueError where atoms or features are too many for the card's shared memory."""
        return self._plan(len(p.x), p.S.shape[0], 0 if p.W_e is None else p.x.shape[1])

    def _packed(self, plan: Any, *factors: tuple[torch.Tensor, int, int]) -> torch.Tensor:
        """Matrices of any strides as right factors, one after another; with each the passes and its padded depth."""
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

    def prepare_backward(self, p: Problem, first_chunk: Callable[[], object]) -> None:
        """There is nothing to choose."""

    def padding(self, p: Problem) -> Padding:
        """Of iterates."""
        plan = self.plan(p)
        return Padding(-(-len(p.x) // plan.rows) * plan.rows, plan.rows, plan.KP)

    def forward(self, p: Problem, z: torch.Tensor, x_hat: torch.Tensor | None) -> None:
        """One launch, the codes of a block of rows in shared memory."""
        plan = self.plan(p)
        drives = p.x.new_empty(plan.blocks * plan.rows, plan.KP)
        self._forward(p, plan, p.n_iter, drives, None, z, x_hat)

    def iterates(self, p: Problem, codes: torch.Tensor) -> torch.Tensor:
        """The same launch, which also writes every z_t but the last, known one. Returns the drive."""
        drives = torch.empty_like(codes[0])
        self._forward(p, self.plan(p), p.n_iter - 1, drives, codes, None, None)
        return drives

    def _forward(
        self,
        p: Problem,
        plan: Any,
        n_iter: int,
        drives: torch.Tensor,
        codes: torch.Tensor | None,
        z: torch.Tensor | None,
        x_hat: torch.Tensor | None,
    ) -> None:
        factors = [(p.S, plan.passes, plan.KP)]
        if p.W_e is not None:
            factors.insert(0, (p.W_e, plan.passes, plan.NP))
        if x_hat is not None and p.D is not None:
            factors.append((p.D, plan.feature_passes, plan.KP))
        packed, theta = self._packed(plan, *factors), _theta(p, plan.KP)
        self._native.cuda_forward(
            self._call, plan, len(p.x), p.S.shape[0], p.x.shape[1], n_iter, p.x.data_ptr(), packed.data_ptr(),
            p.W_e is not None, x_hat is not None, theta.data_ptr(), address(p.gain), _kind(p.gain), address(p.z0),
            drives.data_ptr(), address(codes), 0 if codes is None else codes.stride(0), address(z), address(x_hat),
        )  # fmt: skip

    def adjoints(self, p: Problem, codes: torch.Tensor, adjoints: torch.Tensor) -> None:
        """One launch, the adjoints of a block of rows in shared memory."""
        plan = self.plan(p)
        inhibition = self._packed(plan, (p.S.T, plan.passes, plan.KP))
        self._native.cuda_adjoint(
            self._call, plan, len(p.x), p.n_iter, inhibition.data_ptr(), codes.data_ptr(), adjoints.data_ptr(),
            codes.stride(0), p.z0 is not None,
        )  # fmt: skip

    def collect(self, p: Problem, drive: torch.Tensor, codes: torch.Tensor, adjoints: torch.Tensor) -> Collected:
        """Gradients of b, of θ for each atom, of the gain."""
        (M, K), (_, rows, KP) = (len(p.x), p.S.shape[0]), codes.shape
        d_drive = p.x.new_empty(rows, KP)
        d_theta, d_gain = p.x.new_empty(2, rows // self._native.cuda_collect_rows, KP, dtype=torch.float32)
        self._native.cuda_collect(
            self._call, rows, KP, p.n_iter, codes.data_ptr(), adjoints.data_ptr(), codes.stride(0),
            drive.data_ptr(), address(p.gain), _kind(p.gain), p.z0 is not None,
            d_drive.data_ptr(), d_theta.data_ptr(), d_gain.data_ptr(),
        )  # fmt: skip
        return Collected(d_drive[:M, :K], d_theta.sum(0)[:K], d_gain.sum())

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
        """Left · rightᵀ; rows of left are any distance apart, right has any strides."""
        (M, depth), columns = left.shape, right.shape[0]
        out = left.new_empty(M, columns)
        if M > 0:
            plan = self._plan(M, columns, depth, product=True)
            packed = self._packed(plan, (right, plan.passes, plan.NP))
            self._native.cuda_product(
                self._call, plan, M, columns, depth, left.data_ptr(), left.stride(0), packed.data_ptr(), out.data_ptr()
            )
        return out
