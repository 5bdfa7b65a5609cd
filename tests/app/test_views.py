"""The contents of the page, computed without a page."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import TINY, scene

from scvae_fast.app import views
from scvae_fast.codes import SparseCodes
from scvae_fast.codes.tiling import reconstruct_tiled
from scvae_fast.data import save_picture
from scvae_fast.data.pictures import PictureError, load_picture, to_bytes
from scvae_fast.models import SCVAE
from scvae_fast.models.atoms import decode_atoms


@pytest.fixture(scope="module")
def model() -> SCVAE:
    torch.manual_seed(0)
    return SCVAE(TINY).eval()


@pytest.fixture(scope="module")
def view(model: SCVAE) -> views.View:
    return views.look(model, scene(37, 50))


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size without its pixels: decoding it would fail."""

    def chunk(content: bytes) -> bytes:
        return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))

    header = chunk(b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT")


def test_a_view_is_what_the_library_says(model: SCVAE, view: views.View) -> None:
    expected = reconstruct_tiled(model, scene(37, 50))
    torch.testing.assert_close(view.x_hat, expected.x_hat)
    error = (view.x_hat.double() - scene(37, 50).double()).square().mean()
    assert view.psnr == pytest.approx(10 * np.log10(4 / float(error)))
    assert torch.equal(view.codes.usage(), expected.usage)
    sizes = view.codes.counts.astype(int)
    K = TINY.n_atoms
    choices = sum(np.log2(float(np.prod(np.arange(K - s + 1, K + 1) / np.arange(1, s + 1)))) for s in sizes)
    bits = len(sizes) * np.log2(K + 1) + choices + 16 * sizes.sum()
    assert view.bits_per_pixel == pytest.approx(bits / (37 * 50))


def test_density_is_painted_where_codes_are_long(view: views.View) -> None:
    stride = TINY.stride
    counts = np.zeros(view.codes.h * view.codes.w, np.uint16)
    counts[3] = 5  # the fourth cell of the first row
    codes = SparseCodes(
        view.codes.h, view.codes.w, TINY.n_atoms, counts, np.arange(5, dtype=np.uint16), np.ones(5, "f")
    )
    painted = views.density_map(view._replace(codes=codes), stride)
    assert painted.shape == (37, 50, 3)
    coloured = painted.max(2) != painted.min(2)
    assert coloured[:stride, 3 * stride : 4 * stride].all()
    assert coloured.sum() == stride**2


def test_clusters_find_groups_of_codes_and_are_numbered_by_size(view: views.View) -> None:
    dense = torch.zeros(4, 6, TINY.n_atoms)
    dense[:, :3, 2] = 4.0
    dense[:, 3:, 5] = -4.0
    dense[0, 0] = 0
    dense[0, 0, 9] = 8.0
    labels = views.cluster(SparseCodes.of(dense), 3)
    expected = np.array([[2, 1, 1, 0, 0, 0]] + [[1, 1, 1, 0, 0, 0]] * 3)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(views.cluster(SparseCodes.of(dense), 12), expected)
    with pytest.raises(ValueError, match=r"n_clusters must be 1 … 12, got 13"):
        views.cluster(view.codes, 13)


def test_many_cells_are_clustered_from_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = torch.zeros(10, 20, 4)
    dense[:, :12, 0] = 1.0
    dense[:, 12:, 1] = 1.0
    monkeypatch.setattr(views, "_CELLS_FOR_MEANS", 50)
    labels = views.cluster(SparseCodes.of(dense), 2)
    np.testing.assert_array_equal(labels, np.repeat([[0] * 12 + [1] * 8], 10, 0))


def test_cells_have_the_colour_of_their_cluster(view: views.View) -> None:
    labels = np.zeros((view.codes.h, view.codes.w), int)
    labels[0, 1] = 1
    black = view._replace(picture=torch.full((3, 37, 50), -1.0))
    painted = views.cluster_map(views.kept(black), TINY.stride, labels).astype(float)
    for cell, colour in ((0, views.PALETTE[0]), (1, views.PALETTE[1])):
        expected = [0.6 * int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        np.testing.assert_allclose(painted[0, cell * TINY.stride], expected, atol=0.51)
    assert len(set(views.PALETTE)) == views.MOST_CLUSTERS


def test_atoms_are_those_asked_for_enlarged(model: SCVAE) -> None:
    pictures = views.atom_pictures(model, torch.tensor([5, 2]))
    patches = decode_atoms(model)[[5, 2]]
    for picture, patch in zip(pictures, patches, strict=True):
        assert picture.shape == (96, 96, 3)
        np.testing.assert_array_equal(picture[::16, ::16], to_bytes(patch / patch.abs().max()))


def test_pictures_within_the_limits_are_read(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", scene(20, 30))
    limits = views.Limits(megapixels=600e-6)
    assert torch.equal(views.read_picture(tmp_path / "a.png", limits), load_picture(tmp_path / "a.png"))
    with pytest.raises(PictureError, match=r"^a\.png: 30 x 20 = 600 pixels are too many, at most 599 are allowed$"):
        views.read_picture(tmp_path / "a.png", views.Limits(megapixels=599e-6))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png_header(5000, 5000), "5000 x 5000 = 25,000,000 pixels are too many, at most 4,000,000 are allowed"),
        (png_header(60_000, 60_000), "too large to be opened safely"),
        (b"no picture", "not a picture of a known format"),
        (png_header(10, 10), "can't be read"),
        (bytes(2**20 + 1), "has 1.0 MiB; at most 1 MiB are allowed"),
    ],
    ids=["large", "bomb", "text", "cut", "heavy"],
)
def test_large_or_broken_files_are_refused_before_decoding(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(PictureError, match=f"^b.png: {message}"):
        views.read_picture(tmp_path / "b.png", views.Limits(mebibytes=1))
