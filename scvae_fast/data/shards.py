"""Pictures in tar shards (WebDataset), from local files or pipes, read sequentially."""

import functools
import itertools
import lzma
import os
import random
import re
import sys
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

from torch import Tensor
from torch.utils.data import Dataset

from scvae_fast._extras import extra
from scvae_fast._files import printable
from scvae_fast._limits import PIXELS_VARIABLE, most_bytes
from scvae_fast.data.files import SHARD_SUFFIXES
from scvae_fast.data.pictures import PictureError, is_picture_name
from scvae_fast.data.sampling import sample_dice
from scvae_fast.data.square_crops import Crop, load_centre, load_square
from scvae_fast.data.unreadable import UnreadableFiles
from scvae_fast.errors import UsageError

with extra("tar shards", "webdataset"):
    import webdataset
    from webdataset.shardlists import expand_urls
    from webdataset.tariterators import base_plus_ext


class RawPicture(NamedTuple):
    """An undecoded picture of a shard; `member` is its name in the tar file, `name` is used in errors."""

    name: str
    member: str
    data: bytes


def expand_shards(shards: str | Sequence[str]) -> list[str]:
    """The shards named by a pattern "data/train-{000..127}.tar", a command "pipe:…", a folder, or a list of these.

    An existing file or folder is taken as such, whatever its name: a name found in a folder is never a command.

    Raises:
        UsageError: there are none, or a local one doesn't exist.
    """
    if not isinstance(shards, str):
        return [url for part in shards for url in expand_shards(part)]
    path = Path(shards)
    if path.is_dir():
        urls = sorted(_as_path(entry) for entry in path.iterdir() if entry.name.endswith(SHARD_SUFFIXES))
        if not urls:
            raise UsageError(f"{shards}: no tar shards in this folder")
        return urls
    if path.is_file():
        return [_as_path(path)]
    try:
        urls = list(expand_urls(shards))
    except ValueError as error:  # malformed braces
        raise UsageError(f"{shards}: not a pattern of shards: {error}") from error
    for url in urls:
        if _is_local(url) and not Path(url).is_file():
            raise UsageError(f"{url}: no such shard")
    return urls


def _as_path(path: Path) -> str:
    """The path as text that can't be mistaken for a command."""
    return str(path) if _is_local(str(path)) else os.path.join(os.curdir, path)


def count_pictures(urls: Sequence[str]) -> int | None:
    """Number of pictures in local shards, from the headers of the tar files; None if one is not local.

    Damaged shards are counted as far as they can be read. The number of pictures that `raw_pictures` leaves out is
    printed on stderr.
    """
    counts = counts_of(urls)
    return None if counts is None else sum(counts)


def counts_of(urls: Sequence[str]) -> list[int] | None:
    """Number of pictures in each of the local shards; as `count_pictures`."""
    if not all(map(_is_local, urls)):
        return None
    samples = [_count(url) for url in urls]
    if left_out := sum(each.left_out for each in samples):
        example = next(each.example for each in samples if each.left_out)
        print(f"{left_out} pictures in shards are left out: {_LEFT_OUT.format(example)}", file=sys.stderr)
    return [each.taken for each in samples]


_LEFT_OUT = "only the first picture of each sample is used, which excludes {}"


class _Samples:
    """Which pictures of a shard are taken, by their names in order: the first of each sample.

    WebDataset takes a name up to its first dot as the sample. Names such as 2023.05.01.jpg and 2023.05.02.jpg are not
    two parts of a sample 2023: pictures with the same suffix are separate samples.
    """

    def __init__(self) -> None:
        self.taken = self.left_out = 0
        self.example = ""
        self._key, self._suffix = "", ""

    def takes(self, name: str) -> bool:
        """Whether the next picture of the shard is taken."""
        key, suffix = base_plus_ext(name)[0], os.path.splitext(name)[1].lower()
        takes = key != self._key or suffix == self._suffix
        if takes:
            self.taken += 1
            self._key, self._suffix = key, suffix
        else:
            self.left_out += 1
            self.example = self.example or printable(name)
        return takes


@functools.cache
def _tell(example: str) -> None:
    """Print it once, for archives that can't be scanned beforehand."""
    print(f"pictures in shards are left out: {_LEFT_OUT.format(example)}", file=sys.stderr)


def raw_pictures(url: str, damaged: Callable[[PictureError], None]) -> Generator[RawPicture, None, None]:
    """The pictures of a shard, in order: the first of each sample that has any, see `_Samples`.

    Args:
        url: a path, or what webdataset opens: "pipe:…" and others.
        damaged: called if the shard, or its end, can't be read.
    """
    try:
        source = _opened(url)
    except (OSError, ValueError) as error:
        damaged(PictureError(url, f"can't be opened: {error}"))
        return
    # For a command, its standard output: webdataset's own object may lose the end of that if the command fails.
    stream, samples = getattr(source, "stream", source), _Samples()
    problem: Exception | None = None
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in _pictures_of(archive):
                if not samples.takes(member.name):
                    continue
                name = printable(member.name)
                file = archive.extractfile(member)
                assert file is not None  # only plain files get here
                yield RawPicture(f"{name} in {url}", name, file.read())
        _finish(source, stream)
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        problem = error
    finally:
        with suppress(OSError):  # a command that is cut off complains
            source.close()
    if samples.left_out and not _is_local(url):
        _tell(samples.example)
    if problem is not None:
        damaged(PictureError(url, f"this shard can't be read to its end: {problem}"))


def _pictures_of(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members that should be pictures.

    Raises:
        tarfile.TarError: the archive is damaged, or a member claims to be larger than any picture.
    """
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # tarfile would keep all of them
        if member.size > most_bytes():
            raise tarfile.ReadError(
                f"{printable(member.name)} has {member.size:,} bytes, at most {most_bytes():,} are allowed "
                f"({PIXELS_VARIABLE} raises that)"
            )
        if member.isreg() and _is_sample(member.name):
            yield member


def _opened(url: str) -> Any:
    return open(url, "rb") if _is_local(url) else webdataset.gopen(url)


def _finish(source: Any, stream: Any) -> None:
    """Let a command that writes more after the end of the archive run to its own end."""
    while stream.read(1 << 20):
        pass
    try:
        source.close()
    except OSError as error:
        raise OSError(f"the command ended with status {source.status}") from error


class ShardPictures(Dataset[Tensor]):
    """Batches of samples (3, resolution, resolution) in −1 … 1 from tar shards, without end.

    Each of W processes has `streams` streams, n = W · streams in all, and takes its batches from its own streams in
    turn. An epoch has as many whole batches as fit into `samples`. In each epoch the shards are shuffled, and a stream
    reads every n-th of them; if there are fewer shards than streams, it reads all and takes every n-th sample. It
    shuffles its samples in a buffer. If its shards end before the epoch, it starts them again, since shards may differ
    in length. Random crops are drawn from (seed, number).

    So batch b depends only on b, the seed, the batch size, W and `streams`. To start within an epoch, a stream reads
    the earlier samples of the epoch without decoding them. A picture that can't be read is replaced by the next
    readable one of its stream.

    Args:
        urls: the shards, see `expand_shards`.
        crop: the part of a picture that becomes the sample.
        samples: per epoch.
        seed: for everything random; not negative.
        broken: counts the pictures and shards that can't be read.
        batch_size: per process.
        rank: number of the process.
        world_size: W.
        streams: number of worker processes, so that each reads one stream.
        buffer: number of samples of a stream that are shuffled together; 1 keeps their order.
    """

    def __init__(
        self,
        urls: Sequence[str],
        crop: Crop,
        *,
        samples: int,
        seed: int,
        broken: UnreadableFiles,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        streams: int = 1,
        buffer: int = 500,
    ) -> None:
        self.urls, self.crop, self.samples, self.seed, self.broken = list(urls), crop, samples, seed, broken
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.streams, self.buffer = streams, buffer
        self._readers: dict[tuple[int, int], _Reader] = {}

    def __len__(self) -> int:
        """Number of samples in an epoch."""
        return self.samples

    def __getitems__(self, numbers: list[int]) -> list[Tensor]:  # -> (3, resolution, resolution) each
        """The batch with these numbers, which come from `StreamBatches`."""
        together = self.batch_size * self.world_size
        epoch, batch = divmod(numbers[0] // together, max(1, self.samples // together))
        nth, stream = divmod(batch, self.streams)
        reader = self._reader(epoch, stream, nth * self.batch_size)
        return [reader.take(self._loader(number)) for number in numbers]

    def _reader(self, epoch: int, stream: int, position: int) -> "_Reader":
        reader = self._readers.get((epoch, stream))
        if reader is None or reader.position > position:
            reader = _Reader(self._raw(epoch, stream), self.samples, self.broken)
            self._readers = {key: other for key, other in self._readers.items() if key[0] == epoch}
            self._readers[epoch, stream] = reader
        reader.skip_to(position)
        return reader

    def _loader(self, number: int) -> "_Load":
        return lambda raw: load_square(raw.data, raw.name, self.crop, sample_dice(self.seed, number))

    def _raw(self, epoch: int, stream: int) -> Iterator[RawPicture]:
        order = list(self.urls)
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        count = self.world_size * self.streams
        mine, step = (self.rank * self.streams + stream + epoch) % count, count
        if len(order) >= count:
            order, mine, step = order[mine::count], 0, 1
        for turn in itertools.count():
            raw = itertools.islice(_chained(order, self.broken), mine, None, step)
            if self.buffer > 1:
                dice = random.Random(f"{self.seed} {epoch} {stream} {self.rank} {turn}")
                raw = webdataset.shuffle(self.buffer, initial=self.buffer, rng=dice)(raw)
            empty = True
            for picture in raw:
                empty = False
                yield picture
            if empty:
                if step == 1 and len(order) == len(self.urls):
                    raise UsageError(f"there are no pictures in {', '.join(self.urls[:3])} …")
                order, mine, step = self.urls, 0, 1  # all shards of this stream are damaged

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}  # a worker opens its own readers


class ShardsInOrder(Dataset[Tensor]):
    """The middle squares (3, resolution, resolution) in −1 … 1 of the pictures in tar shards, in order.

    Reading a picture reads all before it, but decodes only the requested ones. A picture that can't be read is replaced
    by the next readable one.

    Args:
        urls: the shards, see `expand_shards`.
        resolution: to which the shorter side is resized.
        samples: number of pictures; if there are fewer, the sequence starts again after the last.
        broken: counts the pictures and shards that can't be read.
    """

    def __init__(self, urls: Sequence[str], resolution: int, *, samples: int, broken: UnreadableFiles) -> None:
        self.urls, self.resolution, self.samples, self.broken = list(urls), resolution, samples, broken
        self._reader: _Reader | None = None

    def __len__(self) -> int:
        return self.samples

    def __getitems__(self, numbers: list[int]) -> list[Tensor]:  # -> (3, resolution, resolution) each
        """The pictures with these numbers, which must increase."""
        reader = self._reader
        if reader is None or reader.position > numbers[0]:
            self._reader = reader = _Reader(self._raw(), self.samples, self.broken)
        pictures = []
        for number in numbers:
            reader.skip_to(number)
            pictures.append(reader.take(lambda raw: load_centre(raw.data, raw.name, self.resolution)))
        return pictures

    def _raw(self) -> Iterator[RawPicture]:
        empty = False
        while not empty:
            empty = True
            for picture in _chained(self.urls, self.broken):
                empty = False
                yield picture
        raise UsageError(f"there are no pictures in {', '.join(self.urls[:3])} …")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}


_Load = Callable[[RawPicture], Tensor]


class _Reader:
    """Decodes a stream of raw pictures; `position` is the number of pictures returned or skipped."""

    def __init__(self, raw: Iterator[RawPicture], count: int, broken: UnreadableFiles) -> None:
        self.position = 0
        self._raw, self._count, self._broken = raw, count, broken
        self._ahead: deque[RawPicture] = deque()

    def skip_to(self, position: int) -> None:
        while self.position < position:
            self._look_ahead(0)
            self._advance()

    def take(self, load: _Load) -> Tensor:
        # A replacement stays in the queue, so that a position means the same whether or not pictures are decoded.
        for step in range(self._count):
            try:
                picture = load(self._look_ahead(step))
            except PictureError as error:
                self._broken.add(error)
            else:
                self._advance()
                return picture
        raise UsageError(f"none of the {self._count} pictures can be read")

    def _look_ahead(self, step: int) -> RawPicture:
        if step == len(self._ahead):
            self._ahead.append(next(self._raw))
        return self._ahead[step]

    def _advance(self) -> None:
        self._ahead.popleft()
        self.position += 1


def _chained(urls: Sequence[str], broken: UnreadableFiles) -> Iterator[RawPicture]:
    return itertools.chain.from_iterable(raw_pictures(url, broken.add) for url in urls)


def _is_local(url: str) -> bool:
    return url != "-" and not urlparse(url).scheme


def _count(url: str) -> _Samples:
    samples = _Samples()
    with suppress(OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError), tarfile.open(url) as archive:
        for member in _pictures_of(archive):
            samples.takes(member.name)
    return samples


def _is_sample(name: str) -> bool:
    # webdataset reserves folders called __…__, and finds no key in some names.
    return is_picture_name(name) and not re.match("__[^/]*__/", name) and base_plus_ext(name)[0] is not None
