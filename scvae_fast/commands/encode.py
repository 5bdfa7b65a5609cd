"""`scvae-fast encode`: encodes pictures into a file of codes, or into a folder of parts."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from scvae_fast._files import claim_folder
from scvae_fast._shares import Share, joined, own_share
from scvae_fast.codes.coding import encode_stream
from scvae_fast.codes.parts import PartInfo, listed, missing_parts
from scvae_fast.codes.sparse import CodedPicture
from scvae_fast.codes.storage import CodeFile, CodeFileError, CodeFileSize, ValueType, part_to_write, write_codes
from scvae_fast.commands._inputs import InferenceOptions, with_progress
from scvae_fast.data.stream import Layout, PictureStream, Split, check_arrangement
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.models.speed import SpeedSettings


def encode_data(
    checkpoint: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: Path,
    *,
    layout: Layout = "auto",
    split: Split | None = None,
    resize: int | None = None,
    limit: int | None = None,
    values: ValueType = "float16",
    inference: InferenceOptions | None = None,
    part: Share | None = None,
) -> CodeFileSize | None:
    """Code pictures into a file, and print what it contains and how large it is.

    With a part, or under torchrun, `out` is a folder, and each process writes one part of it. Parts that are already
    complete are not written again.

    Args:
        checkpoint: see `load_model`.
        data: see `PictureStream`, also for layout, split and resize.
        out: the file, see `write_codes`, which may replace only another file of codes; or the folder, see
            `codes.parts`.
        layout: how the data is arranged.
        split: for layouts with splits.
        resize: side of the squares that pictures are resized and cropped to; None keeps them whole.
        limit: number of pictures to take, starting with the first.
        values: dtype of the stored values.
        inference: how the model is run.
        part: share of the pictures that this process codes, without communicating with other processes.

    Returns:
        The size of the file or folder; None while the folder lacks parts.

    Raises:
        UsageError: an argument can't be used, no picture could be read, or the file can't be written; or the folder
            has parts from another model, other pictures or other settings.
    """
    check_arrangement(layout, split)
    share, inference = own_share(part), inference or InferenceOptions()
    if share is None:
        _check_replaced(out)
    model, speed = inference.load(checkpoint)
    stream = PictureStream(data, layout=layout, split=split, resize=resize, limit=limit)
    if share is not None:
        _encode_part(model, stream, out, share, values=values, inference=inference, speed=speed)
        with joined() as processes:  # not earlier, because the processes exchange nothing before
            processes.wait()
            return processes.on_first(partial(_report_on_folder, out, share.parts, model, values))
    sources = _SourceFiles(stream.folder if resize is None else None)
    coded = map(sources.count, encode_stream(model, stream, batch_size=inference.batch_size, speed=speed))
    written = write_codes(out, model, with_progress(_at_least_one(coded, data), stream.length or limit), values=values)
    _report(written, model, out, values)
    if sources.n_bytes is not None:
        print(
            f"the picture files: {sources.n_bytes:,} bytes, {8 * sources.n_bytes / written.pixels:.3f} bits per pixel"
        )
    return written


def _encode_part(
    model: SCVAE,
    stream: PictureStream,
    out: Path,
    share: Share,
    *,
    values: ValueType,
    inference: InferenceOptions,
    speed: SpeedSettings,
) -> None:
    """Write a part, unless it exists already."""
    claim_folder(out)
    own, listing = stream.part(share, inference.batch_size), stream.listing()
    settings = {
        "resize": stream.resize,
        "values": values,
        "precision": inference.precision,
        "batch_size": inference.batch_size,
    }

    def about() -> PartInfo:
        return PartInfo(
            part=share.part, parts=share.parts, listing=listing, settings=settings, skipped=len(own.skipped)
        )

    path = part_to_write(out, model, about())
    if path is None:
        print(f"part {share} of {out} is already complete", flush=True)
    else:
        coded = encode_stream(model, own, batch_size=inference.batch_size, speed=speed)
        written = write_codes(path, model, with_progress(coded, own.length), values=values, part=about)
        print(f"part {share}: {written.pictures:,} pictures, {written.n_bytes:,} bytes in {path}", flush=True)


def _report_on_folder(out: Path, parts: int, model: SCVAE, values: ValueType) -> CodeFileSize | None:
    """Print and return a folder's size, or print its missing parts and return None."""
    if missing := missing_parts(out, parts):
        print(f"{out} still lacks {len(missing)} of {parts} parts: {listed(missing)}")
        return None
    file = CodeFile(out)
    if not len(file):
        raise UsageError(f"{out}: no picture could be read")
    _report(file.size, model, out, values)
    if file.skipped:
        print(f"pictures that could not be read: {file.skipped:,}")
    return file.size


def _report(written: CodeFileSize, model: SCVAE, out: Path, values: ValueType) -> None:
    entries = written.cells * model.config.n_atoms
    print(f"{written.pictures:,} pictures, {written.pixels:,} pixels, {written.cells:,} codes")
    print(
        f"{written.entries / entries:.2%} of the code entries nonzero, "
        f"about {written.entries / written.cells:.1f} of {model.config.n_atoms} per code"
    )
    print(f"{out}: {written.n_bytes:,} bytes, {written.bits_per_pixel:.3f} bits per pixel, values in {values}")


def _check_replaced(out: Path) -> None:
    try:
        if out.is_file():
            CodeFile(out)
    except CodeFileError as error:
        raise UsageError(f"{out} already exists and is not a file of codes: choose another --out") from error


class _SourceFiles:
    """Total size of the picture files in a folder; None without a folder, or if a name has escapes."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.n_bytes: int | None = None if folder is None else 0

    def count(self, coded: CodedPicture) -> CodedPicture:
        if self._folder is not None and self.n_bytes is not None:
            file = self._folder / coded.name
            self.n_bytes = self.n_bytes + file.stat().st_size if file.is_file() else None
        return coded


def _at_least_one(coded: Iterator[CodedPicture], data: str | os.PathLike[str]) -> Iterator[CodedPicture]:
    first = next(coded, None)
    if first is None:
        raise UsageError(f"{data}: no picture could be read")
    yield first
    yield from coded
