import numpy as np
import pytest
import torch
from pictures import TINY, scene
from scipy.sparse import csr_array

from scvae_fast.data.stream import NamedPicture
from scvae_fast.models import SCVAE
from scvae_fast.tasks.cells import PictureCells, cells_of
from scvae_fast.tasks.descriptors import Descriptor, describe, pool, thumbnail

ROWS = np.array([[1, -2], [0, 4], [3, 0], [0, -6], [0, 0], [2, 1]], dtype=np.float32)  # 2 x 3 cells


def cells(*, sparse: bool, grid: tuple[int, int] = (2, 3)) -> PictureCells:
    return PictureCells("x", (4, 6), grid, csr_array(ROWS) if sparse else ROWS)


@pytest.mark.parametrize("sparse", [False, True])
def test_pooling_by_hand(sparse: bool) -> None:
    np.testing.assert_allclose(pool(cells(sparse=sparse), "mean", 1), [1, -0.5], rtol=1e-6)
    np.testing.assert_allclose(pool(cells(sparse=sparse), "max", 1), [3, 6])
    np.testing.assert_allclose(pool(cells(sparse=sparse), "signs", 1), [1, 5 / 6, 0, 8 / 6], atol=1e-7)
    np.testing.assert_allclose(pool(cells(sparse=sparse), "use", 1), [3 / 6, 4 / 6])


@pytest.mark.parametrize("sparse", [False, True])
def test_quarters_by_hand(sparse: bool) -> None:
    # Of three columns, both halves have the middle one.
    expected = [[1, -0.5], [0.5, 1], [1.5, 2], [0, -3], [1, 0.5]]
    np.testing.assert_allclose(pool(cells(sparse=sparse), "mean", 2), np.ravel(expected), atol=1e-7)
    expected = [[3, 6], [1, 4], [3, 4], [0, 6], [2, 1]]
    np.testing.assert_allclose(pool(cells(sparse=sparse), "max", 2), np.ravel(expected))


def test_quarters_of_a_single_row() -> None:
    pooled = pool(cells(sparse=False, grid=(1, 6)), "mean", 2).reshape(5, 2)
    np.testing.assert_allclose(pooled[1], ROWS[:3].mean(0))
    np.testing.assert_allclose(pooled[3], ROWS[:3].mean(0))
    np.testing.assert_allclose(pooled[4], ROWS[3:].mean(0))


def test_thumbnails_are_means() -> None:
    picture = scene(32, 16)
    expected = picture.reshape(3, 8, 4, 8, 2).mean((2, 4)).flatten()
    np.testing.assert_allclose(thumbnail(NamedPicture("x", picture)), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_pictures_of_several_sizes_are_rows() -> None:
    torch.manual_seed(0)
    model = SCVAE(TINY).eval()
    pictures = [NamedPicture(str(i), scene(*size, seed=i)) for i, size in enumerate([(16, 16), (33, 18), (16, 16)])]
    kinds = [Descriptor.parse(text) for text in ("codes", "codes:use:2", "latents:mean", "pixels:signs", "thumbnail")]
    names, rows = describe(model, pictures, kinds)
    assert names == ["0", "1", "2"]
    assert [rows[kind].shape for kind in kinds] == [(3, 48), (3, 120), (3, 16), (3, 24), (3, 192)]
    for i, own in enumerate(cells_of(model, pictures, "codes")):
        np.testing.assert_allclose(rows[kinds[0]][i], np.sqrt(pool(own, "signs", 1)), rtol=1e-6)
        np.testing.assert_allclose(rows[kinds[1]][i], np.sqrt(pool(own, "use", 2)), rtol=1e-6)
    for i, own in enumerate(cells_of(model, pictures, "latents")):
        mean = pool(own, "mean", 1)
        np.testing.assert_allclose(rows[kinds[2]][i], np.sign(mean) * np.sqrt(abs(mean)), rtol=1e-6)
    for i, own in enumerate(cells_of(model, pictures, "pixels")):
        np.testing.assert_array_equal(rows[kinds[3]][i], pool(own, "signs", 1))


def test_texts() -> None:
    assert Descriptor.parse("codes") == Descriptor("codes", "signs", 1)
    assert Descriptor.parse("latents:max:2") == Descriptor("latents", "max", 2)
    assert str(Descriptor.parse("pixels:mean")) == "pixels:mean:1"
    assert str(Descriptor.parse("thumbnail")) == "thumbnail"
    wrong = {
        "edges": "kind must be one of codes",
        "codes:sum": "pooling must be one of mean",
        "codes:mean:3": "grid must be 1 or 2",
        "codes:mean:x": r"text must be KIND\[:POOLING\[:GRID\]\]",
        "codes:mean:1:1": "text must be",
        "latents:use": 'pooling must be other than "use"',
        "thumbnail:mean": 'text must be "thumbnail" alone, without pooling and grid',
        "thumbnail:signs:1": 'text must be "thumbnail" alone',
    }
    for text, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            Descriptor.parse(text)


def test_thumbnails_are_not_pooled() -> None:
    with pytest.raises(ValueError, match="pooling must be left out for thumbnail, got 'max'"):
        Descriptor("thumbnail", "max")
    with pytest.raises(ValueError, match="grid must be left out for thumbnail, got 2"):
        Descriptor("thumbnail", grid=2)
