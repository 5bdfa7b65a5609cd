import pytest
import torch
from pictures import TINY, scene

from scvae_fast.models import SCVAE
from scvae_fast.tiling import reconstruct_tiled


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
    torch.testing.assert_close(result.x_hat[:, 16:32, 32:48], alone.x_hat)
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
