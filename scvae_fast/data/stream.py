"""Pictures one after the other, from any source, for evaluation and coding."""

import copy
import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import groupby, repeat
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, Protocol, get_args

from torch import Tensor

from scvae_fast._files import printable
from scvae_fast._limits import too_large
from scvae_fast._shares import Processes, Share
from scvae_fast.data.files import (
    SHARD_SUFFIXES,
    Files,
    Split,
    has_pictures,
    left_out,
    list_ffhq,
    list_file,
    list_folder,
    list_imagenet,
    looks_like_ffhq,
    looks_like_imagenet,
)
from scvae_fast.data.photographs import Photograph, held_out_photographs, training_photographs
from scvae_fast.data.pictures import PictureError, decode_picture
from scvae_fast.data.square_crops import centre_square, load_centre
from scvae_fast.data.unreadable import too_many
from scvae_fast.errors import ArgumentError, UsageError

Layout = Literal["auto", "photographs", "folder", "ffhq", "imagenet", "shards"]
Resize = int | None
_WITH_PARTS = ("photographs", "ffhq", "imagenet")


def check_arrangement(layout: str, split: str | None) -> None:
    """Check that `PictureStream` knows the values of `--layout` and `--split`.

    Raises:
        ArgumentError: it doesn't know one of them.
    """
    if problem := _unknown(layout, split):
        raise ArgumentError(f"--{problem}")


def _unknown(layout: str, split: str | None) -> str:
    for name, value, known in (("layout", layout, get_args(Layout)), ("split", split, get_args(Split))):
        if value not in known and (name, value) != ("split", None):
            return f"{name} must be one of {', '.join(known)}, got {value!r}"
    return ""


def comes_with_the_package(data: str | os.PathLike[str], name: str) -> bool:
    """Whether `data` is the name of data in the package; a folder of that name takes precedence, with a message."""
    if os.fspath(data) != name:
        return False
    if Path(name).exists():
        print(f"using {name} in this folder, not the data of this name that comes with the package", file=sys.stderr)
        return False
    return True


class NamedPicture(NamedTuple):
    """A picture (3, H, W) in −1 … 1, and its name: for a file, its path below the folder of the data.

    Example:
        >>> import torch
        >>> from scvae_fast.data import NamedPicture
        >>> NamedPicture("a.png", torch.zeros(3, 4, 6)).size
        (4, 6)
    """

    name: str
    picture: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.picture.shape[1], self.picture.shape[2]


class _Task(NamedTuple):
    """A picture that is not decoded yet."""

    name: str
    decode: Callable[[], Tensor]

    def picture(self) -> NamedPicture:
        """Decode it."""
        return NamedPicture(self.name, self.decode())


class PictureStream:
    """Pictures in a fixed order, decoded on demand; can be iterated over repeatedly.

    They are numbered from 0 in that order, unreadable ones included. Threads decode a few pictures ahead: memory does
    not depend on the number of pictures. Files that can't be read are skipped and named on stderr.

    Args:
        data: a folder, a picture, tar shards (a pattern "train-{000..127}.tar", a folder of them, or "pipe:…"),
            "photographs" for those embedded in scikit-image and scikit-learn, or an existing listing of files.
        layout: how `data` is arranged; "auto" detects it, and `describe` reports it. A message on stderr says so if
            "auto" leaves something out: one split of a data set, or the tar files in a folder that also has pictures.
        split: the part of FFHQ, ImageNet and "photographs": "train", "val", or "all" for both; by default "val". Other
            layouts have no parts.
        resize: shorter side in pixels, after which the central square is cropped; None leaves pictures whole.
        limit: takes only the first pictures; unreadable ones count.
        most_broken: number of files that may be skipped; one more raises an error.
        threads: number of decoding threads; by default the number of processors, at most 4.

    Raises:
        UsageError: there are no pictures, or the data has no parts and `split` is given.
        ValueError: an argument is out of range.

    Example:
        >>> from scvae_fast.data import PictureStream
        >>> for name, picture in PictureStream("photographs", resize=64):
        ...     print(name, tuple(picture.shape))
        astronaut (3, 64, 64)
        china (3, 64, 64)
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | Files,
        *,
        layout: Layout = "auto",
        split: Split | None = None,
        resize: int | None = None,
        limit: int | None = None,
        most_broken: int = 100,
        threads: int | None = None,
    ) -> None:
        if resize is not None and resize < 1:
            raise ValueError(f"PictureStream: resize must be at least 1, got {resize}")
        if resize is not None and (problem := too_large(resize, resize)):
            raise UsageError(f"resize to {problem}")
        if problem := _unknown(layout, split):
            raise ValueError(f"PictureStream: {problem}")
        if not isinstance(data, Files) and not os.fspath(data):
            raise UsageError("the name of the data is empty")
        self.layout, self.resize, self.most_broken = layout, resize, most_broken
        self._only: frozenset[str] | None = None
        self.data = data.root if isinstance(data, Files) else data
        self.threads = threads or min(4, os.cpu_count() or 1)
        self.skipped: list[str] = []  # messages about the files that the last iteration could not read
        if isinstance(data, Files):
            self._taken = "files"
        else:
            self._taken = _detected(os.fspath(data), split) if layout == "auto" else layout
        if split is not None and self._taken not in _WITH_PARTS:
            raise UsageError(f"{self.data}: pictures of layout {self._taken} have no parts to choose by split {split}")
        self.split: Split | None = split or ("val" if self._taken in _WITH_PARTS else None)
        self._source = _source(self._taken, data, self.split or "all")
        known = sys.maxsize if self._source.length is None else self._source.length
        self._numbers = self._all = range(known if limit is None else min(limit, known))

    @property
    def folder(self) -> Path | None:
        """The folder that names are relative to; None if pictures are not separate files."""
        return self._source.folder

    @property
    def length(self) -> int | None:
        """Number of pictures, unreadable ones included; None if unknown, as for a pipe."""
        if self._only is not None:
            return len(self._only)
        return None if self._source.length is None else len(self._numbers)

    def some(self, names: Iterable[str], resize: int | None) -> "PictureStream":
        """The first picture of each of these names, with their own `resize`; no others are decoded."""
        stream = copy.copy(self)
        stream._only, stream.resize = frozenset(names), resize
        return stream

    def part(self, share: Share, block: int = 1) -> "PictureStream":
        """The pictures of one part of several, with their original numbers.

        Args:
            share: which part.
            block: consecutive pictures, counted from number 0, that stay in one part; see `blocks`.

        Raises:
            UsageError: the number of pictures is unknown.
        """
        if self.length is None:
            raise UsageError(
                f"{self.data}: the number of pictures is unknown, so they can't be divided; "
                "use local shards, or give each process its own shards"
            )
        other = copy.copy(self)
        other._numbers, other.skipped = share.of(len(self._all), block), []
        return other

    def gather_skipped(self, processes: Processes) -> None:
        """Set `skipped` to what all processes have skipped in their parts.

        Raises:
            UsageError: they are more than `most_broken`.
        """
        self.skipped = [message for part in processes.gather(self.skipped) for message in part]
        if len(self.skipped) > self.most_broken:
            raise too_many(self.most_broken, self.skipped[-1])

    def listing(self) -> str:
        """SHA-256, in hexadecimal, of the names of all pictures, not only of a part.

        For shards, it covers their names and their numbers of pictures.
        """
        return self._source.digest(self._all.stop)

    def __iter__(self) -> Iterator[NamedPicture]:
        for _, picture in self.numbered():
            yield picture

    def blocks(self, size: int) -> Iterator[Iterator[NamedPicture]]:
        """The pictures in blocks of `size` numbers, 0 … size − 1 and so on; blocks must be read one after the other.

        With batches that stay within blocks, results depend neither on which process codes them nor on broken files.
        """
        for _, block in groupby(self.numbered(), key=lambda numbered: numbered[0] // size):
            yield (picture for _, picture in block)

    def numbered(self) -> Iterator[tuple[int, NamedPicture]]:
        """The pictures with their numbers."""
        self.skipped = []
        with ThreadPoolExecutor(self.threads, "pictures") as pool:
            ahead: deque[tuple[int, Future[NamedPicture]]] = deque()
            try:
                for number, task in self._tasks():
                    ahead.append((number, pool.submit(task.picture)))
                    if len(ahead) > 2 * self.threads:
                        yield from self._finished(*ahead.popleft())
                while ahead:
                    yield from self._finished(*ahead.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def describe(self) -> dict[str, Any]:
        """The source of the pictures, for records: data, layout (as detected by "auto"), split if any, resize."""
        return {"data": str(self.data), "layout": self._taken, "split": self.split, "resize": self.resize}

    def _tasks(self) -> Iterator[tuple[int, _Task]]:
        tasks = self._source.tasks(self.resize, self._skip, self._numbers)
        if self._only is None:
            yield from tasks
            return
        wanted = set(self._only)
        while wanted and (numbered := next(tasks, None)):
            if numbered[1].name in wanted:
                wanted.remove(numbered[1].name)
                yield numbered

    def _finished(self, number: int, picture: "Future[NamedPicture]") -> Iterator[tuple[int, NamedPicture]]:
        try:
            yield number, picture.result()
        except PictureError as error:
            self._skip(error)

    def _skip(self, error: PictureError) -> None:
        if len(self.skipped) == self.most_broken:
            raise too_many(self.most_broken, error) from error
        self.skipped.append(str(error))
        print(f"skipped: {error}", file=sys.stderr)


_Told = Callable[[PictureError], None]


class _Source(Protocol):
    length: int | None
    folder: Path | None

    def tasks(self, resize: Resize, damaged: _Told, numbers: range) -> Iterator[tuple[int, _Task]]:
        """The pictures with those numbers, in order; `damaged` is called for problems other than a single picture's."""

    def digest(self, count: int) -> str:
        """See `PictureStream.listing`, for the first `count` pictures."""


class _FromFiles:
    def __init__(self, files: Files) -> None:
        self._files = files
        self.folder: Path | None = files.root
        self.length: int | None = len(files)

    def tasks(self, resize: Resize, damaged: _Told, numbers: range) -> Iterator[tuple[int, _Task]]:
        for index in numbers:
            path = self._files.source(index)
            yield index, _Task(self._files.name(index), partial(_decode, path, str(path), resize))

    def digest(self, count: int) -> str:
        return self._files.names.digest(count)


class _FromShards:
    folder: Path | None = None

    def __init__(self, shards: str) -> None:
        # webdataset is needed only here.
        from scvae_fast.data.shards import counts_of, expand_shards

        self._urls = expand_shards(shards)
        self._counts = counts_of(self._urls)
        self.length = None if self._counts is None else sum(self._counts)
        if self.length == 0:
            raise UsageError(f"{shards}: no pictures in these shards")
        self._folders = [printable(Path(url).name.split(".", 1)[0]) for url in self._urls]
        if self.length is None or len(set(self._folders)) < len(self._folders):
            self._folders = [f"shard-{index:05}" for index in range(len(self._urls))]

    def tasks(self, resize: Resize, damaged: _Told, numbers: range) -> Iterator[tuple[int, _Task]]:
        from scvae_fast.data.shards import raw_pictures

        number = 0
        for folder, url, own in zip(self._folders, self._urls, self._numbers(), strict=True):
            number = own.start if own is not None else number
            # If several parts share a shard, the part with its last picture reports how the shard ends.
            to_end = numbers.stop == sys.maxsize if own is None else self._last(own) in numbers
            if not to_end and (number >= numbers.stop or (own is not None and own.stop <= numbers.start)):
                continue
            with closing(raw_pictures(url, damaged if to_end or own is None else lambda error: None)) as pictures:
                for picture in pictures:
                    if number >= numbers.stop and not to_end:
                        break
                    if number >= numbers.start:
                        # Files written under this name should land in the right folder.
                        parts = [part for part in PurePosixPath(picture.member).parts if part not in ("/", "..")]
                        name = "/".join([folder, *parts])
                        yield number, _Task(name, partial(_decode, picture.data, picture.name, resize))
                    number += 1

    def _numbers(self) -> Iterator[range | None]:
        """The picture numbers of each shard; None if they are unknown."""
        if self._counts is None:
            yield from repeat(None, len(self._urls))
            return
        end = 0
        for count in self._counts:
            yield range(end, end + count)
            end += count

    def _last(self, own: range) -> int:
        """The number of the last picture of a shard; for an empty shard, of the picture next to it."""
        assert self.length is not None
        return min(max(own.stop - 1, own.start), self.length - 1)

    def digest(self, count: int) -> str:
        about = {"shards": self._folders, "pictures": self._counts, "count": count}
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()


class _Photographs:
    folder: Path | None = None

    def __init__(self, split: Split) -> None:
        training = training_photographs() if split != "val" else ()
        held_out = held_out_photographs() if split != "train" else ()
        self._photographs = [*training, *held_out]
        self.length: int | None = len(self._photographs)

    def tasks(self, resize: Resize, damaged: _Told, numbers: range) -> Iterator[tuple[int, _Task]]:
        for number in numbers:
            photograph = self._photographs[number]
            yield number, _Task(photograph.name, partial(_in_memory, photograph, resize))

    def digest(self, count: int) -> str:
        names = [photograph.name for photograph in self._photographs[:count]]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _decode(source: Path | bytes, called: str, resize: Resize) -> Tensor:
    return decode_picture(source, called) if resize is None else load_centre(source, called, resize)


def _in_memory(photograph: Photograph, resize: Resize) -> Tensor:
    return photograph.picture if resize is None else centre_square(photograph.picture, resize)


def _detected(data: str, split: Split | None) -> str:
    """The layout, with messages on stderr if pictures are left out that the user did not exclude."""
    layout = _layout_of(data)
    if layout == "ffhq" or layout == "imagenet":
        about = f"{data} is laid out like {'FFHQ' if layout == 'ffhq' else 'ImageNet'}"
        if split is None:
            print(f"{about}: only its split val is used (--split selects train, val or all)", file=sys.stderr)
        if left_out(Path(data), layout):
            print(f"{about}: pictures outside its parts are left out (--layout folder takes all)", file=sys.stderr)
    return layout


def _layout_of(data: str) -> str:
    path = Path(data)
    if comes_with_the_package(data, "photographs"):
        return "photographs"
    if path.is_file():
        return "shards" if data.endswith(SHARD_SUFFIXES) else "picture"
    if not path.is_dir():
        if data.startswith("pipe:") or data.endswith(SHARD_SUFFIXES):
            return "shards"
        raise UsageError(f"{data}: no such file or folder")
    if looks_like_imagenet(path):
        return "imagenet"
    if archives := [entry.name for entry in path.iterdir() if entry.name.endswith(SHARD_SUFFIXES)]:
        if not has_pictures(path):
            return "shards"
        print(
            f"{data} contains pictures and {len(archives)} tar files, such as {printable(archives[0])}: "
            "the pictures are used (layout shards uses the tar files)",
            file=sys.stderr,
        )
    return "ffhq" if looks_like_ffhq(path) else "folder"


def _source(layout: str, data: str | os.PathLike[str] | Files, split: Split) -> _Source:
    if isinstance(data, Files):
        return _FromFiles(data)
    data = os.fspath(data)
    if layout == "photographs":
        if data != "photographs":
            raise UsageError(f"layout photographs is that of the data called photographs, got {data}")
        return _Photographs(split)
    if layout == "ffhq":
        return _FromFiles(list_ffhq(data, split))
    if layout == "imagenet":
        return _FromFiles(list_imagenet(data, split))
    if layout == "shards":
        return _FromShards(data)
    path = Path(data)
    return _FromFiles(list_file(path) if path.is_file() else list_folder(path))
