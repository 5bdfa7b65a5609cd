import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import scene
from PIL import EpsImagePlugin, IcoImagePlugin, Image

from scvae_fast.data import PictureError, load_picture, save_picture
from scvae_fast.data.pictures import FORMATS, OpenPicture, picture_suffixes, to_bytes
from scvae_fast.data.square_crops import centre_square, load_centre
from scvae_fast.errors import UsageError


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


def write_tiff(path: Path, width: int, bits: int, content: bytes, *, white_is_zero: bool, kind: int = 1) -> None:
    """A little-endian TIFF of a single row; kind is 1 for unsigned integers, 3 for floating point."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 0, 277: 1, 278: 1}
    tags |= {279: len(content), 339: kind}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(tags.items()))
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + content)


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_tiffs_state_which_level_is_white(tmp_path: Path, white_is_zero: bool) -> None:
    shares = np.array([0, 0.25, 1])
    expected = torch.from_numpy(1 - 2 * shares if white_is_zero else 2 * shares - 1).float().expand(3, 1, 3)
    for bits, kind, content in (
        (8, 1, (shares * 255).round().astype("<u1").tobytes()),
        (16, 1, (shares * 65535).round().astype("<u2").tobytes()),
        (32, 3, shares.astype("<f4").tobytes()),
    ):
        path = tmp_path / f"{bits}.tif"
        write_tiff(path, 3, bits, content, white_is_zero=white_is_zero, kind=kind)
        torch.testing.assert_close(load_picture(path), expected, atol=0.005 if bits == 8 else 2e-5, rtol=0)


def test_twelve_bits_end_at_white(tmp_path: Path) -> None:
    # Two levels in three bytes: 0 and 4095, then 1024 and 2048.
    write_tiff(tmp_path / "x.tif", 4, 12, bytes.fromhex("000fff 400800"), white_is_zero=False)
    expected = torch.tensor([0, 4095, 1024, 2048]) / 4095 * 2 - 1
    torch.testing.assert_close(load_picture(tmp_path / "x.tif"), expected.expand(3, 1, 4), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65_535)])
def test_a_transparent_level_becomes_white(tmp_path: Path, dtype: type, white: int) -> None:
    Image.fromarray(np.array([[0, 51, white]], dtype)).save(tmp_path / "x.png", transparency=51)
    assert load_picture(tmp_path / "x.png")[0, 0].tolist() == [-1, 1, 1]
    Image.fromarray(np.array([[0, 51, white]], dtype)).save(tmp_path / "x.png", transparency=0)
    assert load_picture(tmp_path / "x.png")[0, 0].tolist() == [1, pytest.approx(51 / white * 2 - 1), 1]


# Each mode with a format that keeps it.
MODES = [
    ("1", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("RGB", "png"), ("RGBA", "png"), ("I;16", "png"),
    ("L", "jpg"), ("RGB", "jpg"), ("CMYK", "jpg"), ("RGB", "webp"), ("RGBA", "webp"), ("RGB", "bmp"), ("P", "gif"),
    ("RGB", "tga"), ("RGB", "ppm"), ("RGB", "jp2"),
    ("1", "tif"), ("L", "tif"), ("LA", "tif"), ("PA", "tif"), ("P", "tif"), ("RGB", "tif"), ("RGBA", "tif"),
    ("CMYK", "tif"), ("LAB", "tif"), ("I", "tif"), ("I;16", "tif"), ("I;16B", "tif"), ("F", "tif"),
]  # fmt: skip


def in_mode(mode: str, levels: np.ndarray) -> Image.Image:
    """A grey picture (H, W), of 0 and 255, in another mode."""
    if mode == "I;16":
        return Image.fromarray(levels.astype(np.uint16) * 257)
    if mode == "I;16B":
        return Image.fromarray((levels.astype(np.uint16) * 257).astype(">u2"))
    if mode == "I":
        return Image.fromarray(levels.astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(levels.astype(np.float32) / 255)
    if mode == "LAB":
        return Image.merge("LAB", [Image.fromarray(each) for each in (levels, *[np.full_like(levels, 128)] * 2)])
    return Image.fromarray(levels).convert("L" if mode in ("P", "PA") else mode).convert(mode)


@pytest.mark.parametrize(("mode", "suffix"), MODES)
def test_every_mode_and_orientation(tmp_path: Path, mode: str, suffix: str) -> None:
    levels = np.zeros((16, 24), np.uint8)
    levels[:8, :16] = 255
    expected = {1: levels, 2: levels[:, ::-1], 3: levels[::-1, ::-1], 4: levels[::-1], 5: levels.T,
                6: levels.T[:, ::-1], 7: levels[::-1, ::-1].T, 8: levels.T[::-1]}  # fmt: skip
    image = in_mode(mode, levels)
    for orientation, seen in expected.items():
        path = tmp_path / f"{orientation}.{suffix}"
        exif = Image.Exif()
        exif[0x0112] = orientation
        if suffix in ("png", "jpg", "webp", "tif"):
            image.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
        elif orientation > 1:
            break  # a format without EXIF
        else:
            image.save(path)
        whole = load_picture(path)
        assert whole.shape == (3, *seen.shape), orientation
        assert np.abs(to_bytes(whole).astype(int) - seen[..., None]).max() < 40, orientation
        with OpenPicture(path, "") as opened:
            assert opened.size == (seen.shape[1], seen.shape[0])
        square = load_centre(path, "", 16)
        assert (square - centre_square(whole, 16)).abs().max() < 0.2, orientation
        if mode in ("P", "L"):
            with OpenPicture(path, "") as opened:
                assert opened.decode_levels().mode in ("P", "L")
                assert opened.decode_levels().size == (seen.shape[1], seen.shape[0])


@pytest.mark.parametrize(
    "levels",
    [
        np.array([[0.0, 255.0]], np.float32),
        np.array([[0.0, np.nan]], np.float32),
        np.array([[-0.5, 0.5]], np.float32),
        np.array([[0, 70_000]], np.int32),
        np.array([[-1000, 0]], np.int32),
    ],
)
def test_levels_beyond_black_and_white_are_refused(tmp_path: Path, levels: np.ndarray) -> None:
    Image.fromarray(levels).save(tmp_path / "x.tif")
    with pytest.raises(PictureError, match=r"x\.tif: grey levels must be 0 … (1 in float32|65535 in int32), got"):
        load_picture(tmp_path / "x.tif")


def test_a_picture_with_damaged_exif_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2), "white").save(tmp_path / "x.jpg", exif=b"Exif\0\0damaged, not TIFF")
    assert load_picture(tmp_path / "x.jpg").shape == (3, 2, 4)


class TestFormats:
    """One list, for data and for the page."""

    def test_formats_that_run_programs_or_decode_early_are_excluded(self) -> None:
        assert not {".eps", ".ps", ".wmf", ".emf", ".ico", ".icns", ".pdf", ".h5"} & picture_suffixes()
        assert {".png", ".jpg", ".jpeg", ".mpo", ".webp", ".tif", ".tiff", ".bmp", ".gif"} <= picture_suffixes()
        assert "EPS" not in FORMATS

    def test_formats_do_not_depend_on_the_suffix(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def opened(*arguments: object) -> None:
            raise AssertionError("its own code ran")

        content = {
            "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{} loop\n%%EOF\n",
            "ico.jpg": _ico(),
        }
        monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "_open", opened)
        monkeypatch.setattr(IcoImagePlugin.IcoImageFile, "_open", opened)
        for name, data in content.items():
            (tmp_path / name).write_bytes(data)
            with pytest.raises(PictureError, match=f"{name}: not a picture of a known format"):
                load_picture(tmp_path / name)

    def test_the_limit_can_be_raised(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Image.new("L", (100, 50)).save(tmp_path / "a.png")
        monkeypatch.setenv("SCVAE_FAST_MAX_MEGAPIXELS", "0.004")
        with pytest.raises(PictureError, match=r"5,000 pixels are too many, at most 4,000 are allowed \(SCVAE_"):
            load_picture(tmp_path / "a.png")
        monkeypatch.setenv("SCVAE_FAST_MAX_MEGAPIXELS", "0.005")
        assert load_picture(tmp_path / "a.png").shape == (3, 50, 100)
        monkeypatch.setenv("SCVAE_FAST_MAX_MEGAPIXELS", "many")
        with pytest.raises(UsageError, match="SCVAE_FAST_MAX_MEGAPIXELS must be a positive number, got 'many'"):
            load_picture(tmp_path / "a.png")


def _ico() -> bytes:
    content = io.BytesIO()
    Image.new("1", (16, 16)).save(content, "PNG")
    png = content.getvalue()
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png


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

    with OpenPicture(tmp_path / "a.png", "a", most=600) as opened:
        assert opened.size == (30, 20)
    monkeypatch.setattr(Image.Image, "load", decoded)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    with pytest.raises(PictureError, match=r"^a: 30 x 20 = 600 pixels are too many, at most 599 are allowed$"):
        OpenPicture(tmp_path / "a.png", "a", most=599)
