"""Launches the Triton kernels: packs matrices, sizes scratch, distributes rows over programs.

A single launch for all iterations has scratch for the rows in flight; separate launches per iteration, and the backward
pass, work on chunks of rows.

The shared memory that a tile needs is known only after its kernels are compiled. `fitting` compiles them before the
first launch, and takes the next smaller tile if they need more than the card gives a block.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import triton

from scvae_fast.ops.backends.triton import products, tiles
from scvae_fast.ops.backends.triton.tiles import CHAIN, INTERPRETER, MOST_ATOMS, Card, Tile, choose

# For sums over rows, whose order does not depend on the number of multiprocessors.
OUTER_PROGRAMS = 512
ROWS_PER_SPLIT = 512

# Stands for a card when kernels are interpreted.
INTERPRETED = Card((INTERPRETER, 0), shared_bytes=1 << 20, multiprocessors=2, cache_bytes=1 << 30, name="interpreter")


@cache
def card(index: int | None) -> Card:
    """The properties of a CUDA device; `INTERPRETED` for None."""
    if index is None:
        return INTERPRETED
    properties = torch.cuda.get_device_properties(index)
    shared_bytes = triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"]
    capability = properties.major, properties.minor
    return Card(capability, shared_bytes, properties.multi_processor_count, properties.L2_cache_size, properties.name)


def precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: with three TF32 products, or one if torch's own setting allows it."""
    if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32":
        return "tf32x3"
    return "tf32"


def up(size: int, unit: int) -> int:
    """The size, rounded up to a multiple of the unit."""
    return -(-size // unit) * unit


class Launch(NamedTuple):
    """How a problem of M rows, K atoms and n features is divided into programs."""

    card: Card
    tile: Tile
    programs: int  # in a launch with all iterations
    rows: int  # M, rounded up to whole tiles
    KP: int  # atoms, rounded up to whole tiles
    NP: int  # features, rounded up to whole tiles
    by_iteration: bool  # a launch for every iteration, of tiles of rows and columns
    row_bytes: int  # scratch of the forward pass per row

    @property
    def scratch_bytes(self) -> int:
        """Scratch of the forward pass, if it does not work on chunks of rows."""
        return self.in_flight * self.row_bytes

    @property
    def in_flight(self) -> int:
        """Number of rows with scratch in the forward pass."""
        return self.rows if self.by_iteration else self.programs * self.tile.rows

    @property
    def grid(self) -> tuple[int, int]:
        """Number of tiles of rows and columns."""
        return self.rows // self.tile.rows, self.KP // self.tile.columns

    @property
    def feature_grid(self) -> tuple[int, int]:
        """Number of tiles of rows and features."""
        return self.rows // self.tile.rows, self.NP // self.tile.columns

    def options(self, dtype: torch.dtype) -> dict[str, Any]:
        """The tile as kernel arguments."""
        return {
            "BLOCK_M": self.tile.rows,
            "BLOCK_N": self.tile.columns,
            "BLOCK_K": self.tile.depth,
            "PRECISION": precision(dtype),
            "num_warps": self.tile.warps,
            "num_stages": self.tile.stages,
        }


class Choice(NamedTuple):
    """A tile and a launch mode."""

    tile: Tile
    by_iteration: bool


forced_choice: bool | None = None
"""The mode set by `forced`: a launch per iteration, or one for all; None uses the table."""


@contextlib.contextmanager
def forced(by_iteration: bool) -> Iterator[None]:
    """For tests and benchmarks: use one launch per iteration, or one for all, regardless of the table."""
    global forced_choice
    before, forced_choice = forced_choice, by_iteration
    try:
        yield
    finally:
        forced_choice = before


def choice(card: Card, dtype: torch.dtype, M: int, K: int, features: int = 0, launches: bool = False) -> Choice:
    """The table's choice for M rows, K atoms and, in the factored form, the number of features.

    `launches`: every iteration must be a separate launch.
    """
    by_iteration = tiles.by_iteration(card, dtype, M, K, features) if forced_choice is None else forced_choice
    by_iteration = by_iteration or launches
    return Choice(choose(card, dtype, M, K if by_iteration else 1), by_iteration)


def launch(
    card: Card,
    chosen: Choice,
    M: int,
    K: int,
    n: int,
    atom_bytes: int = 0,  # of a row's scratch in the forward pass, per atom
    feature_bytes: int = 0,  # and per feature
) -> Launch:
    """The launch plan: a pure function of the card, the choice and the problem."""
    if max(K, n) > MOST_ATOMS:
        raise ValueError(f"backend 'triton': at most {MOST_ATOMS} atoms or features, got {max(K, n)}")
    tile = chosen.tile
    blocks = -(-M // tile.rows)
    unit = max(tile.columns, tile.depth)
    KP, NP = up(K, unit), up(n, unit)
    programs = max(1, min(blocks, tiles.resident(tile) * card.multiprocessors))
    row_bytes = KP * atom_bytes + NP * feature_bytes
    return Launch(card, tile, programs, blocks * tile.rows, KP, NP, chosen.by_iteration, row_bytes)


def packed(matrices: torch.Tensor, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """A matrix (…, rows, columns), or several, with packed rows, padded with zeros."""
    if matrices.shape[-2:] == (rows, columns) and matrices.dtype == dtype:
        return matrices.contiguous()
    out = matrices.new_zeros(*matrices.shape[:-2], rows, columns, dtype=dtype)
    out[..., : matrices.shape[-2], : matrices.shape[-1]] = matrices
    return out


class _TooLargeError(Exception):
    """A compiled kernel needs more shared memory than the card gives a block."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class _OfThread(threading.local):
    compiles_only = False


_of_thread = _OfThread()
_needed: dict[Hashable, int] = {}  # bytes of the kernels that don't fit, 0 where all do


def run(kernel: Any, grid: tuple[int, ...], card: Card, *values: Any, **arguments: Any) -> None:
    """Launch a kernel; inside `unmet`, only compile it, and raise `_TooLargeError` if it doesn't fit the card."""
    if not _of_thread.compiles_only:
        kernel[grid](*values, **arguments)
        return
    needed = kernel.warmup(*values, grid=grid, **arguments).metadata.shared
    if needed > card.shared_bytes:
        raise _TooLargeError(needed)


def unmet(problem: Hashable, go: Callable[[], object]) -> int:
    """Bytes of shared memory that a compiled kernel needs beyond the card's limit per block; 0 if all kernels fit.

    Args:
        problem: the card, the tile and everything else that determines what is compiled; checked once.
        go: does the problem's launches with `run`; here they only compile, and results are meaningless.
    """
    if problem not in _needed:
        before, _of_thread.compiles_only = _of_thread.compiles_only, True
        try:
            go()
            _needed[problem] = 0
        except _TooLargeError as error:
            _needed[problem] = error.needed
        finally:
            _of_thread.compiles_only = before
    return _needed[problem]


def fitting(card: Card, dtype: torch.dtype, first: Choice, problem: Hashable, go: Callable[[Choice], object]) -> Choice:
    """The first choice, or else the one with the largest smaller tile whose compiled kernels fit the card.

    `problem` is what determines the compiled kernels besides card and choice: see `compiled_for`. `go` does the
    launches of a choice with `run`. Raises RuntimeError if no tile's kernels fit.
    """
    if card.capability[0] == INTERPRETER:
        return first
    table, needed = tiles.fitting(card, dtype), 0
    for tile in table[table.index(first.tile) :]:
        smaller = first._replace(tile=tile)
        needed = unmet((card, smaller, problem), partial(go, smaller))
        if not needed:
            return smaller
    raise RuntimeError(
        f"backend 'triton': its smallest tile takes {needed} bytes of shared memory as Triton {triton.__version__} "
        f"compiles it, but this card allows {card.shared_bytes} per block"
    )


def compiled_for(*arguments: object) -> tuple[Hashable, ...]:
    """The properties of arguments that determine compilation: types, None, and which values are multiples of 16."""
    return tuple(map(_compiled_for, arguments))


def _compiled_for(argument: object) -> Hashable:
    if isinstance(argument, torch.Tensor):
        return argument.dtype, argument.dim(), argument.data_ptr() % 16 == 0
    if isinstance(argument, int) and not isinstance(argument, bool):
        return argument == 1, argument % 16 == 0
    assert isinstance(argument, Hashable)
    return argument


@contextlib.contextmanager
def on_device_of(tensor: torch.Tensor) -> Iterator[Card]:
    """The card of the tensor's device, which is the current device for launches inside."""
    if tensor.device.type != "cuda":
        yield card(None)
        return
    with torch.cuda.device(tensor.device):
        yield card(tensor.get_device())


def outer(left: torch.Tensor, right: torch.Tensor, card: Card) -> torch.Tensor:
    """leftᵀ right in float32 for left (rows, I) and right (rows, J), in an order determined by shape and tile."""
    largest = Choice(choose(card, left.dtype, 1 << 30), by_iteration=True)
    sizes = (left.shape[1], right.shape[1], left.stride(0), right.stride(0))
    problem = ("outer", precision(left.dtype), CHAIN, compiled_for(left, right, *sizes))
    go = partial(_outer, left, right, card)
    return go(fitting(card, left.dtype, largest, problem, go))


def _outer(left: torch.Tensor, right: torch.Tensor, card: Card, chosen: Choice) -> torch.Tensor:
    rows, I, J, tile = left.shape[0], left.shape[1], right.shape[1], chosen.tile  # noqa: E741
    # As many rows as columns, so that neither factor is read more often than the other.
    side = min(tile.rows, tile.columns)
    across, down = -(-I // side), -(-J // side)
    splits = max(1, min(OUTER_PROGRAMS // (across * down), rows // ROWS_PER_SPLIT))
    sums = left.new_empty(splits, I, J, dtype=torch.float32)
    run(
        products.outer,
        (across, down, splits),
        card,
        left,
        right,
        sums,
        rows,
        I,
        J,
        left.stride(0),
        right.stride(0),
        up(-(-rows // splits), tile.depth),
        BLOCK_M=side,
        BLOCK_N=side,
        BLOCK_K=tile.depth,
        CHAIN=CHAIN,
        PRECISION=precision(left.dtype),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return sums.sum(0)


def product(left: torch.Tensor, right: torch.Tensor, card: Card, out: torch.Tensor | None = None) -> torch.Tensor:
    """The product left · rightᵀ (M, columns) for left (M, depth) and right (columns, depth); in `out`, if given."""
    (M, depth), columns = left.shape, right.shape[0]
    out = left.new_empty(M, columns) if out is None else out
    if M > 0:
        table = Choice(choose(card, left.dtype, M, columns), by_iteration=True)
        problem = ("product", precision(left.dtype), compiled_for(left, out, columns, depth, left.stride(0)))
        go = partial(_product, left, right, card, out)
        go(fitting(card, left.dtype, table, problem, go))
    return out


def _product(left: torch.Tensor, right: torch.Tensor, card: Card, out: torch.Tensor, chosen: Choice) -> None:
    (M, depth), columns = left.shape, right.shape[0]
    plan = launch(card, chosen, M, columns, depth)
    run(
        products.product,
        plan.grid,
        card,
        left,
        packed(right, plan.KP, plan.NP, left.dtype),
        out,
        M,
        columns,
        depth,
        left.stride(0),
        plan.NP,
        **plan.options(left.dtype),
    )
