"""What the Triton kernels are launched with: pure functions of the card and the problem."""

import pytest
import torch

from scvae_fast.ops._triton import tiles
from scvae_fast.ops._triton.tiles import COLLECTED, Card, choose

H200 = Card((9, 0), 232_448, 132)
SMALL = Card((8, 6), 101_376, 28)  # an Ampere card with less shared memory than a data centre's


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("card", [H200, SMALL, Card((8, 0), 166_912, 108), Card((12, 0), 101_376, 170)])
@pytest.mark.parametrize("rows", [1, 256, 2048, 65_536, 1 << 20])
def test_tile_fits_the_card(card, dtype, rows):
    tile = choose(card, dtype, rows)
    assert tile.shared_bytes(dtype.itemsize) <= card.shared_bytes
    assert tile.rows >= 16
    assert all(size & (size - 1) == 0 for size in tile[:4]), "powers of two"
    assert tile.rows % COLLECTED.rows == 0
    assert tile.columns % COLLECTED.columns == 0


def test_more_rows_take_larger_tiles():
    sizes = [choose(H200, torch.bfloat16, rows).rows for rows in (1, 256, 4096, 65_536, 1 << 20)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_few_rows_are_dealt_out_to_as_many_multiprocessors_as_can_be():
    assert choose(H200, torch.bfloat16, 256) == tiles.tiles((9, 0), 2)[-1]


def test_little_shared_memory_gives_a_smaller_tile():
    little = H200._replace(shared_bytes=80_000)
    smaller, largest = (choose(card, torch.bfloat16, 1 << 20) for card in (little, H200))
    assert smaller.shared_bytes(2) <= 80_000 < largest.shared_bytes(2)


def test_later_cards_take_the_last_tiles_of_the_table():
    assert tiles.tiles((12, 1), 4) == tiles.tiles((10, 0), 4)


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        (Card((7, 5), 65_536, 40), "it needs compute capability 8.0 or newer, this card has 7.5"),
        (Card((8, 0), 4_096, 40), "bytes of shared memory for a block, this card gives 4096"),
    ],
)
def test_unfit_cards_get_a_reason(card, reason):
    assert reason in tiles.unfit(card)


def test_fit_cards_get_none():
    assert tiles.unfit(H200) is None
    assert tiles.unfit(SMALL) is None
