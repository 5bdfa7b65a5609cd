"""Listings of picture files in common layouts: any folder, folders of classes, FFHQ, ImageNet."""

import hashlib
import heapq
import os
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from scvae_fast._files import printable
from scvae_fast.data.pictures import is_picture_name
from scvae_fast.errors import UsageError

Split = Literal["train", "val", "all"]
"""A part of a data set; "all" takes both parts."""

# Suffixes of tar files with pictures.
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")

# Suffixes of unsupported picture formats. Such files are reported, so that nobody misses them.
_UNREAD = {
    *(".heic", ".heif", ".jxl", ".psd", ".xcf", ".svg", ".exr", ".hdr", ".dcm", ".fits", ".nii"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),  # cameras' raw data
}

# FFHQ: smaller numbers are for training, the others, up to 69999, for validation.
_FFHQ_TRAINING = 60_000
_FFHQ_NAME = re.compile(r"[0-6]\d{4}")  # 00000 … 69999
# Folders of FFHQ's own releases, which may lie side by side; that with the largest pictures first.
_FFHQ_FOLDERS = ("images1024x1024", "thumbnails128x128", "thumbnails")


class Names:
    """Paths as bytes, concatenated in one array: each takes its own length plus eight bytes.

    Args:
        names: in order; read once.

    Example:
        >>> from scvae_fast.data import Names
        >>> names = Names([b"a.png", b"cats/b.png"])
        >>> names[1], names.n_bytes
        (b'cats/b.png', 39)
    """

    def __init__(self, names: Iterable[bytes]) -> None:
        content, ends = bytearray(), array("q", [0])
        for name in names:
            content += name
            ends.append(len(content))
        self._content, self._ends = np.frombuffer(content, np.uint8), np.frombuffer(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        return self._content[self._ends[index] : self._ends[index + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return map(self.__getitem__, range(len(self)))

    @property
    def n_bytes(self) -> int:
        """Their size in memory, in bytes."""
        return self._content.nbytes + self._ends.nbytes

    def digest(self, count: int) -> str:
        """SHA-256, in hexadecimal, of the first `count` names."""
        digest = hashlib.sha256(self._ends[: count + 1].data)
        digest.update(self._content[: self._ends[count]].data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Files:
    """Picture files below a folder. A million of them are three arrays, which worker processes share.

    Args:
        root: the folder.
        names: paths below it, N.
        labels: class index of each, (N), if there are classes.
        classes: names of the classes.

    Example:
        >>> from pathlib import Path
        >>> from scvae_fast.data import Files, Names
        >>> files = Files(Path("pictures"), Names([b"a.png", b"cats/b.png"]))
        >>> len(files), files.name(1)
        (2, 'cats/b.png')
    """

    root: Path
    names: Names
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The path below the root, with slashes; bytes that are not UTF-8 are escaped."""
        return printable(Path(os.fsdecode(self.names[index])).as_posix())

    def source(self, index: int) -> Path:
        """The path."""
        return self.root / os.fsdecode(self.names[index])

    def subset(self, chosen: np.ndarray) -> "Files":
        """The files selected by a mask (N) or by indices, in the order of these."""
        labels = None if self.labels is None else self.labels[chosen]
        names = Names(self.names[index] for index in np.arange(len(self))[chosen])
        return replace(self, names=names, labels=labels)


def list_folder(root: str | os.PathLike[str], *, recursive: bool = True) -> Files:
    """All pictures in a folder, by suffix, sorted by path. Hidden files and folders are skipped.

    Subfolders that can't be listed are reported on stderr and skipped.

    Raises:
        UsageError: there is no such folder, or it has no pictures.

    Example:
        >>> import torch
        >>> from scvae_fast.data import list_folder, save_picture
        >>> save_picture("pictures/a.png", torch.zeros(3, 8, 8))
        >>> len(list_folder("pictures"))
        1
    """
    # Only one folder at a time is a list of Python objects; what gets sorted is compact.
    folders = [Names(sorted(folder)) for folder in _folders_of(Path(root), recursive)]
    if not folders:
        raise UsageError(
            f"{root}: no pictures in this folder{'' if recursive else ' (folders in it are not searched)'}"
        )
    return Files(Path(root), folders[0] if len(folders) == 1 else Names(heapq.merge(*folders)))


def list_file(path: str | os.PathLike[str]) -> Files:
    """One file, which need not have the suffix of a picture."""
    return Files(Path(path).parent, Names([os.fsencode(Path(path).name)]))


def list_classes(root: str | os.PathLike[str]) -> Files:
    """CLASS/…: a folder for each class; classes are numbered in the order of their folders' names.

    Written from the data set's description, and not tested on the real files.

    Raises:
        UsageError: there is no such folder, it has no pictures, or a picture lies outside the class folders.

    Example:
        >>> import torch
        >>> from scvae_fast.data import list_classes, save_picture
        >>> save_picture("classes/cat/a.png", torch.zeros(3, 8, 8))
        >>> save_picture("classes/dog/b.png", torch.zeros(3, 8, 8))
        >>> list_classes("classes").classes
        ('cat', 'dog')
    """
    return _labelled(Path(root), list_folder(root), _subfolders(Path(root)))


def list_ffhq(root: str | os.PathLike[str], split: Split) -> Files:
    """FFHQ: files 00000 … 69999, directly or in folders of a thousand; those from 60000 on are for validation.

    Written from the data set's description, and not tested on the real files.

    Args:
        root: the folder with the pictures, or one that contains images1024x1024 or thumbnails128x128.
        split: "train", "val", or "all" for both.

    Raises:
        UsageError: there is no such folder, it has no numbered picture of that split, or a number occurs twice.
        ValueError: there is no such split.

    Example:
        >>> import torch
        >>> from scvae_fast.data import list_ffhq, save_picture
        >>> save_picture("ffhq/00007.png", torch.zeros(3, 8, 8))
        >>> len(list_ffhq("ffhq", "train"))
        1
    """
    _check_split("list_ffhq", split)
    root = Path(root)
    root = _ffhq_folder(root) or root
    by_number: dict[int, str] = {}
    for name in sorted(os.fsdecode(name) for folder in _folders_of(root) for name in folder if _ffhq_number(name)):
        number = _ffhq_number(os.fsencode(name))
        if (index := int(number)) in by_number:
            raise UsageError(
                f"{root}: picture {number} of FFHQ is there twice, as {by_number[index]} and as {name}: "
                "choose the folder of one of them"
            )
        by_number[index] = name
    if not by_number:
        raise UsageError(f"{root} contains no pictures of FFHQ, which are called 00000.png … 69999.png")
    chosen = [n for n in sorted(by_number) if split == "all" or (n < _FFHQ_TRAINING) == (split == "train")]
    if not chosen:
        wanted = f"below {_FFHQ_TRAINING}" if split == "train" else f"of {_FFHQ_TRAINING} or more"
        raise UsageError(f"{root}: none of the {len(by_number)} pictures of FFHQ here has a number {wanted} ({split})")
    return Files(root, Names(os.fsencode(by_number[number]) for number in chosen))


def list_imagenet(root: str | os.PathLike[str], split: Split) -> Files:
    """ImageNet: train/CLASS/… and val/CLASS/…; classes are numbered in the order of their folders' names.

    Args:
        root: the folder that contains train/ and val/.
        split: "train" or "val", whose names are paths below that folder; "all" for both, with paths below `root`.

    Raises:
        UsageError: there is no such folder, no train/ or val/, no pictures, or a picture outside the class folders.
        ValueError: there is no such split.

    Example:
        >>> import torch
        >>> from scvae_fast.data import list_imagenet, save_picture
        >>> save_picture("imagenet/train/n01440764/a.png", torch.zeros(3, 8, 8))
        >>> list_imagenet("imagenet", "train").classes
        ('n01440764',)
    """
    _check_split("list_imagenet", split)
    root = Path(root)
    classes = _subfolders(root / "train") | _subfolders(root / "val")
    if split == "all":
        parts = [part for part in ("train", "val") if (root / part).is_dir() and has_pictures(root / part)]
        if not parts:
            _check_folder(root)
            raise UsageError(f"{root} contains no pictures in train/CLASS/… or val/CLASS/…, as ImageNet has")
        listed = {part: _labelled(root / part, list_folder(root / part), classes) for part in parts}
        names = (os.path.join(os.fsencode(part), name) for part, files in listed.items() for name in files.names)
        labels = [files.labels for files in listed.values() if files.labels is not None]
        return Files(root, Names(names), np.concatenate(labels), listed[parts[0]].classes)
    folder = root / split
    if not folder.is_dir():
        _check_folder(root)
        raise UsageError(f"{root} contains no folder {split}/ with {split}/CLASS/…, as ImageNet has")
    return _labelled(folder, list_folder(folder), classes)


def _check_split(operation: str, split: str) -> None:
    if split not in get_args(Split):
        raise ValueError(f"{operation}: split must be one of {', '.join(get_args(Split))}, got {split!r}")


def looks_like_ffhq(root: Path) -> bool:
    """Whether a folder has the folders of FFHQ, or only files named like FFHQ's, some of them for validation."""
    if _ffhq_folder(root) is not None:
        return True
    of_validation = False
    for number in (_ffhq_number(name) for folder in _folders_of(root, tell=False) for name in folder):
        if not number:
            return False
        of_validation = of_validation or int(number) >= _FFHQ_TRAINING
    return of_validation


def looks_like_imagenet(root: Path) -> bool:
    """Whether a folder has train/ or val/ with folders in it."""
    return any(_subfolders(root / split) for split in ("train", "val"))


def _labelled(folder: Path, files: Files, classes: set[str]) -> Files:
    """The same files, labelled with the classes given by their folders."""
    order = {name: index for index, name in enumerate(sorted(classes))}
    labels = np.empty(len(files), np.int64)
    for index, name in enumerate(files.names):
        parts = Path(os.fsdecode(name)).parts
        if len(parts) == 1:
            raise UsageError(f"{folder}: must have a folder for each class, but {parts[0]} lies in none")
        labels[index] = order[parts[0]]
    return replace(files, labels=labels, classes=tuple(map(printable, order)))


def left_out(root: Path, layout: str) -> bool:
    """Whether a folder of layout "ffhq" or "imagenet" also contains pictures outside its two parts."""
    own = {"train", "val"}
    if layout == "ffhq":
        folder = _ffhq_folder(root)
        if folder is None:
            return False  # `looks_like_ffhq` has checked every name
        own = {folder.name}
    at_the_top = any(True for _ in _folders_of(root, recursive=False, tell=False))
    return at_the_top or any(has_pictures(root / name) for name in _subfolders(root) - own)


def _ffhq_folder(root: Path) -> Path | None:
    """The first of FFHQ's own folders that has pictures with its numbers; None without one."""
    for folder in (root / name for name in _FFHQ_FOLDERS):
        if folder.is_dir() and any(_ffhq_number(name) for names in _folders_of(folder, tell=False) for name in names):
            return folder
    return None


def _ffhq_number(name: bytes) -> str:
    stem = os.fsdecode(os.path.splitext(os.path.basename(name))[0])
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
    """Whether a folder contains a picture at any depth."""
    return any(True for _ in _folders_of(root, tell=False))


def _folders_of(root: Path, recursive: bool = True, *, tell: bool = True) -> Iterator[list[bytes]]:
    """The paths below root of each folder's pictures, if any; links are followed, but each folder is visited once."""
    _check_folder(root)
    pending, seen = [b""], {_identity(os.stat(root))}
    unread: Counter[str] = Counter()
    while pending:
        folder = pending.pop()
        found, inner = [], []
        try:
            with os.scandir(os.path.join(os.fsencode(root), folder)) as entries:
                for entry in entries:
                    identity = _folder_identity(entry)
                    if identity is None:
                        if is_picture_name(os.fsdecode(entry.name)):
                            found.append(os.path.join(folder, entry.name))
                        elif (suffix := os.path.splitext(os.fsdecode(entry.name))[1].lower()) in _UNREAD:
                            unread[suffix] += 1
                    elif recursive and not entry.name.startswith(b".") and identity not in seen:
                        seen.add(identity)
                        inner.append(os.path.join(folder, entry.name))
        except OSError as error:
            if not folder:
                raise UsageError(f"{root}: can't be listed: {error}") from error
            if tell:
                print(f"skipped: {root / os.fsdecode(folder)}: can't be listed: {error.strerror}", file=sys.stderr)
            continue
        pending += inner
        if found:
            yield found
    if tell and unread:
        formats = ", ".join(sorted(unread))
        print(f"{root}: {unread.total()} files in unsupported formats are left out: {formats}", file=sys.stderr)


def _folder_identity(entry: os.DirEntry[Any]) -> tuple[int, int] | None:
    """Identity of a folder; None for anything else, such as a broken link."""
    try:
        return _identity(entry.stat()) if entry.is_dir() else None
    except OSError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
