"""The Triton kernels as `fused.Fused` uses them: all iterations in one launch, or a launch for each."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial

import torch

from scvae_fast.ops.backends.fused import Collected, Padding, chunk_rows
from scvae_fast.ops.backends.triton import autotune, kernels, launch, products
from scvae_fast.ops.backends.triton.launch import Choice, Launch, packed
from scvae_fast.ops.backends.triton.tiles import COLLECTED, Card
from scvae_fast.ops.problem import Problem

Results = tuple[torch.Tensor, torch.Tensor | None]  # z (M, K), x̂ (M, n)


@contextlib.contextmanager
def on_device_of(tensor: torch.Tensor) -> Iterator[TritonKernels]:
    """The kernels for its dtype, on its device and that device's current stream."""
    with launch.on_device_of(tensor) as card:
        yield TritonKernels(card)


class TritonKernels:
    """Implements `fused.Kernels`."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self._chosen: Choice | None = None  # of the backward pass

    def _choice(self, p: Problem, direction: str, run: autotune.Run) -> Choice:
        n = 0 if p.W_e is None else p.x.shape[1]
        return autotune.choice(self.card, direction, p.x.dtype, len(p.x), p.S.shape[0], n, run)

    def _plan(self, p: Problem, chosen: Choice) -> Launch:
        return launch.launch(self.card, chosen, len(p.x), p.S.shape[0], p.x.shape[1])

    def forward(self, p: Problem, z: torch.Tensor, x_hat: torch.Tensor | None) -> None:
        """One launch, or a launch for each iteration of a chunk of rows."""
        run = partial(self._forward, p, (z, x_hat))
        run(self._choice(p, "forward", run))

    def _forward(self, p: Problem, results: Results, chosen: Choice) -> None:
        plan, (z, x_hat) = self._plan(p, chosen), results
        rows = chunk_rows(_padding(plan), 3, p.x.dtype.itemsize) if plan.by_iteration else len(p.x)
        for begin in range(0, len(p.x), rows):
            end = begin + rows
            own = z[begin:end], None if x_hat is None else x_hat[begin:end]
            self._forward_chunk(p.rows(begin, end), own, chosen)

    def _forward_chunk(self, p: Problem, results: Results, chosen: Choice) -> None:
        plan, (z, x_hat) = self._plan(p, chosen), results
        drives = None if p.W_e is None else p.x.new_empty(plan.in_flight, plan.KP)
        _iterate(p, plan, drives, p.x.new_empty(2, plan.in_flight, plan.KP), results)
        if plan.by_iteration and x_hat is not None and p.D is not None:
            launch.product(z, p.D, self.card, out=x_hat)

    def prepare_backward(self, p: Problem, first_chunk: Callable[[], object]) -> None:
        """Chooses the tile, and whether an iteration is a launch."""

        def run(chosen: Choice) -> None:
            self._chosen = chosen
            first_chunk()

        self._chosen = self._choice(p, "backward", run)

    def _backward_plan(self, p: Problem) -> Launch:
        assert self._chosen is not None
        return self._plan(p, self._chosen)

    def padding(self, p: Problem) -> Padding:
        """Of iterates."""
        return _padding(self._backward_plan(p))

    def iterates(self, p: Problem, codes: torch.Tensor) -> torch.Tensor:
        """Writes every z_t but the last, known one. Returns the drive."""
        drives = None if p.W_e is None else torch.empty_like(codes[0])
        _iterate(p, self._backward_plan(p), drives, codes, None)
        return p.x if drives is None else drives

    def adjoints(self, p: Problem, codes: torch.Tensor, adjoints: torch.Tensor) -> None:
        """One launch, or a launch for each iteration."""
        plan, M = self._backward_plan(p), len(p.x)
        transposed, options = packed(p.S.T, plan.KP, plan.KP, p.x.dtype), plan.options(p.x.dtype)
        earliest = 0 if p.z0 is None else 1
        if plan.by_iteration:
            for t in reversed(range(earliest, p.n_iter)):
                kernels.step_back[plan.grid](
                    *(adjoints[t + 1], transposed, codes[t], adjoints[t], M, plan.KP), **options
                )
        else:
            steps = p.n_iter - earliest
            kernels.adjoint[(plan.programs,)](
                *(transposed, codes, adjoints, M, plan.KP, p.n_iter, steps, codes.stride(0)), **options
            )
        if p.z0 is not None:  # ĝ_0 is its gradient, and on no support
            launch.product(adjoints[1], transposed, self.card, out=adjoints[0])

    def collect(self, p: Problem, drive: torch.Tensor, codes: torch.Tensor, adjoints: torch.Tensor) -> Collected:
        """Gradients of b, of θ for each atom, of the gain."""
        (M, K), (_, rows, KP) = (len(p.x), p.S.shape[0]), codes.shape
        grid = (rows // COLLECTED.rows, KP // COLLECTED.columns)
        d_drive = p.x.new_empty(rows, KP)
        d_theta = p.x.new_empty(grid[0], KP, dtype=torch.float32)
        d_gain = p.x.new_empty(grid, dtype=torch.float32)
        products.collect[grid](
            *(codes, adjoints, drive, p.gain, d_drive, d_theta, d_gain),
            *(M, K, KP, drive.stride(0), p.n_iter, codes.stride(0)),
            GIVEN=p.z0 is not None,
            BLOCK_M=COLLECTED.rows,
            BLOCK_N=COLLECTED.columns,
            num_warps=COLLECTED.warps,
        )
        return Collected(d_drive[:M, :K], d_theta.sum(0)[:K], d_gain.sum())

    def outer(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """leftᵀ · right in float32."""
        return launch.outer(left, right, self.card)

    def product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The product left · rightᵀ."""
        return launch.product(left, right, self.card)


def _padding(plan: Launch) -> Padding:
    return Padding(plan.rows, plan.tile.rows, plan.KP)


def _iterate(
    p: Problem,
    plan: Launch,
    drives: torch.Tensor | None,  # (rows, KP), where there is W_e
    codes: torch.Tensor,  # (slabs, rows, KP)
    results: Results | None,  # None: every z_t stays in codes
) -> None:
    iterate = _iterate_by_launches if plan.by_iteration else _iterate_in_one_launch
    iterate(p, plan, drives, codes, results)


def _iterate_in_one_launch(
    p: Problem, plan: Launch, drives: torch.Tensor | None, codes: torch.Tensor, results: Results | None
) -> None:
    dtype = p.x.dtype
    z, x_hat = results or (None, None)
    kernels.forward[(plan.programs,)](
        p.x,
        None if p.W_e is None else packed(p.W_e, plan.KP, plan.NP, dtype),
        packed(p.S, plan.KP, plan.KP, dtype),
        p.theta,
        p.gain,
        p.z0,
        None if x_hat is None or p.D is None else packed(p.D, plan.NP, plan.KP, dtype),
        drives,
        codes,
        z,
        x_hat,
        len(p.x),
        p.x.shape[1],
        p.S.shape[0],
        plan.NP,
        plan.KP,
        # Where every iterate is kept, the last one is known.
        p.n_iter if results else p.n_iter - 1,
        codes.stride(0),
        int(p.theta.numel() > 1),
        ENCODE=p.W_e is not None,
        DECODE=x_hat is not None,
        KEEP=results is None,
        **plan.options(dtype),
    )


def _iterate_by_launches(
    p: Problem, plan: Launch, drives: torch.Tensor | None, codes: torch.Tensor, results: Results | None
) -> None:
    (M, n), K, dtype = p.x.shape, p.S.shape[0], p.x.dtype
    theta_stride = int(p.theta.numel() > 1)
    options = {"ENCODE": p.W_e is not None, **plan.options(dtype)}
    encoder = None if p.W_e is None else packed(p.W_e, plan.KP, plan.NP, dtype)
    kernels.start[plan.grid](
        *(p.x, encoder, p.theta, p.gain, p.z0, drives, codes[0], M, n, K, plan.NP, plan.KP, theta_stride), **options
    )
    S = packed(p.S, plan.KP, plan.KP, dtype)
    iterates = [codes[t % len(codes)] for t in range(p.n_iter)] + ([results[0]] if results else [])
    for before, after in itertools.pairwise(iterates):
        kernels.step[plan.grid](
            *(before, S, p.x, p.theta, drives, after, M, K, plan.KP, *after.shape, theta_stride), **options
        )
