"""Small trees of each layout."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scvae_fast.data import masks
from scvae_fast.data.masks import IGNORED, MaskedFiles, MaskLayout
from scvae_fast.data.pictures import OpenPicture
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
    Image.fromarray(MASK == 1).save(root / "masks/b.png")


def palettes(root: Path) -> None:
    picture(root / "images/a.png")
    save_palette(root / "masks/a.png", MASK)


def save_palette(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette([0, 0, 0, 200, 0, 0, *[255] * 762])
    image.save(path)


def three_pictures(root: Path, *found: np.ndarray) -> MaskedFiles:
    """Two pictures with these masks, and a third without class 1."""
    for name, mask in zip("abc", (*found, 0 * MASK), strict=True):
        picture(root / f"images/{name}.png")
        save(root / f"masks/{name}.png", mask)
    return MaskedFiles(root)


@pytest.mark.parametrize(
    ("layout", "make", "count", "thing"),
    [
        ("flowers102", flowers102, 1, "flower"),
        ("cub", cub, 1, "bird"),
        ("isic", isic, 2, "lesion"),
        ("folder", folder, 2, "1"),
        ("folder", palettes, 1, "1"),
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


def test_255_means_the_same_in_all_masks(tmp_path: Path) -> None:
    unknown = np.where(MASK == 1, 255, 0)
    both = MASK.copy()
    both[2, 0] = 255
    for case, values, expected in (
        ("no class", (unknown, both), (unknown, both)),
        ("no class, found first", (both, unknown), (both, unknown)),
        ("foreground", (unknown, unknown), (MASK, MASK)),
        ("foreground everywhere", (unknown, unknown + 255 * (unknown == 0)), (MASK, np.ones_like(MASK))),
        ("classes alone", (MASK, MASK), (MASK, MASK)),
    ):
        files = three_pictures(tmp_path / case, *values)
        for index in (1, 0):
            np.testing.assert_array_equal(files[index].mask, expected[index], case)
        assert not files[2].mask.any()


def test_255_in_a_palette_image_is_no_class(tmp_path: Path) -> None:
    unknown = np.where(MASK == 1, 255, 0)
    three_pictures(tmp_path, MASK, unknown)
    with pytest.raises(
        UsageError, match=r"a\.png has the value 1, .*b\.png has 255, and no mask has both: .*b\.png as a"
    ):
        MaskedFiles(tmp_path)[2]
    save_palette(tmp_path / "masks/b.png", unknown)
    files = MaskedFiles(tmp_path)
    np.testing.assert_array_equal(files[0].mask, MASK)
    np.testing.assert_array_equal(files[1].mask, unknown)


def test_white_of_one_bit_is_class_1_and_says_nothing_about_255(tmp_path: Path) -> None:
    both = np.where(MASK == 1, 1, 255)
    three_pictures(tmp_path, MASK, both)
    Image.fromarray(MASK == 1).save(tmp_path / "masks/a.png")
    files = MaskedFiles(tmp_path)
    np.testing.assert_array_equal(files[0].mask, MASK)
    np.testing.assert_array_equal(files[1].mask, both)


def test_masks_are_read_once_to_find_the_meaning_of_255(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def recorded(source: Path, name: str) -> OpenPicture:
        opened.append(source.name)
        return OpenPicture(source, name)

    files = three_pictures(tmp_path, 255 * MASK, 255 * MASK)
    monkeypatch.setattr(masks, "OpenPicture", recorded)
    files[0], files[1]
    assert opened == ["a.png", "b.png", "c.png", "a.png", "b.png"]
    three = MaskedFiles(tmp_path, classes=3)
    opened.clear()
    three[0]
    assert opened == ["a.png"]


def test_values_that_are_not_whole(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    (tmp_path / "masks").mkdir()
    for value in (0.5, np.nan, np.inf, -np.inf):
        Image.fromarray(np.where(MASK == 1, value, 0).astype(np.float32)).save(tmp_path / "masks/a.tif")
        for classes in (2, 3):
            with pytest.raises(UsageError, match=r"a\.tif has the value .*, which is not a whole number"):
                MaskedFiles(tmp_path, classes=classes)[0]
    Image.fromarray(MASK.astype(np.float32)).save(tmp_path / "masks/a.tif")
    np.testing.assert_array_equal(MaskedFiles(tmp_path)[0].mask, MASK)


@pytest.mark.parametrize("classes", [-1, 0, 1, 256, 300])
def test_numbers_of_classes_out_of_range(classes: int, tmp_path: Path) -> None:
    folder(tmp_path)
    with pytest.raises(ValueError, match=f"MaskedFiles: classes must be 2 … 255, got {classes}"):
        MaskedFiles(tmp_path, classes=classes)


def test_the_largest_class(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    mask = np.array([254, 255])[MASK]
    save(tmp_path / "masks/a.png", mask)
    files = MaskedFiles(tmp_path, classes=255)
    np.testing.assert_array_equal(files[0].mask, mask)
    assert files.classes[-1] == "254"


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [
        (folder, "masks/deep/a.png", "masks/deep/a.tif"),
        (cub, "segmentations/001.Albatross/A_0001.png", "segmentations/001.Albatross/A_0001.tif"),
        (flowers17, "trimaps/image_0001.png", "trimaps/image_0001.tif"),
        (isic, "Training_GroundTruth/ISIC_0000000_segmentation.png", "z/ISIC_0000000_Segmentation.png"),
    ],
)
def test_two_masks_of_a_picture(make, first: str, second: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path)
    save(tmp_path / second, MASK)
    with pytest.raises(UsageError) as error:
        MaskedFiles(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / first} and {tmp_path / second} are masks of the same picture")


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
