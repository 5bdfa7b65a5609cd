"""Pictures one after the other, from wherever they are: what evaluation and coding read."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, Protocol, get_args

from torch import Tensor

from scvae_fast._files import printable
from scvae_fast._limits import too_large
from scvae_fast.data.files import (
    SHARD_SUFFIXES,
    Files,
    Split,
    has_pictures,
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


def check_arrangement(layout: str, split: str) -> None:
    """Make sure that what was asked for by `--layout` and `--split` is what `PictureStream` knows.

    Raises:
        ArgumentError: one of them is not.
    """
    for name, value, known in (("layout", layout, get_args(Layout)), ("split", split, get_args(Split))):
        if value not in known:
            raise ArgumentError(f"--{name} must be one of {', '.join(known)}, got {value!r}")


class NamedPicture(NamedTuple):
    """A picture (3, H, W) in −1 … 1, and its name: for a file, its path below the folder of the data."""

    name: str
    picture: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.picture.shape[1], self.picture.shape[2]


class _Task(NamedTuple):
    """A picture that is still to be decoded."""

    name: str
    decode: Callable[[], Tensor]

    def picture(self) -> NamedPicture:
        """Decode it."""
        return NamedPicture(self.name, self.decode())


class PictureStream:
    """Pictures in a fixed order, decoded as they are needed; iterate over it as often as you like.

    A few are decoded ahead by threads: memory does not depend on how many there are. Files that can't be read are
    skipped and named on stderr.

    Args:
        data: a folder, a picture, tar shards (a pattern "train-{000..127}.tar", a folder of them, or "pipe:…"),
            "photographs" for those embedded in scikit-image and scikit-learn, or files that are listed already.
        layout: how `data` is arranged; "auto" looks at it, and `describe` says what it took. Of a folder with pictures
            and tar files, it takes the pictures and says so on stderr.
        split: of a layout that has splits; folders and shards have none.
        resize: shorter side in pixels, after which the centre is cropped to a square; None leaves pictures whole.
        most_broken: so many files may be skipped; one more stops the iteration with an error.
        threads: so many decode; by default as many as there are processors, at most 4.

    Raises:
        UsageError: there are no pictures.
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | Files,
        *,
        layout: Layout = "auto",
        split: Split = "val",
        resize: int | None = None,
        most_broken: int = 100,
        threads: int | None = None,
    ) -> None:
        if resize is not None and resize < 1:
            raise ValueError(f"PictureStream: resize must be at least 1, got {resize}")
        if resize is not None and (problem := too_large(resize, resize)):
            raise UsageError(f"resize to {problem}")
        self.layout, self.split, self.resize, self.most_broken = layout, split, resize, most_broken
        self._only: frozenset[str] | None = None
        self.data = data.root if isinstance(data, Files) else data
        self.threads = threads or min(4, os.cpu_count() or 1)
        self.skipped: list[str] = []  # messages about the files that the last iteration could not read
        if isinstance(data, Files):
            self._taken: str = "files"
            self._source: _Source = _FromFiles(data)
        else:
            self._taken = _layout_of(os.fspath(data)) if layout == "auto" else layout
            self._source = _source(self._taken, os.fspath(data), split)

    @property
    def length(self) -> int | None:
        """How many pictures there are, those that can't be read included; None where nobody knows, as of a pipe."""
        return self._source.length if self._only is None else len(self._only)

    def some(self, names: Iterable[str], resize: int | None) -> "PictureStream":
        """The first of each of these names, with a `resize` of their own; no others are decoded."""
        stream = copy(self)
        stream._only, stream.resize = frozenset(names), resize
        return stream

    def __iter__(self) -> Iterator[NamedPicture]:
        self.skipped = []
        with ThreadPoolExecutor(self.threads, "pictures") as pool:
            ahead: deque[Future[NamedPicture]] = deque()
            try:
                for task in self._tasks():
                    ahead.append(pool.submit(task.picture))
                    if len(ahead) > 2 * self.threads:
                        yield from self._finished(ahead.popleft())
                while ahead:
                    yield from self._finished(ahead.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def describe(self) -> dict[str, Any]:
        """What the pictures are, for a record: data, layout (what "auto" took), split, resize."""
        return {"data": str(self.data), "layout": self._taken, "split": self.split, "resize": self.resize}

    def _tasks(self) -> Iterator[_Task]:
        tasks = self._source.tasks(self.resize, self._skip)
        if self._only is None:
            yield from tasks
            return
        wanted = set(self._only)
        while wanted and (task := next(tasks, None)):
            if task.name in wanted:
                wanted.remove(task.name)
                yield task

    def _finished(self, picture: "Future[NamedPicture]") -> Iterator[NamedPicture]:
        try:
            yield picture.result()
        except PictureError as error:
            self._skip(error)

    def _skip(self, error: PictureError) -> None:
        if len(self.skipped) == self.most_broken:
            raise too_many(self.most_broken, error) from error
        self.skipped.append(str(error))
        print(f"skipped: {error}", file=sys.stderr)


class _Source(Protocol):
    length: int | None

    def tasks(self, resize: Resize, damaged: Callable[[PictureError], None]) -> Iterator[_Task]:
        """The pictures in order; `damaged` is told of what isn't a picture of its own."""


class _FromFiles:
    def __init__(self, files: Files) -> None:
        self._files = files
        self.length: int | None = len(files)

    def tasks(self, resize: Resize, damaged: Callable[[PictureError], None]) -> Iterator[_Task]:
        for index in range(len(self._files)):
            path = self._files.source(index)
            yield _Task(self._files.name(index), partial(_decode, path, str(path), resize))


class _FromShards:
    def __init__(self, shards: str) -> None:
        # webdataset is only needed here.
        from scvae_fast.data.shards import count_pictures, expand_shards

        self._urls = expand_shards(shards)
        self.length = count_pictures(self._urls)
        if self.length == 0:
            raise UsageError(f"{shards}: no pictures in these shards")
        self._folders = [printable(Path(url).name.split(".", 1)[0]) for url in self._urls]
        if self.length is None or len(set(self._folders)) < len(self._folders):
            self._folders = [f"shard-{index:05}" for index in range(len(self._urls))]

    def tasks(self, resize: Resize, damaged: Callable[[PictureError], None]) -> Iterator[_Task]:
        from scvae_fast.data.shards import raw_pictures

        for folder, url in zip(self._folders, self._urls, strict=True):
            for picture in raw_pictures(url, damaged):
                # Whoever makes a file of this name should find it where it belongs.
                parts = [part for part in PurePosixPath(picture.member).parts if part not in ("/", "..")]
                yield _Task("/".join([folder, *parts]), partial(_decode, picture.data, picture.name, resize))


class _Photographs:
    def __init__(self, split: Split) -> None:
        self._photographs = held_out_photographs() if split == "val" else training_photographs()
        self.length: int | None = len(self._photographs)

    def tasks(self, resize: Resize, damaged: Callable[[PictureError], None]) -> Iterator[_Task]:
        for photograph in self._photographs:
            yield _Task(photograph.name, partial(_in_memory, photograph, resize))


def _decode(source: Path | bytes, called: str, resize: Resize) -> Tensor:
    return decode_picture(source, called) if resize is None else load_centre(source, called, resize)


def _in_memory(photograph: Photograph, resize: Resize) -> Tensor:
    return photograph.picture if resize is None else centre_square(photograph.picture, resize)


def _layout_of(data: str) -> str:
    path = Path(data)
    if data == "photographs":
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
            f"{data} holds pictures and {len(archives)} tar files, such as {printable(archives[0])}: "
            "the pictures are taken (the layout shards takes the tar files)",
            file=sys.stderr,
        )
    return "ffhq" if looks_like_ffhq(path) else "folder"


def _source(layout: str, data: str, split: Split) -> _Source:
    if layout == "photographs":
        return _Photographs(split)
    if layout == "shards":
        return _FromShards(data)
    if layout == "ffhq":
        return _FromFiles(list_ffhq(data, split))
    if layout == "imagenet":
        return _FromFiles(list_imagenet(data, split))
    if layout in ("folder", "picture"):
        path = Path(data)
        return _FromFiles(list_file(path) if path.is_file() else list_folder(path))
    layouts = ", ".join(get_args(Layout))
    raise ValueError(f"PictureStream: layout must be one of {layouts}, got {layout!r}")
