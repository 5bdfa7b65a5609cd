"""The one table of tile sizes: pure functions of the card's capability and shared memory, dtype and shape.

The numbers are the largest tiles that compile without spills (tests/ops/test_triton_build.py prints registers and
shared memory); they have not been measured on a card yet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

OLDEST = (8, 0)
"""The first compute capability whose matrix units support bfloat16 and TF32."""


class Tile(NamedTuple):
    """The product of one step of a program: (rows × depth) · (depth × columns)."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int  # tiles of both factors in flight

    def shared_bytes(self, itemsize: int) -> int:
        """Shared memory of the stages and of the float32 remainders after TF32, the basis of a choice.

        With Triton 3.6, 3.7 and 3.8 it is at most 8 KiB more; `launch.fitting` checks the compiled kernels.
        """
        stages = self.stages * (self.rows + self.columns) * self.depth * itemsize
        return stages + (self.rows * self.depth * itemsize if itemsize == 4 else 0)


INTERPRETER = 0
"""Stands for a major version when kernels are interpreted, where a step costs the same for tiles of any size."""

# By major version of the compute capability and bytes per element, the largest first.
_TILES: dict[tuple[int, int], tuple[Tile, ...]] = {
    (INTERPRETER, 2): (Tile(64, 128, 128, 4, 1), Tile(16, 64, 64, 4, 1)),
    (INTERPRETER, 4): (Tile(64, 128, 128, 4, 1), Tile(16, 64, 64, 4, 1)),
    (8, 2): (Tile(128, 128, 64, 8, 3), Tile(64, 128, 64, 4, 3), Tile(32, 128, 64, 4, 3), Tile(16, 128, 64, 4, 3)),
    (8, 4): (Tile(64, 128, 32, 8, 3), Tile(32, 128, 32, 4, 3), Tile(16, 64, 32, 4, 2)),
    (9, 2): (Tile(128, 128, 64, 8, 3), Tile(64, 128, 64, 4, 4), Tile(32, 64, 64, 4, 4), Tile(16, 128, 64, 4, 4)),
    (9, 4): (Tile(64, 128, 32, 8, 3), Tile(32, 128, 32, 4, 3), Tile(16, 64, 32, 4, 2)),
    (10, 2): (Tile(128, 128, 64, 8, 3), Tile(64, 128, 64, 4, 3), Tile(32, 128, 64, 8, 3), Tile(16, 128, 64, 4, 3)),
    (10, 4): (Tile(64, 128, 32, 8, 3), Tile(32, 128, 32, 4, 3), Tile(16, 64, 32, 4, 2)),
}


COLLECTED = Tile(rows=16, columns=64, depth=1, warps=4, stages=1)
"""Tile of the kernel that sums adjoints; no other tile has fewer rows or columns."""

CHAIN = 512
"""Rows that the matrix units sum before the sum is added to others: a multiple of every tile's depth."""

REGISTERS = 168
"""Registers per thread, for tiles of at most FEW_SUMS in a launch with more products than that with S. Without this
setting the compiler uses so few that some are spilled."""

FEW_SUMS = 16 * 128

RESIDENT_WARPS = 8
"""Warps of the programs on a multiprocessor, in a launch with all iterations.

A multiprocessor has 65,536 registers. Programs of 8 warps mostly use more than 128 per thread there, so a second
program would wait for the first, yet need its own scratch. The second-level cache should hold the scratch. At K = 512,
in 16 bits, that is 3 slabs of 1 KiB per row, two of codes and the drive. With one program of 128 rows (or two of 64) on
each of 132 multiprocessors it is 132 · 128 · 3 KiB = 51.9 MB of an H100's 52.4; on the 108 of an A100 it is 42.5 MB,
where the cache has 41.9. Twice as many programs would double it. float32 needs the same with half the rows. One program
of 64 rows would halve it, but would read 14 instead of 10 KiB from the cache per row and iteration, read S twice as
often, and leave only 4 warps to hide the latency that 8 can hide.
"""

TOGETHER = 8
"""Tiles of columns that go through all rows together, if programs have tiles of both."""

MOST_ATOMS = 32_768
"""Also for features: offsets in a packed matrix have 32 bits."""


class Card(NamedTuple):
    """The properties of a card that a choice depends on."""

    capability: tuple[int, int]
    shared_bytes: int  # maximum per block
    multiprocessors: int
    cache_bytes: int  # of the second-level cache
    name: str


def unfit(card: Card) -> str | None:
    """Why the kernels can't run on that card; None if they can."""
    if card.capability < OLDEST:
        return f"it needs compute capability 8.0 or newer, this card has {card.capability[0]}.{card.capability[1]}"
    smallest = max(min(tile.shared_bytes(size) for tile in tiles(card.capability, size)) for size in (2, 4))
    if card.shared_bytes < smallest:
        return f"it needs {smallest} bytes of shared memory for a block, this card gives {card.shared_bytes}"
    return None


def tiles(capability: tuple[int, int], itemsize: int) -> tuple[Tile, ...]:
    """Tiles for a capability of at least `OLDEST`, the largest first; later capabilities use the last entry."""
    return _TILES[min(capability[0], max(major for major, _ in _TILES)), itemsize]


def fitting(card: Card, dtype: torch.dtype) -> tuple[Tile, ...]:
    """Tiles that fit into the card's shared memory, the largest first."""
    size = dtype.itemsize
    return tuple(tile for tile in tiles(card.capability, size) if tile.shared_bytes(size) <= card.shared_bytes)


def resident(tile: Tile) -> int:
    """Programs per multiprocessor, in a launch with all iterations."""
    return max(1, RESIDENT_WARPS // tile.warps)


def choose(card: Card, dtype: torch.dtype, rows: int, columns: int = 1) -> Tile:
    """The largest tile that fits the card's shared memory and gives each multiprocessor one to work on.

    If there is too little work for that, the tile with the fewest rows, which uses the most multiprocessors. Programs
    have all columns of some rows or, if a number of columns is given, tiles of both.
    """
    some = fitting(card, dtype)
    enough = (t for t in some if -(-rows // t.rows) * -(-columns // t.columns) >= card.multiprocessors)
    return next(enough, some[-1])


def by_iteration(card: Card, dtype: torch.dtype, rows: int, atoms: int, features: int = 0) -> bool:
    """Whether every iteration is a separate launch, with tiles of rows and columns, instead of one launch for all.

    That is the case if the rows alone would leave more than half of the multiprocessors idle, or if the matrices of an
    iteration are too large for the second-level cache to hold them beside codes: S, or W_e and D of the factored form,
    which has `features`. Neither limit has been measured yet.
    """
    row_blocks = -(-rows // fitting(card, dtype)[-1].rows)
    elements = 2 * atoms * features if features else atoms**2
    return 2 * row_blocks < card.multiprocessors or 2 * elements * dtype.itemsize > card.cache_bytes
