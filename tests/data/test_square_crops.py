"""Against torchvision, with the transforms of the released code."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import scene
from PIL import Image
from torch import Tensor

from scvae_fast import _torchvision
from scvae_fast.data import PlacedCrop, ZoomedCrop, save_picture
from scvae_fast.data.pictures import to_bytes
from scvae_fast.data.square_crops import centre_square, load_centre, load_square

_torchvision.make_importable()
transforms = pytest.importorskip("torchvision.transforms")
SIZES = [(40, 40), (37, 61), (64, 45), (20, 33)]  # height, width


def dice(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def stored(tmp_path: Path, height: int, width: int) -> tuple[Path, Image.Image]:
    save_picture(tmp_path / "x.png", scene(height, width, seed=3))
    return tmp_path / "x.png", Image.open(tmp_path / "x.png").convert("RGB")


def levels(picture: Tensor) -> Tensor:
    return torch.from_numpy(to_bytes(picture)).int()


def of_image(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).int()


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("resolution", [16, 32])
def test_evaluation_is_resize_and_centre_crop(tmp_path: Path, height: int, width: int, resolution: int) -> None:
    path, image = stored(tmp_path, height, width)
    picture = load_centre(path, "x", resolution)
    assert picture.shape == (3, resolution, resolution)
    assert picture.dtype == torch.float32
    expected = transforms.CenterCrop(resolution)(transforms.Resize(resolution)(image))
    assert (levels(picture) - of_image(expected)).abs().max() <= 1
    in_memory = centre_square(scene(height, width, seed=3), resolution)
    assert (in_memory - picture).abs().max() < 0.03


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_placed_crops_are_parts_of_the_resized_picture(tmp_path: Path, height: int, width: int) -> None:
    path, image = stored(tmp_path, height, width)
    resized = transforms.Resize(16)(image)
    places = set()
    for seed in range(40):
        picture = levels(load_square(path, "x", PlacedCrop(16), dice(seed)))
        whole = of_image(resized)
        matches = [
            (top, left, mirrored)
            for top in range(whole.shape[0] - 15)
            for left in range(whole.shape[1] - 15)
            for mirrored in (False, True)
            if (whole[top : top + 16, left : left + 16].flip([1] if mirrored else []) - picture).abs().max() <= 1
        ]
        assert matches, seed
        places.update(matches)
    free = max(whole.shape[:2]) - 16 + 1
    assert len({place[:2] for place in places}) == free
    assert len({place[2] for place in places}) == 2


def test_zoomed_crops_are_crops_resized(tmp_path: Path) -> None:
    path, image = stored(tmp_path, 48, 48)
    for seed in range(10):
        square = ZoomedCrop(16).square((48, 48), dice(seed))
        part = image.crop((square.left, square.top, square.left + square.width, square.top + square.height))
        expected = of_image(part.resize((16, 16), Image.Resampling.BILINEAR))
        picture = levels(load_square(path, "x", ZoomedCrop(16), dice(seed)))
        difference = (picture - (expected.flip(1) if square.mirrored else expected)).abs()
        # At its edges a crop that is resized at once sees the pixels beyond as well.
        assert difference[1:-1, 1:-1].max() <= 1


def test_zoomed_crops_have_the_distribution_of_random_resized_crop() -> None:
    squares = [ZoomedCrop(256).square((1024, 1024), dice(seed)) for seed in range(4000)]
    areas = np.array([square.width * square.height for square in squares]) / 1024**2
    assert 0.749 < areas.min() < areas.max() < 1.001
    # A uniform distribution: mean 7/8, variance (1/4)² / 12; the place is uniform in what the size leaves free.
    assert abs(areas.mean() - 0.875) < 4 * 0.0722 / 4000**0.5
    assert abs(areas.std() - 0.0722) < 0.003
    free = np.array([1024 - square.width for square in squares])
    for place in ("left", "top"):
        shares = np.array([getattr(square, place) for square in squares])[free > 50] / free[free > 50]
        assert shares.min() >= 0
        assert shares.max() <= 1
        assert abs(shares.mean() - 0.5) < 4 * 0.289 / len(shares) ** 0.5
    assert abs(np.mean([square.mirrored for square in squares]) - 0.5) < 4 * 0.5 / 4000**0.5


def test_zoomed_crops_of_oblong_pictures_fit() -> None:
    for seed in range(200):
        square = ZoomedCrop(16).square((90, 30), dice(seed))
        assert 0.84 * 30 < square.width == square.height <= 30
        assert 0 <= square.left <= 90 - square.width
        assert 0 <= square.top <= 30 - square.height


def test_large_jpegs_are_decoded_smaller_and_look_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.fromarray(to_bytes(scene(40, 54))).resize((801, 600)).save(content, "jpeg", quality=95)
    sizes = []
    load = Image.Image.convert

    def note(image: Image.Image, *args: object) -> Image.Image:
        sizes.append(image.size)
        return load(image, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "convert", note)
    for crop in (ZoomedCrop(32), PlacedCrop(32)):
        small = load_square(content.getvalue(), "x", crop, dice())
        with monkeypatch.context() as patch:
            patch.setattr("PIL.JpegImagePlugin.JpegImageFile.draft", lambda *args: None)
            whole = load_square(content.getvalue(), "x", crop, dice())
        assert (small - whole).abs().mean() < 0.01
    assert sizes == [(101, 75), (801, 600)] * 2, "an eighth, which leaves twice the 32 pixels"
    load_centre(content.getvalue(), "x", 32)
    assert sizes[-1] == (801, 600), "evaluation decodes at the full size"


def test_transparency_greys_and_orientation_are_as_in_load_picture(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 24 * 30, dtype=np.uint16).reshape(24, 30)
    Image.fromarray(values).save(tmp_path / "grey.png")
    picture = load_square(tmp_path / "grey.png", "x", ZoomedCrop(24, least=1.0), dice(1))
    assert picture.shape == (3, 24, 24)
    assert len(picture[0].unique()) == 24 * 24, "more than 256 levels"
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert torch.equal(load_square(tmp_path / "clear.png", "x", PlacedCrop(4), dice()), torch.ones(3, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(to_bytes(scene(20, 40))).save(tmp_path / "turned.png", exif=exif)
    save_picture(tmp_path / "upright.png", scene(20, 40).flip(1).transpose(1, 2))
    for seed in range(4):
        turned, upright = (
            load_square(tmp_path / f"{n}.png", n, PlacedCrop(20), dice(seed)) for n in ("turned", "upright")
        )
        assert torch.equal(turned, upright)
