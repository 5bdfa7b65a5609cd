"""The one table of tile sizes: pure functions of the card's capability and shared memory, of dtype and shape.

The numbers are the largest tiles that compile without spills (tests/ops/test_triton_build.py prints registers and
shared memory); they have not been measured on a card yet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

OLDEST = (8, 0)
"""The first compute capability whose matrix units take bfloat16 and TF32."""


class Tile(NamedTuple):
    """What a program multiplies at a time: (rows × depth) · (depth × columns)."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int  # tiles of both factors on their way at a time

    def shared_bytes(self, itemsize: int) -> int:
        """Shared memory of the stages, and of what is left of float32 once TF32 is taken off."""
        stages = self.stages * (self.rows + self.columns) * self.depth * itemsize
        return stages + (self.rows * self.depth * itemsize if itemsize == 4 else 0)


INTERPRETER = 0
"""Stands for a major version where kernels are interpreted: one step costs the same whatever the size of a tile."""

# By compute capability's major version and bytes of an element; the largest first.
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
"""Of the kernel that adds adjoints up: no other has fewer rows or columns."""

CHAIN = 512
"""Rows that the matrix units sum up before the sum is added to others: a multiple of every tile's depth."""

MOST_ATOMS = 32_768
"""Also of features: offsets inside a packed matrix are 32 bits."""


class Card(NamedTuple):
    """What a choice depends on."""

    capability: tuple[int, int]
    shared_bytes: int  # that a block may have
    multiprocessors: int


def unfit(card: Card) -> str | None:
    """Why the kernels can't run on that card; None where they can."""
    if card.capability < OLDEST:
        return f"it needs compute capability 8.0 or newer, this card has {card.capability[0]}.{card.capability[1]}"
    smallest = min(tile.shared_bytes(4) for tile in tiles(card.capability, 4))
    if card.shared_bytes < smallest:
        return f"it needs {smallest} bytes of shared memory for a block, this card gives {card.shared_bytes}"
    return None


def tiles(capability: tuple[int, int], itemsize: int) -> tuple[Tile, ...]:
    """Those for a capability of at least `OLDEST`, the largest first; a later one than the table knows has the last."""
    return _TILES[min(capability[0], max(major for major, _ in _TILES)), itemsize]


def choose(card: Card, dtype: torch.dtype, rows: int) -> Tile:
    """The largest tile that fits the card's shared memory and gives each multiprocessor rows to work on.

    With fewer rows, the tile with the fewest: then most multiprocessors have some.
    """
    size = dtype.itemsize
    fitting = [tile for tile in tiles(card.capability, size) if tile.shared_bytes(size) <= card.shared_bytes]
    return next((tile for tile in fitting if tile.rows * card.multiprocessors <= rows), fitting[-1])
