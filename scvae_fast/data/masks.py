"""Pictures with masks, one class per pixel: the layouts of known data sets, and plain folders."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar, get_args

import numpy as np
from PIL import Image
from torch import Tensor

from scvae_fast.data.files import list_folder
from scvae_fast.data.pictures import OpenPicture, PictureError, load_picture
from scvae_fast.errors import UsageError

MaskLayout = Literal["auto", "folder", "flowers17", "flowers102", "cub", "isic"]

IGNORED = 255  # in a mask: no class; not counted
CLASS_COUNTS = range(2, IGNORED + 1)  # possible numbers of classes: the largest class is below IGNORED

T = TypeVar("T")


class MaskedPicture(NamedTuple):
    """A picture and the class of each of its pixels."""

    name: str
    picture: Tensor  # (3, H, W) in −1 … 1
    mask: np.ndarray  # (H, W) uint8: 0 … C − 1, or IGNORED


class MaskedPictures(Protocol):
    """Pictures with masks, read on demand."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the C classes."""

    def __len__(self) -> int:
        """Number of pictures."""

    def __getitem__(self, index: int) -> MaskedPicture:
        """Picture `index`, 0 … len − 1."""


class _Pair(NamedTuple):
    name: str
    picture: Path
    mask: Path


class MaskedFiles:
    """Pictures and masks in files.

    | layout | pictures | masks |
    |---|---|---|
    | folder | images/NAME.any | masks/NAME.any, grey or palette: classes 0 … C − 1 and 255 for none; or 0 and 255 |
    | flowers17 | jpg/image_0001.jpg | trimaps/image_0001.png, for some: red and grey are the flower, black no class |
    | flowers102 | jpg/image_00001.jpg | segmim/segmim_00001.jpg: blue is the background |
    | cub | images/CLASS/NAME.jpg | segmentations/CLASS/NAME.png: the bird where most annotators say so, above 127 |
    | isic | ISIC_0000000.jpg in any folder | ISIC_0000000_segmentation.png or _Segmentation.png: 0 and 255 |

    All but "folder" are written from the descriptions of their data sets, and not tested on the real files.

    In the layout "folder" with two classes, 255 has one meaning in the whole data set. It is class 1 if the masks have
    only the values 0 and 255. It is no class if a mask has both 1 and 255, or if a palette image has 255. Masks of one
    bit have classes 0 and 1, and are not considered for this. The masks are read once to decide, before one is used.

    Args:
        root: the folder that contains these.
        layout: "auto" detects it.
        classes: C, 2 … 255, for the layout "folder"; others have two.

    Raises:
        ValueError: classes is out of range.
        UsageError: root is not such a folder, a picture has no mask or two, or a mask differs in size; also, on reading
            a mask, if it has a value that is not a class, or if some masks have 1, others 255, and none both. The
            message names the files.
    """

    def __init__(self, root: str | os.PathLike[str], *, layout: MaskLayout = "auto", classes: int = 2) -> None:
        root = Path(root)
        if layout not in get_args(MaskLayout):
            raise UsageError(f"the layout of masks must be one of {', '.join(get_args(MaskLayout))}, got {layout!r}")
        if classes not in CLASS_COUNTS:
            raise ValueError(f"MaskedFiles: classes must be {CLASS_COUNTS[0]} … {CLASS_COUNTS[-1]}, got {classes}")
        self.layout = _layout_of(root) if layout == "auto" else layout
        if self.layout != "folder" and classes != 2:
            raise UsageError(f"{root}: masks of the layout {self.layout} have 2 classes, not {classes}")
        self.classes = {"flowers17": _FLOWER, "flowers102": _FLOWER, "cub": _BIRD, "isic": _LESION}.get(
            self.layout, tuple(map(str, range(classes)))
        )
        self._pairs = list(_PAIRS[self.layout](root))
        if not self._pairs:
            raise UsageError(f"{root}: no pictures with masks here (layout {self.layout})")
        _check(self._pairs)

    def __len__(self) -> int:
        """Number of pictures with masks."""
        return len(self._pairs)

    def __getitem__(self, index: int) -> MaskedPicture:
        """Read a picture and its mask."""
        pair = self._pairs[index]
        try:
            picture = load_picture(pair.picture)
        except PictureError as error:
            raise UsageError(str(error)) from error
        return MaskedPicture(pair.name, picture, _from_mask(pair.mask, self._reader))

    @cached_property
    def _reader(self) -> Callable[[Image.Image], np.ndarray]:
        if self.layout in _READERS:
            return _READERS[self.layout]
        n_classes = len(self.classes)
        if n_classes == 2 and _white_is_class_1(pair.mask for pair in self._pairs):
            return _white
        return partial(_indices, classes=n_classes)


_FLOWER, _BIRD, _LESION = ("background", "flower"), ("background", "bird"), ("background", "lesion")


def _layout_of(root: Path) -> str:
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    for layout, folders in (
        ("flowers17", ("jpg", "trimaps")),
        ("flowers102", ("jpg", "segmim")),
        ("cub", ("images", "segmentations")),
        ("folder", ("images", "masks")),
    ):
        if all((root / folder).is_dir() for folder in folders):
            return layout
    if any(_ISIC.fullmatch(path.name) for path in root.rglob("ISIC_*")):
        return "isic"
    raise UsageError(
        f"{root}: no known layout of masks; expected the folders images/ and masks/, jpg/ and trimaps/ or segmim/ "
        "(Oxford flowers), images/ and segmentations/ (CUB), or files ISIC_0000000_segmentation.png"
    )


def _same_names(pictures: str, masks: str, root: Path) -> Iterator[_Pair]:
    """Files with the same path below two folders, apart from their suffixes."""
    by_stem = _unique((os.path.splitext(name)[0], path) for name, path in _listed(root / masks))
    for name, path in _listed(root / pictures):
        stem = os.path.splitext(name)[0]
        yield _Pair(name, path, by_stem.get(stem, root / masks / f"{stem}.png"))


def _flowers17(root: Path) -> Iterator[_Pair]:
    by_stem = _unique((os.path.splitext(name)[0], path) for name, path in _listed(root / "trimaps"))
    for stem, path in by_stem.items():
        yield _Pair(f"{stem}.jpg", root / "jpg" / f"{stem}.jpg", path)


def _flowers102(root: Path) -> Iterator[_Pair]:
    for name, path in _listed(root / "jpg"):
        yield _Pair(name, path, root / "segmim" / Path(name).name.replace("image_", "segmim_", 1))


_ISIC = re.compile(r"(ISIC_\d+)_[sS]egmentation\.png")


def _isic(root: Path) -> Iterator[_Pair]:
    files = _listed(root)
    masks = _unique((found[1], path) for _, path in files if (found := _ISIC.fullmatch(path.name)))
    for name, path in files:
        if re.fullmatch(r"ISIC_\d+", path.stem) and path.suffix.lower() in (".jpg", ".jpeg"):
            yield _Pair(name, path, masks.get(path.stem, path.with_name(f"{path.stem}_segmentation.png")))


def _unique(masks: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Masks by the names of their pictures, of which none may have two."""
    found: dict[str, Path] = {}
    for name, path in masks:
        if name in found:
            raise UsageError(f"{found[name]} and {path} are masks of the same picture: remove one of them")
        found[name] = path
    return found


def _listed(root: Path) -> list[tuple[str, Path]]:
    files = list_folder(root)
    return [(files.name(index), files.source(index)) for index in range(len(files))]


_PAIRS: dict[str, Callable[[Path], Iterator[_Pair]]] = {
    "folder": partial(_same_names, "images", "masks"),
    "cub": partial(_same_names, "images", "segmentations"),
    "flowers17": _flowers17,
    "flowers102": _flowers102,
    "isic": _isic,
}


def _check(pairs: list[_Pair]) -> None:
    """Check that all files exist and masks have the sizes of their pictures; only headers are read."""
    missing = [path for pair in pairs for path in (pair.picture, pair.mask) if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]} is missing{_and_more(len(missing))}: each picture needs a mask")
    wrong = []
    for pair in pairs:
        try:
            with (
                OpenPicture(pair.picture, str(pair.picture)) as picture,
                OpenPicture(pair.mask, str(pair.mask)) as mask,
            ):
                if picture.size != mask.size:
                    wrong.append((pair.mask, mask.size, picture.size))
        except PictureError as error:
            raise UsageError(str(error)) from error
    if wrong:
        path, found, expected = wrong[0]
        raise UsageError(
            f"the mask {path} has {found[0]} x {found[1]} pixels, its picture {expected[0]} x {expected[1]}"
            f"{_and_more(len(wrong))}"
        )


def _and_more(count: int) -> str:
    return f", and {count - 1} more" if count > 1 else ""


def _from_mask(path: Path, read: Callable[[Image.Image], T]) -> T:
    """What one of the functions below returns for a mask; their ValueError says what is wrong with it."""
    try:
        with OpenPicture(path, f"the mask {path}") as opened:
            return read(opened.decode_levels())
    except PictureError as error:
        raise UsageError(str(error)) from error
    except ValueError as error:
        raise UsageError(f"the mask {path} has {error}") from error


def _white_is_class_1(masks: Iterable[Path]) -> bool:
    """Whether 255 is class 1 in a data set with two classes, see `MaskedFiles`; reads masks until that is certain."""
    with_1, with_255 = None, None
    for path in masks:
        values, has_palette = _from_mask(path, _levels)
        if 255 in values:
            if 1 in values or has_palette:
                return False
            with_255 = with_255 or path
        elif 1 in values:
            with_1 = with_1 or path
    if with_1 and with_255:
        raise UsageError(
            f"{with_1} has the value 1, {with_255} has 255, and no mask has both: if 255 is the foreground, write 1 "
            f"in its place; if it is no class, save {with_255.name} as a palette image"
        )
    return with_255 is not None


def _levels(image: Image.Image) -> tuple[set[int], bool]:
    """The values in a mask of two classes, and whether it has a palette. Values of one bit say nothing about 255."""
    values = _indices(image, 2)
    return set() if image.mode == "1" else set(np.unique(values).tolist()), image.mode == "P"


# Readers of masks: an image -> (H, W) uint8; their ValueError names the value that is not a class.


def _indices(image: Image.Image, classes: int) -> np.ndarray:
    values = np.asarray(image)
    if values.ndim == 3:
        raise ValueError(f"colours (mode {image.mode}); it must have one value for each pixel")
    for value in np.unique(values):
        if not float(value).is_integer():
            raise ValueError(f"the value {value:g}, which is not a whole number")
        if not 0 <= value < classes and value != IGNORED:
            raise ValueError(f"the value {int(value)}, which is not among the {classes} classes 0 … {classes - 1}")
    return values.astype(np.uint8)


def _white(image: Image.Image) -> np.ndarray:
    return (np.asarray(image) > 0).astype(np.uint8)


def _two_greys(image: Image.Image) -> np.ndarray:
    values = np.asarray(image.convert("L"))
    unknown = np.setdiff1d(values, (0, 255))
    if len(unknown):
        raise ValueError(f"the value {unknown[0]}, which is neither 0 nor 255")
    return (values > 0).astype(np.uint8)


def _majority(image: Image.Image) -> np.ndarray:
    return (np.asarray(image.convert("L")) > 127).astype(np.uint8)


def _not_blue(image: Image.Image) -> np.ndarray:
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")), 2, 0)
    return (~((red < 64) & (green < 64) & (blue > 192))).astype(np.uint8)  # JPEG: 0, 0, 254, but not exactly


_TRIMAP = {(0, 0, 0): IGNORED, (128, 0, 0): 1, (128, 128, 128): 1, (128, 128, 0): 0, (0, 128, 0): 0}


def _trimap(image: Image.Image) -> np.ndarray:
    colours, place = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0, return_inverse=True)
    named = [(int(red), int(green), int(blue)) for red, green, blue in colours]
    if unknown := [colour for colour in named if colour not in _TRIMAP]:
        raise ValueError(f"the colour {unknown[0]}, which trimaps don't have")
    classes = np.array([_TRIMAP[colour] for colour in named], dtype=np.uint8)
    return classes[place].reshape(image.height, image.width)


_READERS: dict[str, Callable[[Image.Image], np.ndarray]] = {
    "cub": _majority,
    "isic": _two_greys,
    "flowers17": _trimap,
    "flowers102": _not_blue,
}
