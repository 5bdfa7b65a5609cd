import itertools

import pytest
import torch
from pictures import TINY, scene

from scvae_fast.codes import SparseCodes
from scvae_fast.codes.tiling import decode_tiled, encode_tiled, goes_whole, reconstruct_tiled
from scvae_fast.models import SCVAE


@pytest.fixture(scope="module")
def model() -> SCVAE:
    torch.manual_seed(0)
    return SCVAE(TINY).eval()


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (16, 16), (33, 18), (64, 5)])
def test_any_size(model: SCVAE, size: tuple[int, int]) -> None:
    result = reconstruct_tiled(model, scene(*size))
    cells = (-(-size[0] // 2), -(-size[1] // 2))
    assert result.x_hat.shape == (3, *size)
    assert result.active.shape == cells
    assert bool(result.x_hat.isfinite().all())
    assert result.x_hat.abs().max() <= 1
    assert result.usage.sum() == result.active.sum()
    assert result.usage.max() <= cells[0] * cells[1]


def test_one_tile_without_margin_is_the_model_itself(model: SCVAE) -> None:
    picture = scene(16, 16)
    result = reconstruct_tiled(model, picture, margin=0)
    with torch.no_grad():
        output = model(picture[None])
    torch.testing.assert_close(result.x_hat, output.x_hat[0].clamp(-1, 1))
    assert torch.equal(result.active, (output.codes[0] != 0).sum(-1))


def test_tiles_are_put_together_in_place(model: SCVAE) -> None:
    picture = scene(32, 48)
    result = reconstruct_tiled(model, picture, margin=0)
    alone = reconstruct_tiled(model, picture[:, 16:32, 32:48], margin=0)
    torch.testing.assert_close(result.x_hat[:, 16:32, 32:48], alone.x_hat, atol=1e-4, rtol=1e-4)  # batches of tiles
    assert torch.equal(result.active[8:16, 16:24], alone.active)


def test_with_a_margin_each_cell_is_coded_within_its_own_surroundings(model: SCVAE) -> None:
    picture = scene(28, 28)
    result = reconstruct_tiled(model, picture, margin=2)  # inner parts of 12 pixels: the second tile begins at 12 − 2
    with torch.no_grad():
        codes = model.encode(picture[None, :, 10:26, 10:26]).codes[0]  # (8, 8, K)
    assert torch.equal(result.active[6:12, 6:12], (codes[1:7, 1:7] != 0).sum(-1))


@pytest.mark.parametrize("size", [(7, 30), (28, 28), (16, 16)])
def test_every_code_is_shown_once(model: SCVAE, size: tuple[int, int]) -> None:
    shown: list[torch.Tensor] = []
    result = reconstruct_tiled(model, scene(*size), on_codes=shown.append)
    rows = torch.cat([codes.reshape(-1, TINY.n_atoms) for codes in shown])
    assert len(rows) == result.active.numel()
    assert torch.equal((rows != 0).sum(0), result.usage)
    assert sorted((rows != 0).sum(1).tolist()) == sorted(result.active.flatten().tolist())


@pytest.mark.parametrize(("tile", "margin"), [(15, 2), (16, 3), (16, 8), (16, -2)])
def test_tiles_that_do_not_fit(model: SCVAE, tile: int, margin: int) -> None:
    with pytest.raises(ValueError, match="multiples of 2"):
        reconstruct_tiled(model, scene(20, 20), tile=tile, margin=margin)


def test_only_pictures(model: SCVAE) -> None:
    with pytest.raises(ValueError, match=r"picture must be \(3, H, W\)"):
        reconstruct_tiled(model, torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("size", [(7, 30), (33, 18), (16, 12)])
def test_a_reconstruction_is_what_codes_decode_to(model: SCVAE, size: tuple[int, int]) -> None:
    picture = scene(*size)
    result, codes = reconstruct_tiled(model, picture), encode_tiled(model, picture)
    assert torch.equal(decode_tiled(model, codes, size), result.x_hat)
    dense = codes.dense()
    assert torch.equal(result.active, (dense != 0).sum(-1))
    assert torch.equal(result.usage, (dense != 0).sum((0, 1)))


def test_many_codes(model: SCVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = encode_tiled(model, scene(33, 50))
    at_once = decode_tiled(model, codes, (33, 50))
    monkeypatch.setattr("scvae_fast.codes.tiling._CELLS_AT_ONCE", 60)  # two rows of cells
    torch.testing.assert_close(decode_tiled(model, codes, (33, 50)), at_once)


@torch.no_grad()
def test_latents_are_those_that_the_encoder_gave(model: SCVAE) -> None:
    """Against D z as the bottleneck itself computes it, without codes that were made sparse."""
    picture = scene(16, 28)
    latents = torch.empty(16, 8, 14)
    padded = torch.nn.functional.pad(picture[None], (4, 4, 4, 4), mode="replicate")
    for top, left in itertools.product((0, 8), (0, 8, 16, 24)):  # inner parts of 8 pixels, 4 cells
        tile = torch.nn.functional.pad(padded, (0, 16, 0, 16), mode="replicate")[..., top : top + 16, left : left + 16]
        inner = model.encode(tile).latents_hat[0, :, 2:6, 2:6]
        rows, columns = slice(top // 2, top // 2 + 4), slice(left // 2, min(left // 2 + 4, 14))
        latents[:, rows, columns] = inner[..., : columns.stop - columns.start]
    codes = encode_tiled(model, picture, tile=16, margin=4)
    torch.testing.assert_close(model.combine_atoms(codes.dense()[None])[0], latents)


@torch.no_grad()
def test_a_picture_that_fits_goes_whole(model: SCVAE) -> None:
    sizes = {(16, 16): True, (8, 14): True, (15, 16): False, (16, 18): False}
    assert {size: goes_whole(TINY, *size) for size in sizes} == sizes
    picture = scene(8, 14)
    result, output = reconstruct_tiled(model, picture), model(picture[None])
    torch.testing.assert_close(result.x_hat, output.x_hat[0].clamp(-1, 1))
    assert torch.equal(encode_tiled(model, picture).dense(), output.codes[0])


@pytest.mark.parametrize("size", [(8, 14), (33, 18)])
def test_the_callback_gets_each_code_once(model: SCVAE, size: tuple[int, int]) -> None:
    seen: list[torch.Tensor] = []
    result = reconstruct_tiled(model, scene(*size), on_codes=seen.append)
    codes = torch.cat([each.reshape(-1, 24) for each in seen])
    assert torch.equal((codes != 0).sum(1), result.active.flatten())


def test_autocast_gives_pictures_in_float32(model: SCVAE) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for size in ((16, 16), (20, 20)):
            assert reconstruct_tiled(model, scene(*size)).x_hat.dtype == torch.float32


def test_codes_of_another_picture(model: SCVAE) -> None:
    codes = encode_tiled(model, scene(20, 30))
    with pytest.raises(ValueError, match=r"decode_tiled: codes of a picture of 20 x 33 must be \(10, 17, 24\)"):
        decode_tiled(model, codes, (20, 33))
    with pytest.raises(ValueError, match=r"must be \(10, 15, 24\), got \(10, 15, 23\)"):
        decode_tiled(model, SparseCodes.of(torch.zeros(10, 15, 23)), (20, 30))
    with pytest.raises(ValueError, match="size must be a height and a width"):
        decode_tiled(model, codes, (0, 30))
