"""Launch parameters of the Triton kernels: pure functions of the card and the problem."""

import pytest
import torch

from scvae_fast.ops.backends.triton import tiles
from scvae_fast.ops.backends.triton.tiles import COLLECTED, Card, by_iteration, choose

H200 = Card((9, 0), 232_448, 132, 50 << 20, "H200")
SMALL = Card((8, 6), 101_376, 28, 2 << 20, "small")  # an Ampere card with less shared memory than a data centre's
A100 = Card((8, 0), 166_912, 108, 40 << 20, "A100")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("card", [H200, SMALL, A100, Card((12, 0), 101_376, 170, 96 << 20, "late")])
@pytest.mark.parametrize("rows", [1, 256, 2048, 65_536, 1 << 20])
@pytest.mark.parametrize("columns", [1, 512])
def test_tile_fits_the_card(card, dtype, rows, columns):
    tile = choose(card, dtype, rows, columns)
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


def test_tiles_of_rows_and_columns_are_dealt_out_to_all_multiprocessors():
    """Some tile gives each of them work, and no larger tile does."""
    tile = choose(H200, torch.bfloat16, 1024, 512)
    assert -(-1024 // tile.rows) * (512 // tile.columns) >= H200.multiprocessors
    larger = [t for t in tiles.tiles((9, 0), 2) if t.rows > tile.rows]
    assert larger
    assert all(1024 // t.rows * (512 // t.columns) < H200.multiprocessors for t in larger)


@pytest.mark.parametrize(
    ("rows", "atoms", "dtype", "expected"),
    [
        (1, 512, torch.bfloat16, True),
        (256, 512, torch.float32, True),
        (65 * 16, 512, torch.bfloat16, True),
        (65 * 16 + 1, 512, torch.bfloat16, False),  # 66 of 132 multiprocessors have rows
        (65_536, 512, torch.float32, False),
        (65_536, 2_560, torch.float32, False),
        (65_536, 2_561, torch.float32, True),  # S takes more than half of the cache
        (65_536, 2_561, torch.bfloat16, False),
        (65_536, 8_192, torch.bfloat16, True),
    ],
)
def test_few_rows_or_many_atoms_go_by_iteration(rows, atoms, dtype, expected):
    assert by_iteration(H200, dtype, rows, atoms) is expected


@pytest.mark.parametrize(("atoms", "features", "expected"), [(16_384, 256, False), (32_768, 1024, True)])
def test_factored_form_counts_its_own_matrices(atoms, features, expected):
    """W_e and D, which have n where S would have K columns."""
    assert by_iteration(H200, torch.bfloat16, 65_536, atoms, features) is expected
    assert by_iteration(H200, torch.bfloat16, 65_536, atoms)


def test_little_shared_memory_gives_a_smaller_tile():
    little = H200._replace(shared_bytes=80_000)
    smaller, largest = (choose(card, torch.bfloat16, 1 << 20) for card in (little, H200))
    assert smaller.shared_bytes(2) <= 80_000 < largest.shared_bytes(2)


def test_later_cards_take_the_last_tiles_of_the_table():
    assert tiles.tiles((12, 1), 4) == tiles.tiles((10, 0), 4)


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        (Card((7, 5), 65_536, 40, 4 << 20, "old"), "it needs compute capability 8.0 or newer, this card has 7.5"),
        (Card((8, 0), 4_096, 40, 4 << 20, "old"), "bytes of shared memory for a block, this card gives 4096"),
    ],
)
def test_unfit_cards_get_a_reason(card, reason):
    assert reason in tiles.unfit(card)


def test_fit_cards_get_none():
    assert tiles.unfit(H200) is None
    assert tiles.unfit(SMALL) is None
