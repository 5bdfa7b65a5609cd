"""Pictures with classes: class folders, patches of the embedded photographs, scikit-learn's digits."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from scvae_fast._extras import extra
from scvae_fast.data.files import Files, Names, Split, left_out, list_classes, list_imagenet, looks_like_imagenet
from scvae_fast.data.photographs import Photograph, held_out_photographs, training_photographs
from scvae_fast.data.stream import NamedPicture, PictureStream, comes_with_the_package
from scvae_fast.errors import UsageError

PATCHES, DIGITS = "patches", "digits"
# `motorcycle_right` is the other half of a stereo pair with `motorcycle_left`: nearly the same picture.
_TWIN = "motorcycle_right"


@dataclass(frozen=True, eq=False)
class LabelledPictures:
    """Pictures, their classes, and their division into parts for training and testing.

    Args:
        data: description, for records.
        pictures: can be iterated over repeatedly, in a fixed order; unreadable ones are skipped.
        labels: class index by picture name.
        classes: names of the classes, each of which has pictures.
        parts: 0 or 1 by picture name if the data has two parts that must not be mixed; otherwise None.
        exchangeable: whether the two parts may be exchanged: testing on part 0, training on part 1.
    """

    data: str
    pictures: Iterable[NamedPicture]
    labels: dict[str, int]
    classes: tuple[str, ...]
    parts: dict[str, int] | None = None
    exchangeable: bool = False


def open_labelled(
    data: str | os.PathLike[str], side: int | None, *, per_class: int | None = None, seed: int = 0
) -> LabelledPictures:
    """Open the labelled pictures that `data` names.

    Args:
        data: a folder with CLASS/…, or with train/CLASS/… and val/CLASS/…; "patches" or "digits", unless there is a
            folder of that name.
        side: of the squares into which pictures are cropped; None keeps pictures from folders whole.
        per_class: largest number of pictures per class (and per part of it), drawn with the seed.
        seed: of that draw.

    Raises:
        UsageError: there is no such folder, it has no pictures, or a picture lies outside the class folders.
    """
    if comes_with_the_package(data, PATCHES):
        return photograph_patches(side or 64, per_class=per_class or 24, seed=seed)
    if comes_with_the_package(data, DIGITS):
        return digits(side or 64, per_class=per_class, seed=seed)
    root = Path(data)
    if looks_like_imagenet(root):
        if left_out(root, "imagenet"):
            print(f"{data} is laid out like ImageNet: pictures outside train/ and val/ are left out", file=sys.stderr)
        return _imagenet(root, side, per_class, seed)
    files = _occupied(_drawn(list_classes(root), per_class, seed))
    return LabelledPictures(str(data), PictureStream(files, resize=side), _labels(files), files.classes)


def photograph_patches(
    side: int, *, per_class: int = 24, seed: int = 0, photographs: Iterable[Photograph] | None = None
) -> LabelledPictures:
    """Square patches of photographs; each photograph is a class, and its two ends are the two parts.

    A photograph is divided along its longer side into an end for part 0, an unused strip as wide as a patch, and an end
    for part 1: patches of different parts neither overlap nor touch. Patches of one part don't overlap either.

    Args:
        side: of a patch, in pixels.
        per_class: largest number of patches per end of a photograph, drawn with the seed.
        seed: of that draw.
        photographs: the embedded ones by default, with only one picture of the stereo pair.

    Raises:
        UsageError: a photograph is too small.
    """
    if photographs is None:
        embedded = [*training_photographs(), *held_out_photographs()]
        photographs = [photograph for photograph in embedded if photograph.name != _TWIN]
    dice, patches, labels, parts, names = np.random.default_rng(seed), [], {}, {}, []
    for label, (name, picture, _) in enumerate(photographs):
        names.append(name)
        for part in (0, 1):
            places = _places(picture.shape[1], picture.shape[2], side, part)
            if not places:
                raise UsageError(
                    f"patches of {side} x {side} pixels: {name}, {picture.shape[1]} x {picture.shape[2]}, is too small"
                )
            for index in np.sort(dice.permutation(len(places))[:per_class]):
                top, left = places[index]
                patches.append(
                    NamedPicture(f"{name}/{top:04}-{left:04}", picture[:, top : top + side, left : left + side])
                )
                labels[patches[-1].name], parts[patches[-1].name] = label, part
    return LabelledPictures(PATCHES, patches, labels, tuple(names), parts, exchangeable=True)


def digits(side: int, *, per_class: int | None = None, seed: int = 0) -> LabelledPictures:
    """The 1,797 handwritten digits of 8 x 8 pixels that ship with scikit-learn, white on black, enlarged bilinearly.

    Args:
        side: of a picture, in pixels.
        per_class: largest number of pictures per digit, drawn with the seed.
        seed: of that draw.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    with extra("the digits", "scikit-learn"):
        from sklearn.datasets import load_digits
    levels, kinds = load_digits(return_X_y=True)
    chosen = _draw(kinds, per_class, seed)
    names = [f"{kinds[index]}/{index:04}" for index in chosen]
    pictures = _Enlarged(names, levels[chosen].reshape(-1, 8, 8), side)
    labels = {name: int(kinds[index]) for name, index in zip(names, chosen, strict=True)}
    return LabelledPictures(DIGITS, pictures, labels, tuple(str(kind) for kind in range(10)))


class _Enlarged:
    """Grey pictures with levels 0 … 16, enlarged on iteration."""

    def __init__(self, names: list[str], levels: np.ndarray, side: int) -> None:  # levels: (N, h, w)
        self._names, self._levels, self._side = names, levels, side

    def __iter__(self) -> Iterator[NamedPicture]:
        for name, levels in zip(self._names, self._levels, strict=True):
            grey = torch.from_numpy(levels).float()[None, None] / 8 - 1
            large = F.interpolate(grey, (self._side, self._side), mode="bilinear")[0]
            yield NamedPicture(name, large.expand(3, -1, -1).contiguous())


def _places(height: int, width: int, side: int, part: int) -> list[tuple[int, int]]:
    """Upper left corners (top, left) of the patches of one end, on a grid."""
    long, short = max(height, width), min(height, width)
    room = (long - side) // 2
    first = 0 if part == 0 else long - room
    along = [first + side * index for index in range(room // side)]
    across = [side * index for index in range(short // side)]
    return [(b, a) if width >= height else (a, b) for a in along for b in across]


def _imagenet(root: Path, side: int | None, per_class: int | None, seed: int) -> LabelledPictures:
    splits: tuple[Split, Split] = ("train", "val")
    listed = [_drawn(list_imagenet(root, split), per_class, seed) for split in splits]
    names, labels, parts = [], [], {}
    for part, (split, files) in enumerate(zip(splits, listed, strict=True)):
        assert files.labels is not None
        names += [os.path.join(os.fsencode(split), name) for name in files.names]
        labels.append(files.labels)
        parts.update({f"{split}/{files.name(index)}": part for index in range(len(files))})
    both = _occupied(Files(root, Names(names), np.concatenate(labels), listed[0].classes))
    return LabelledPictures(str(root), PictureStream(both, resize=side), _labels(both), both.classes, parts)


def _occupied(files: Files) -> Files:
    """The same files, without the classes that have none of them."""
    assert files.labels is not None
    used, labels = np.unique(files.labels, return_inverse=True)
    return replace(files, labels=labels, classes=tuple(files.classes[index] for index in used))


def _labels(files: Files) -> dict[str, int]:
    assert files.labels is not None  # listings with classes have labels
    return {files.name(index): int(label) for index, label in enumerate(files.labels)}


def _drawn(files: Files, per_class: int | None, seed: int) -> Files:
    assert files.labels is not None
    return files if per_class is None else files.subset(_draw(files.labels, per_class, seed))


def _draw(labels: np.ndarray, per_class: int | None, seed: int) -> np.ndarray:
    """Indices, in order, of at most `per_class` pictures of each class."""
    if per_class is None:
        return np.arange(len(labels))
    dice = np.random.default_rng(seed)
    chosen = [dice.permutation(np.flatnonzero(labels == kind))[:per_class] for kind in np.unique(labels)]
    return np.sort(np.concatenate(chosen))
