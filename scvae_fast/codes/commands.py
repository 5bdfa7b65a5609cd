"""`scvae-fast encode` and `scvae-fast decode`: pictures to a file of codes, and back."""

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from scvae_fast._devices import find_device
from scvae_fast.codes.coding import BATCH_SIZE, decode_pictures, encode_pictures
from scvae_fast.codes.sparse import CodedPicture
from scvae_fast.codes.storage import CodeFile, CodeFileSize, ValueType, write_codes
from scvae_fast.data.pictures import save_picture
from scvae_fast.data.stream import Layout, NamedPicture, PictureStream, Split, check_arrangement
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.models.loading import load_model
from scvae_fast.speed import Precision, Speed

try:
    from PIL import Image
    from tqdm import tqdm  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError('scvae_fast.codes.commands needs Pillow and tqdm: pip install "scvae_fast[train]"') from error


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a model is run.

    Args:
        device: its name; None takes a GPU where there is one.
        precision: of encoder and decoder; codes are computed in float32.
        batch_size: most pictures of one size that go through the model together.
    """

    device: str | None = None
    precision: Precision = "float32"
    batch_size: int = BATCH_SIZE

    def load(self, checkpoint: str | os.PathLike[str]) -> tuple[SCVAE, Speed]:
        """The model of a checkpoint for pictures with three colours, where it is to run, and how.

        Raises:
            UsageError: there is no such device or checkpoint, or the model is for other pictures.
        """
        speed = Speed(precision=self.precision)
        model = load_model(checkpoint, find_device(self.device))
        if model.config.in_channels != 3:
            raise UsageError(f"{checkpoint} codes pictures with {model.config.in_channels} channels, not with 3")
        return model, speed


def encode_data(
    checkpoint: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: Path,
    *,
    layout: Layout = "auto",
    split: Split = "val",
    resize: int | None = None,
    limit: int | None = None,
    values: ValueType = "float16",
    running: Running | None = None,
) -> CodeFileSize:
    """Code pictures into a file, and print how much it holds and how large it is.

    Args:
        checkpoint: see `load_model`.
        data: see `PictureStream`; this goes for layout, split and resize as well.
        out: the file, see `write_codes`.
        layout: how the data is arranged.
        split: of a layout that has splits.
        resize: side of the squares that pictures are made into; None leaves them whole.
        limit: so many pictures at most.
        values: dtype in which values are kept.
        running: how the model is run.

    Raises:
        UsageError: something that was given can't be used, no picture could be read, or the file can't be written.
    """
    check_arrangement(layout, split)
    running = running or Running()
    model, speed = running.load(checkpoint)
    sources = _SourceFiles(Path(data), whole=resize is None)
    stream = islice(PictureStream(data, layout=layout, split=split, resize=resize), limit)
    coded = encode_pictures(model, map(sources.count, stream), batch_size=running.batch_size, speed=speed)
    written = write_codes(out, model, _with_progress(_at_least_one(coded, data), limit), values=values)
    entries = written.cells * model.config.n_atoms
    print(f"{written.pictures:,} pictures, {written.pixels:,} pixels, {written.cells:,} codes")
    print(
        f"{written.entries / entries:.2%} of the code entries not zero, "
        f"about {written.entries / written.cells:.1f} of {model.config.n_atoms}"
    )
    print(f"{out}: {written.n_bytes:,} bytes, {written.bits_per_pixel:.3f} bits per pixel, values in {values}")
    if sources.n_bytes is not None:
        print(
            f"the picture files: {sources.n_bytes:,} bytes, {8 * sources.n_bytes / written.pixels:.3f} bits per pixel"
        )
    return written


def decode_codes(
    checkpoint: str | os.PathLike[str],
    codes: Path,
    out: Path,
    *,
    suffix: str = "png",
    force: bool = False,
    running: Running | None = None,
) -> int:
    """Write the pictures that a file of codes holds, under the names that they had.

    Args:
        checkpoint: see `load_model`.
        codes: the file.
        out: a folder that is empty or doesn't exist. No picture gets outside of it.
        suffix: format of the pictures: "png", or another one that Pillow writes.
        force: whether the codes may have been made by another model.
        running: how the model is run.

    Returns:
        How many pictures there were.

    Raises:
        UsageError: something that was given can't be used, a name would lead out of the folder, or a picture can't be
            written.
    """
    file, running = CodeFile(codes), running or Running()
    model, speed = running.load(checkpoint)
    if not force:
        try:
            file.check_model(model)
        except UsageError as error:
            raise UsageError(f"{error}; --force decodes them all the same") from error
    if (file.info.n_atoms, file.info.stride) != (model.config.n_atoms, model.config.stride):
        raise UsageError(
            f"{codes} has codes over {file.info.n_atoms} atoms for {file.info.stride} x {file.info.stride} pixels, "
            f"{checkpoint} over {model.config.n_atoms} for {model.config.stride} x {model.config.stride}"
        )
    _claim_empty(out)
    pixels = 0
    coded = _with_progress(_with_safe_names(file), len(file))
    for name, picture in decode_pictures(model, coded, batch_size=running.batch_size, speed=speed):
        target = _target(out, name, suffix)
        try:
            save_picture(target, picture)
        except OSError as error:
            raise UsageError(f"{target} can't be written: {error}") from error
        pixels += picture[0].numel()
    bits_per_pixel = 8 * codes.stat().st_size / pixels if pixels else float("nan")
    print(f"{len(file):,} pictures in {out}; {codes}: {bits_per_pixel:.3f} bits per pixel")
    return len(file)


class _SourceFiles:
    """The size of the picture files, unless one was no file of its own or not coded whole."""

    def __init__(self, data: Path, *, whole: bool) -> None:
        self._root = data if data.is_dir() else data.parent
        self.n_bytes: int | None = 0 if whole else None

    def count(self, named: NamedPicture) -> NamedPicture:
        file = self._root / named.name
        if self.n_bytes is not None:
            self.n_bytes = self.n_bytes + file.stat().st_size if file.is_file() else None
        return named


def _at_least_one(coded: Iterator[CodedPicture], data: str | os.PathLike[str]) -> Iterator[CodedPicture]:
    first = next(coded, None)
    if first is None:
        raise UsageError(f"{data}: no picture could be read")
    yield first
    yield from coded


def _with_progress(coded: Iterable[CodedPicture], total: int | None) -> Iterable[CodedPicture]:
    return tqdm(coded, total=total, unit=" pictures", leave=False, disable=None)  # None: where nobody watches


def _claim_empty(folder: Path) -> None:
    """What is in a folder already is neither overwritten nor mixed up with the results."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty: choose another folder")
    except OSError as error:
        raise UsageError(f"{folder} can't be written to: {error}") from error


def _with_safe_names(coded: Iterable[CodedPicture]) -> Iterator[CodedPicture]:
    for picture in coded:
        path = Path(picture.name)
        if path.anchor or ".." in path.parts or not path.name or "\0" in picture.name:
            raise UsageError(
                f"the file has a picture by the name of {picture.name!r}, which would not be in the folder"
            )
        yield picture


def _target(out: Path, name: str, suffix: str) -> Path:
    """`name.png` for a `name` or `name.jpg`, or `name-2.png` … where pictures differ in nothing but their suffix."""
    path = out / name
    is_picture = path.suffix.lower() in Image.registered_extensions()
    stem = path.stem if is_picture else path.name
    candidates = (path.with_name(f"{stem}{'' if n == 1 else f'-{n}'}.{suffix}") for n in itertools.count(1))
    return next(candidate for candidate in candidates if not candidate.exists())
