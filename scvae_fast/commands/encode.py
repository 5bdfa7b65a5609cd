"""`scvae-fast encode`: pictures to a file of codes."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from scvae_fast.codes.coding import encode_pictures
from scvae_fast.codes.sparse import CodedPicture
from scvae_fast.codes.storage import CodeFile, CodeFileError, CodeFileSize, ValueType, write_codes
from scvae_fast.commands._inputs import InferenceOptions, with_progress
from scvae_fast.data.stream import Layout, NamedPicture, PictureStream, Split, check_arrangement
from scvae_fast.errors import UsageError


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
    inference: InferenceOptions | None = None,
) -> CodeFileSize:
    """Code pictures into a file, and print how much it holds and how large it is.

    Args:
        checkpoint: see `load_model`.
        data: see `PictureStream`; this goes for layout, split and resize as well.
        out: the file, see `write_codes`; only other codes may be there.
        layout: how the data is arranged.
        split: of a layout that has splits.
        resize: side of the squares that pictures are made into; None leaves them whole.
        limit: so many pictures at most.
        values: dtype in which values are kept.
        inference: how the model is run.

    Raises:
        UsageError: something that was given can't be used, no picture could be read, or the file can't be written.
    """
    check_arrangement(layout, split)
    inference = inference or InferenceOptions()
    _check_replaced(out)
    model, speed = inference.load(checkpoint)
    sources = _SourceFiles(Path(data), whole=resize is None)
    stream = islice(PictureStream(data, layout=layout, split=split, resize=resize), limit)
    coded = encode_pictures(model, map(sources.count, stream), batch_size=inference.batch_size, speed=speed)
    written = write_codes(out, model, with_progress(_at_least_one(coded, data), limit), values=values)
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


def _check_replaced(out: Path) -> None:
    try:
        if out.is_file():
            CodeFile(out)
    except CodeFileError as error:
        raise UsageError(f"{out} is there already, and no file of codes: choose another --out") from error


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
