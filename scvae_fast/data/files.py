"""Picture files of the layouts that data sets come in: a folder of anything, folders of classes, FFHQ, ImageNet."""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from scvae_fast._files import printable
from scvae_fast.data.pictures import is_picture_name
from scvae_fast.errors import UsageError

Split = Literal["train", "val"]

# Of tar files that hold pictures.
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")

# FFHQ: numbers below are for training, the others, up to 69999, for validation.
_FFHQ_TRAINING = 60_000
_FFHQ_NAME = re.compile(r"\d{5}")
# The folders of FFHQ's own releases that may lie beside each other, the one of the largest pictures first.
_FFHQ_FOLDERS = ("images1024x1024", "thumbnails128x128", "thumbnails")


@dataclass(frozen=True, eq=False)
class Files:
    """Picture files below a folder; a million of them are three arrays, which worker processes share.

    Args:
        root: the folder.
        names: paths below it, as bytes, (N).
        labels: index of the class of each, (N), where there are classes.
        classes: their names.
    """

    root: Path
    names: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The path below the root, with slashes; bytes that are no UTF-8 are escaped."""
        return printable(Path(os.fsdecode(bytes(self.names[index]))).as_posix())

    def source(self, index: int) -> Path:
        """The path."""
        return self.root / os.fsdecode(bytes(self.names[index]))

    def subset(self, chosen: np.ndarray) -> "Files":
        """The files of a mask (N) or of indices, in the order of those."""
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, names=self.names[chosen], labels=labels)


def list_folder(root: str | os.PathLike[str], *, recursive: bool = True) -> Files:
    """All pictures in a folder, by their suffixes, sorted by path. Hidden files and folders are left out.

    Folders in it that can't be listed are named on stderr and left out as well.

    Raises:
        UsageError: there is no such folder, or no picture in it.
    """
    names = _pictures_in(Path(root), recursive)
    if not names:
        raise UsageError(
            f"{root}: no pictures in this folder{'' if recursive else ' (folders in it are not searched)'}"
        )
    return _files(root, names)


def list_file(path: str | os.PathLike[str]) -> Files:
    """One file, which need not have the suffix of a picture."""
    return _files(Path(path).parent, [Path(path).name])


def list_classes(root: str | os.PathLike[str]) -> Files:
    """CLASS/…: a folder for each class; classes are counted in the order of their folders' names.

    This follows the data set's description. It has not been tried on the real files.

    Raises:
        UsageError: there is no such folder, no picture in it, or a picture outside of the classes.
    """
    return _labelled(Path(root), list_folder(root), _subfolders(Path(root)))


def list_ffhq(root: str | os.PathLike[str], split: Split) -> Files:
    """FFHQ: files 00000 … 69999, in folders of a thousand or not; those from 60000 on are for validation.

    This follows the data set's description. It has not been tried on the real files.

    Args:
        root: the folder of the pictures, or the one with images1024x1024 or thumbnails128x128 in it.
        split: "train" or "val".

    Raises:
        UsageError: there is no such folder, no numbered picture of that split in it, or a number is there twice.
    """
    root = Path(root)
    root = next((root / folder for folder in _FFHQ_FOLDERS if (root / folder).is_dir()), root)
    by_number: dict[int, str] = {}
    for name in _pictures_in(root, recursive=True):
        if not (number := _ffhq_number(name)):
            continue
        if (index := int(number)) in by_number:
            raise UsageError(
                f"{root}: picture {number} of FFHQ is there twice, as {by_number[index]} and as {name}: "
                "name the folder of one of them"
            )
        by_number[index] = name
    if not by_number:
        raise UsageError(f"{root}: no pictures of FFHQ here, which are called 00000.png … 69999.png")
    chosen = [number for number in sorted(by_number) if (number < _FFHQ_TRAINING) == (split == "train")]
    if not chosen:
        wanted = f"below {_FFHQ_TRAINING}" if split == "train" else f"from {_FFHQ_TRAINING} on"
        raise UsageError(f"{root}: none of the {len(by_number)} pictures of FFHQ here has a number {wanted} ({split})")
    return _files(root, [by_number[number] for number in chosen])


def list_imagenet(root: str | os.PathLike[str], split: Split) -> Files:
    """ImageNet: train/CLASS/… and val/CLASS/…; classes are counted in the order of their folders' names.

    Raises:
        UsageError: there is no such folder, no train/ or val/, no picture in it, or a picture outside of the classes.
    """
    root = Path(root)
    folder = root / split
    if not folder.is_dir():
        _check_folder(root)
        raise UsageError(f"{root}: no folder {split}/ here, as ImageNet has: {split}/CLASS/…")
    return _labelled(folder, list_folder(folder), _subfolders(root / "train") | _subfolders(root / "val"))


def looks_like_ffhq(root: Path) -> bool:
    """Whether a folder has the folders of FFHQ, or holds nothing but its numbers, some of them for validation."""
    if any((root / folder).is_dir() for folder in _FFHQ_FOLDERS):
        return True
    numbers = [_ffhq_number(name) for name in _pictures_in(root, recursive=True, tell=False)]
    return all(numbers) and any(_FFHQ_TRAINING <= int(number) < 70_000 for number in numbers)


def looks_like_imagenet(root: Path) -> bool:
    """Whether a folder has train/ or val/ with folders in it."""
    return any(_subfolders(root / split) for split in ("train", "val"))


def _labelled(folder: Path, files: Files, classes: set[str]) -> Files:
    """The same files with the classes that their folders are."""
    first = [Path(os.fsdecode(bytes(name))).parts for name in files.names]
    if flat := [parts[0] for parts in first if len(parts) == 1]:
        raise UsageError(f"{folder}: must have a folder for each class, but {flat[0]} lies in none")
    order = {name: index for index, name in enumerate(sorted(classes))}
    labels = np.array([order[parts[0]] for parts in first])
    return replace(files, labels=labels, classes=tuple(map(printable, order)))


def _files(root: str | os.PathLike[str], names: Sequence[str]) -> Files:
    return Files(Path(root), np.array([os.fsencode(name) for name in names]))


def _ffhq_number(name: str) -> str:
    stem = os.path.splitext(os.path.basename(name))[0]
    return stem if _FFHQ_NAME.fullmatch(stem) else ""


def _subfolders(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if _folder_identity(entry) and not entry.name.startswith(".")}


def _check_folder(root: Path) -> None:
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder" if not root.exists() else f"{root}: must be a folder")


def has_pictures(root: Path) -> bool:
    """Whether there is a picture anywhere in a folder."""
    return bool(_pictures_in(root, recursive=True, tell=False))


def _pictures_in(root: Path, recursive: bool, *, tell: bool = True) -> list[str]:
    """Paths below root, sorted; links are followed, each folder once."""
    _check_folder(root)
    found, pending, seen = [], [""], {_identity(os.stat(root))}
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            if not folder:
                raise UsageError(f"{root}: can't be listed: {error}") from error
            if tell:
                print(f"skipped: {root / folder}: can't be listed: {error.strerror}", file=sys.stderr)
            continue
        for entry in entries:
            name = os.path.join(folder, entry.name)
            identity = _folder_identity(entry)
            if identity is None:
                if is_picture_name(entry.name):
                    found.append(name)
            elif recursive and not entry.name.startswith(".") and identity not in seen:
                seen.add(identity)
                pending.append(name)
    return sorted(found)


def _folder_identity(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    """None for what is no folder; a link that leads nowhere is none."""
    try:
        return _identity(entry.stat()) if entry.is_dir() else None
    except OSError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
