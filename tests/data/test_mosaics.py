import numpy as np
import pytest
import torch

from scvae_fast.data.mosaics import TEXTURES, Mosaics
from scvae_fast.data.photographs import load_photograph


def test_mosaics_are_functions_of_split_seed_and_number() -> None:
    mosaics, again = Mosaics(count=3, side=96), Mosaics(count=2, side=96)
    assert (len(mosaics), mosaics.classes) == (3, TEXTURES)
    torch.testing.assert_close(mosaics[1].picture, again[1].picture)
    np.testing.assert_array_equal(mosaics[1].mask, again[1].mask)
    others = [mosaics[0], Mosaics(seed=1, side=96)[1], Mosaics(split="train", side=96)[1]]
    assert all((other.mask != mosaics[1].mask).any() for other in others)
    with pytest.raises(IndexError, match="index must be below 3, got 3"):
        mosaics[3]


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_pixel_is_of_the_texture_that_the_mask_names(split: str) -> None:
    mosaics = Mosaics(split=split, count=2, side=120, seed=4)  # type: ignore[arg-type]
    for index in range(2):
        _, picture, mask = mosaics[index]
        assert (picture.shape, mask.shape, mask.dtype) == ((3, 120, 120), (120, 120), np.uint8)
        assert set(np.unique(mask)) == set(range(5))
        grey = picture[0].numpy()
        torch.testing.assert_close(picture, picture[:1].expand(3, -1, -1))
        for number, name in enumerate(TEXTURES):
            assert _occurs(grey, mask == number, _half(name, split)), name
            assert not _occurs(grey, mask == number, _half(name, "val" if split == "train" else "train")), name


def _half(name: str, split: str) -> np.ndarray:
    area = load_photograph(name).picture[:, :512, :512].mean(0).numpy()
    half = area[:, :256] if split == "train" else area[:, 256:]
    return np.clip((half - half.mean()) / half.std() * 0.25, -1, 1)


def _occurs(grey: np.ndarray, where: np.ndarray, texture: np.ndarray) -> bool:
    """Whether some shift of the texture has these pixels."""
    side, (rows, columns) = len(grey), np.nonzero(where)
    few = np.random.default_rng(0).choice(len(rows), min(40, len(rows)), replace=False)
    rows, columns, found = rows[few], columns[few], True
    tops, lefts = np.ogrid[: texture.shape[0] - side + 1, : texture.shape[1] - side + 1]
    for row, column in zip(rows, columns, strict=True):
        found = found & (np.abs(texture[tops + row, lefts + column] - grey[row, column]) < 1e-5)
    return bool(np.any(found))


def test_textures_are_equal_in_brightness_and_contrast() -> None:
    mosaics = Mosaics(count=1)
    for texture in mosaics._textures:
        assert abs(texture.mean()) < 0.03  # clipping moves those with bright stars
        assert 0.15 < texture.std() < 0.26


def test_arguments_out_of_range() -> None:
    for arguments in ({"count": 0}, {"side": 300}, {"regions": 4}, {"split": "all"}):
        with pytest.raises(ValueError, match=f"Mosaics: {next(iter(arguments))} must be"):
            Mosaics(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one of the embedded photographs, got 'mars'"):
        load_photograph("mars")
