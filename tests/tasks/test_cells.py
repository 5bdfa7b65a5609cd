import numpy as np
import pytest
import torch
from pictures import TINY, scene

from scvae_fast.codes.tiling import encode_tiled
from scvae_fast.data.stream import NamedPicture
from scvae_fast.models import SCVAE
from scvae_fast.tasks.cells import CellKind, cells_of

SIZES = [(16, 16), (16, 16), (7, 30), (33, 18)]


@pytest.fixture(scope="module")
def model() -> SCVAE:
    torch.manual_seed(0)
    return SCVAE(TINY).eval()


def pictures() -> list[NamedPicture]:
    return [NamedPicture(str(i), scene(*size, seed=i)) for i, size in enumerate(SIZES)]


@pytest.mark.parametrize(("kind", "width"), [("codes", 24), ("latents", 16), ("pixels", 12), ("colour", 3)])
def test_a_row_for_each_cell(model: SCVAE, kind: CellKind, width: int) -> None:
    for picture, cells in zip(pictures(), cells_of(model, iter(pictures()), kind), strict=True):
        assert (cells.name, cells.size) == (picture.name, picture.size)
        assert cells.grid == TINY.grid(*picture.size)
        assert cells.rows.shape == (cells.grid[0] * cells.grid[1], width)
        assert cells.rows.dtype == np.float32


def test_codes_are_those_of_the_model(model: SCVAE) -> None:
    for picture, cells in zip(pictures(), cells_of(model, pictures(), "codes", batch_size=1), strict=True):
        expected = encode_tiled(model, picture.picture).dense().flatten(0, 1).numpy()
        np.testing.assert_allclose(cells.rows.toarray(), expected)


def test_latents_of_a_picture_that_goes_whole_are_the_encoders(model: SCVAE) -> None:
    (cells,) = cells_of(model, pictures()[:1], "latents")
    with torch.no_grad():
        latents = model.encode(pictures()[0].picture[None]).latents[0]  # (n, h, w)
    np.testing.assert_allclose(cells.rows, latents.flatten(1).T.numpy(), rtol=1e-6)


def test_latents_of_a_large_picture_are_what_is_coded(model: SCVAE) -> None:
    picture = pictures()[3]
    (cells,) = cells_of(model, [picture], "latents")
    with torch.no_grad():
        codes, _ = model.bottleneck(torch.from_numpy(cells.rows))
    expected = encode_tiled(model, picture.picture).dense().flatten(0, 1)
    torch.testing.assert_close(codes, expected, rtol=1e-4, atol=1e-5)


def test_pixels_and_colours_are_those_of_the_cell(model: SCVAE) -> None:
    picture = pictures()[3]  # 33 x 18: the last row of cells has one row of pixels, which is repeated
    (pixels,) = cells_of(model, [picture], "pixels")
    (colours,) = cells_of(model, [picture], "colour")
    for row, column in [(0, 0), (5, 3), (16, 8)]:
        patch = picture.picture[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        patch = patch.expand(3, 2, 2) if patch.shape[1] == 1 else patch
        index = row * colours.grid[1] + column
        np.testing.assert_allclose(pixels.rows[index], patch.flatten().numpy())
        np.testing.assert_allclose(colours.rows[index], patch.mean((1, 2)).numpy(), rtol=1e-5, atol=1e-6)


def test_an_unknown_kind(model: SCVAE) -> None:
    with pytest.raises(ValueError, match="kind must be one of"):
        next(cells_of(model, pictures(), "edges"))  # type: ignore[arg-type]
