"""Small trees of each layout."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scvae_fast.data.masks import IGNORED, MaskedFiles, MaskLayout
from scvae_fast.errors import UsageError

MASK = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]], dtype=np.uint8)


def save(path: Path, values: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path, **options)
    return path


def picture(path: Path, size: tuple[int, int] = MASK.shape) -> None:
    save(path, np.full((*size, 3), 90))


def flowers17(root: Path) -> None:
    colours = np.array([(128, 128, 0), (128, 0, 0)])
    trimap = colours[MASK]
    trimap[2, 4], trimap[0, 4] = (0, 0, 0), (128, 128, 128)
    picture(root / "jpg/image_0001.jpg")
    picture(root / "jpg/image_0002.jpg")  # which has no trimap, as most of them
    save(root / "trimaps/image_0001.png", trimap)


def flowers102(root: Path) -> None:
    picture(root / "jpg/image_00001.jpg")
    large = np.kron(MASK, np.ones((16, 16), int))
    picture(root / "jpg/image_00001.jpg", large.shape)
    save(root / "segmim/segmim_00001.jpg", np.array([(0, 0, 254), (200, 60, 120)])[large], quality=95, subsampling=0)


def cub(root: Path) -> None:
    picture(root / "images/001.Albatross/A_0001.jpg")
    save(root / "segmentations/001.Albatross/A_0001.png", np.array([51, 204])[MASK])


def isic(root: Path) -> None:
    for number, suffix in (("0000000", "segmentation"), ("0000001", "Segmentation")):
        picture(root / f"Training_Data/ISIC_{number}.jpg")
        save(root / f"Training_GroundTruth/ISIC_{number}_{suffix}.png", 255 * MASK)


def folder(root: Path) -> None:
    picture(root / "images/deep/a.jpg")
    save(root / "masks/deep/a.png", 255 * MASK)
    picture(root / "images/b.png")
    palette = Image.fromarray(MASK)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.save(root / "masks/b.png")


@pytest.mark.parametrize(
    ("layout", "make", "count", "thing"),
    [
        ("flowers102", flowers102, 1, "flower"),
        ("cub", cub, 1, "bird"),
        ("isic", isic, 2, "lesion"),
        ("folder", folder, 2, "1"),
    ],
)
def test_layouts(layout: str, make, count: int, thing: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path)
    files = MaskedFiles(tmp_path)
    assert (files.layout, len(files), files.classes[1]) == (layout, count, thing)
    for index in range(count):
        labelled = files[index]
        assert labelled.picture.shape[1:] == labelled.mask.shape
        scale = labelled.mask.shape[0] // 3
        np.testing.assert_array_equal(labelled.mask[scale // 2 :: scale, scale // 2 :: scale], MASK)


def test_trimaps_leave_pixels_out(tmp_path: Path) -> None:
    flowers17(tmp_path)
    files = MaskedFiles(tmp_path)
    assert (files.layout, len(files), files[0].name) == ("flowers17", 1, "image_0001.jpg")
    expected = MASK.copy()
    expected[2, 4] = IGNORED
    np.testing.assert_array_equal(files[0].mask, expected)
    save(tmp_path / "trimaps/image_0001.png", np.full((*MASK.shape, 3), 7))
    with pytest.raises(UsageError, match=r"image_0001.png has the colour \(7, 7, 7\), which trimaps don't have"):
        files[0]


def test_several_classes(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    save(tmp_path / "masks/a.png", np.array([2, 255])[MASK])
    mask = MaskedFiles(tmp_path, classes=3)[0].mask
    np.testing.assert_array_equal(mask, np.array([2, IGNORED])[MASK])
    with pytest.raises(UsageError, match=r"a\.png has the value 2, which is not among the 2 classes 0 … 1"):
        MaskedFiles(tmp_path)[0]
    save(tmp_path / "masks/a.png", np.full((*MASK.shape, 3), 7))
    with pytest.raises(UsageError, match=r"a\.png has colours"):
        MaskedFiles(tmp_path)[0]
    save(tmp_path / "masks/a.png", MASK == 1)
    np.testing.assert_array_equal(MaskedFiles(tmp_path)[0].mask, MASK)


def test_lesions_are_0_or_255(tmp_path: Path) -> None:
    isic(tmp_path)
    path = save(tmp_path / "Training_GroundTruth/ISIC_0000000_segmentation.png", 254 * MASK)
    with pytest.raises(UsageError, match=f"{path.name} has the value 254, which is neither 0 nor 255"):
        MaskedFiles(tmp_path)[0]


def test_masks_that_are_missing_or_of_another_size(tmp_path: Path) -> None:
    folder(tmp_path)
    save(tmp_path / "masks/b.png", MASK[:2])
    with pytest.raises(UsageError, match=r"b\.png has 5 x 2 pixels, its picture 5 x 3"):
        MaskedFiles(tmp_path)
    (tmp_path / "masks/b.png").unlink()
    (tmp_path / "masks/deep/a.png").unlink()
    save(tmp_path / "masks/other.png", MASK)
    with pytest.raises(UsageError, match=r"masks/b\.png is missing, and 1 more: each picture needs a mask"):
        MaskedFiles(tmp_path)
    (tmp_path / "masks/b.png").write_text("no picture")
    save(tmp_path / "masks/deep/a.png", MASK)
    with pytest.raises(UsageError, match=r"masks/b\.png: not a picture"):
        MaskedFiles(tmp_path)


def test_data_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        MaskedFiles(tmp_path / "x")
    with pytest.raises(UsageError, match="no known layout of masks"):
        MaskedFiles(tmp_path)
    cub(tmp_path)
    with pytest.raises(UsageError, match="masks of the layout cub have 2 classes, not 3"):
        MaskedFiles(tmp_path, classes=3)
    tree: MaskLayout = "tree"  # type: ignore[assignment]
    with pytest.raises(UsageError, match="the layout of masks must be one of auto, folder"):
        MaskedFiles(tmp_path, layout=tree)


def test_a_mask_is_turned_as_its_picture_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "images/a.png", np.full((*MASK.shape, 3), 90), exif=exif)
    save(tmp_path / "masks/a.png", MASK, exif=exif)
    save(tmp_path / "images/b.png", np.full((*MASK.T.shape, 3), 90))
    save(tmp_path / "masks/b.tif", MASK, exif=exif)
    for found in MaskedFiles(tmp_path):
        assert found.picture.shape[1:] == found.mask.shape
        assert np.array_equal(found.mask, MASK.T[:, ::-1])
