from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import scene
from PIL import Image

from scvae_fast.data import PictureError, load_picture, save_picture
from scvae_fast.data.pictures import OpenPicture


def test_png_round_trip_is_exact_in_8_bits(tmp_path: Path) -> None:
    levels = torch.randint(256, (3, 7, 9))
    save_picture(tmp_path / "x.png", levels / 127.5 - 1)
    loaded = load_picture(tmp_path / "x.png")
    assert loaded.dtype == torch.float32
    assert torch.equal(((loaded + 1) * 127.5).round().long(), levels)


def test_values_beyond_the_range_are_clipped(tmp_path: Path) -> None:
    save_picture(tmp_path / "x.png", torch.tensor([-3.0, 3.0]).expand(3, 1, 2))
    assert torch.equal(load_picture(tmp_path / "x.png"), torch.tensor([-1.0, 1.0]).expand(3, 1, 2))


def test_jpeg(tmp_path: Path) -> None:
    picture = scene(24, 40)
    save_picture(tmp_path / "x.jpg", picture)
    assert load_picture(tmp_path / "x.jpg").shape == picture.shape
    assert (load_picture(tmp_path / "x.jpg") - picture).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 51, (-0.6, -0.6, -0.6)),
        ("1", 1, (1, 1, 1)),
        ("RGBA", (255, 0, 0, 0), (1, 1, 1)),
        ("RGBA", (255, 0, 0, 255), (1, -1, -1)),
        ("LA", (0, 255), (-1, -1, -1)),
    ],
)
def test_modes(tmp_path: Path, mode: str, colour: object, expected: tuple[float, ...]) -> None:
    Image.new(mode, (4, 3), colour).save(tmp_path / "x.png")
    loaded = load_picture(tmp_path / "x.png")
    assert loaded.shape == (3, 3, 4)
    torch.testing.assert_close(loaded[:, 0, 0], torch.tensor(expected, dtype=torch.float32))


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (4, 3), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    loaded = load_picture(tmp_path / "x.jpg")
    assert loaded[0].min() > 0.9
    assert loaded[1:].max() < -0.9


def test_sixteen_bits_keep_their_precision(tmp_path: Path) -> None:
    levels = np.array([[0, 1, 40_000, 65_535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "x.png")
    expected = torch.from_numpy(levels.astype(np.float32)) / 65535 * 2 - 1
    torch.testing.assert_close(load_picture(tmp_path / "x.png"), expected.expand(3, 1, 4), atol=1e-7, rtol=0)


def test_orientation_of_the_camera_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be seen turned by a quarter, clockwise
    image.save(tmp_path / "x.png", exif=exif)
    loaded = load_picture(tmp_path / "x.png")
    assert loaded.shape == (3, 4, 2)
    assert loaded[0, 0, 1] == 1


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    save_picture(whole, scene(40, 40))
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:300])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    for name in ("missing.png", "cut.png", "text.png", "empty.jpg"):
        with pytest.raises(PictureError, match=name):
            load_picture(tmp_path / name)
    with pytest.raises(PictureError, match="not a file"):
        load_picture(tmp_path)


def test_only_pictures_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"picture must be \(3, H, W\), got \(1, 3, 8, 8\)"):
        save_picture(tmp_path / "x.png", torch.zeros(1, 3, 8, 8))
    assert not list(tmp_path.iterdir())


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_picture(tmp_path / "a.png", torch.zeros(3, 20, 30))

    def decoded(*arguments: object) -> None:
        raise AssertionError("was decoded")

    with OpenPicture(tmp_path / "a.png", "a", most_pixels=600) as opened:
        assert opened.size == (30, 20)
    monkeypatch.setattr(Image.Image, "load", decoded)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(PictureError, match=r"^a: 30 x 20 = 600 pixels are too many, at most 599 are taken$"):
        OpenPicture(tmp_path / "a.png", "a", most_pixels=599)
