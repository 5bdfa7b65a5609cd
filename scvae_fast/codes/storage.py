"""Files of codes: Apache Parquet with a row per picture, written and read in row groups.

Format 1. A row has `name`, `height` and `width` (pixels), `h` and `w` (cells), and the arrays of a `SparseCodes`:
`counts`, `atoms` (uint16, or uint32 if K is above 65535) and `values` (float16 or float32). The file's metadata has the
fields of `CodeFileInfo`, as JSON under "scvae_fast.codes". Pages are split into byte streams, compressed with
Zstandard, and carry checksums. Any Parquet reader can read such a file. A folder of parts is a file in several pieces,
see `parts`.
"""

import copy
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np

from scvae_fast._extras import extra
from scvae_fast._files import printable, write_atomically
from scvae_fast._shares import Share
from scvae_fast.codes import parts
from scvae_fast.codes.one_file import ARRAYS, KEY, SCHEMA, CodeFileInfo, OneFile, ValueType, columns_of
from scvae_fast.codes.parts import CodeFileError, PartInfo
from scvae_fast.codes.sparse import CodedPicture, SparseCodes
from scvae_fast.models import SCVAE

with extra("scvae_fast.codes.storage", "pyarrow"):
    import pyarrow as pa
    import pyarrow.parquet as pq

# A row group is written once it has this many entries or pictures: about 12 MiB in memory.
_ENTRIES_AT_ONCE = 2**21
_PICTURES_AT_ONCE = 4096


@dataclass(frozen=True)
class CodeFileSize:
    """Size of a file or folder of codes."""

    pictures: int
    pixels: int
    cells: int
    entries: int  # nonzero
    n_bytes: int  # of the file

    @property
    def bits_per_pixel(self) -> float:
        """Bits of the whole file per pixel; NaN without pixels."""
        return 8 * self.n_bytes / self.pixels if self.pixels else float("nan")


def write_codes(
    path: str | os.PathLike[str],
    model: SCVAE,
    pictures: Iterable[CodedPicture],
    *,
    values: ValueType = "float16",
    part: Callable[[], PartInfo] | None = None,
) -> CodeFileSize:
    """Write the codes of pictures from an iterable. The file appears only when it is complete.

    Memory holds one row group at a time.

    Args:
        path: the file; missing folders are created, and an existing file is replaced.
        model: the model that made the codes.
        pictures: names, sizes and codes; bytes of names that are not UTF-8 are escaped.
        values: "float32" keeps values unchanged. "float16" takes two thirds of the space; with the demo's model its
            reconstructions are within 90 dB (PSNR) of those from float32.
        part: called after the last picture, returns which part of a folder this is; its sums are filled in here.

    Raises:
        ValueError: the codes don't fit the model, or values is neither of the two.
        CodeFileError: the file can't be written, or a value is too large for float16.
    """
    if values not in get_args(ValueType):
        raise ValueError(f"write_codes: values must be one of {get_args(ValueType)}, got {values!r}")
    path, config = Path(path), model.config
    info = CodeFileInfo(
        schema=SCHEMA,
        scvae_fast=version("scvae-fast"),
        fingerprint=model.fingerprint(),
        config=config.to_dict(),
        n_atoms=config.n_atoms,
        stride=config.stride,
        values=values,
    )
    totals = _Totals(model)
    about = None if part is None else lambda: totals.of_part(part()).to_json()
    try:
        written = (totals.count(_stored(picture, values)) for picture in pictures)
        write_atomically(path, partial(_write, info=info, pictures=written, about=about))
        n_bytes = path.stat().st_size
    except OSError as error:
        raise CodeFileError(f"{path} can't be written: {error}") from error
    return CodeFileSize(totals.pictures, totals.pixels, totals.cells, totals.entries, n_bytes)


class CodeFile:
    """A file written by `write_codes`, or a folder of parts. Iterating yields its pictures, any number of times.

    The pictures of a folder are those of its parts, in order. Memory holds one row group at a time, plus any codes
    that the caller keeps.

    Args:
        path: the file, or the folder.

    Attributes:
        info: a `CodeFileInfo`.
        first: the number of the first picture, see `part`.

    Raises:
        CodeFileError: the file is missing, is not a file of codes, has another format version, or is damaged; damage
            of the codes themselves shows during iteration. Or parts of a folder are missing or don't belong together.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._files = _parts_of(self.path) if self.path.is_dir() else [OneFile(self.path)]
        self.info = self._files[0].info
        self._starts = np.cumsum([0, *(file.pictures for file in self._files)])
        self._rows = range(int(self._starts[-1]))

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._rows)

    def __iter__(self) -> Iterator[CodedPicture]:
        return (picture for file, rows in self._own() for picture in file.read(rows))

    @property
    def first(self) -> int:
        """The number of the first picture within the whole file or folder; 0 except for a `part`."""
        return self._rows.start

    @property
    def size(self) -> CodeFileSize:
        """Size of a folder of parts.

        Raises:
            ValueError: it is not a folder.
        """
        if not self.path.is_dir():
            raise ValueError(f"CodeFile.size: needs a folder of parts, {self.path} is a file")
        about = [file.part() for file in self._files]
        return CodeFileSize(
            int(self._starts[-1]),
            sum(each.pixels for each in about),
            sum(each.cells for each in about),
            sum(each.entries for each in about),
            self.n_bytes,
        )

    @property
    def skipped(self) -> int:
        """Number of pictures that could not be read when the parts of a folder were made; a file has no count: 0."""
        return sum(file.part().skipped for file in self._files) if self.path.is_dir() else 0

    @property
    def n_bytes(self) -> int:
        """Size of the file or of all parts in bytes."""
        return sum(file.path.stat().st_size for file in self._files)

    def part(self, share: Share, block: int = 1) -> "CodeFile":
        """The pictures of one part of several; row groups without any of them are not read.

        Args:
            share: which part.
            block: consecutive pictures, counted from the first, that stay in one part.
        """
        other = copy.copy(self)
        other._rows = share.of(int(self._starts[-1]), block)
        return other

    def names(self) -> Iterator[str]:
        """The names of all pictures, including those of other parts; codes are not read."""
        return (name for file in self._files for (name,) in file.read_columns(range(file.pictures), ["name"]))

    def grids(self) -> Iterator[tuple[int, int]]:
        """(h, w) of each picture; codes are not read."""
        return (grid for file, rows in self._own() for grid in file.read_columns(rows, ["h", "w"]))

    def check_model(self, model: SCVAE) -> None:
        """Check that the codes were made by this model.

        Raises:
            CodeFileError: they were made by another one.
        """
        found = model.fingerprint()
        if found != self.info.fingerprint:
            raise CodeFileError(
                f"the codes in {self.path} were made by another model: its fingerprint is "
                f"{self.info.fingerprint[:12]}…, that of the given model is {found[:12]}…"
            )

    def _own(self) -> Iterator[tuple["OneFile", range]]:
        """Files with pictures of this part, and the numbers of these pictures within each file."""
        for file, start in zip(self._files, self._starts.tolist(), strict=False):
            rows = range(max(self._rows.start - start, 0), min(self._rows.stop - start, file.pictures))
            if len(rows):
                yield file, rows


def part_to_write(folder: Path, model: SCVAE, wanted: PartInfo) -> Path | None:
    """The path of a part to write; None if the part already exists with the same model, listing and settings.

    Raises:
        CodeFileError: the folder holds anything other than such parts, or this part is damaged.
    """
    found, path = parts.parts_in(folder), parts.part_path(folder, Share(wanted.part, wanted.parts))
    if not found:
        return path
    # Comparing with one other part is enough here, because each is compared before it is written. Readers compare all.
    file = OneFile(found.get(wanted.part, next(iter(found.values()))))
    problem = file.part().difference(wanted)
    if problem is None and file.info.fingerprint != model.fingerprint():
        problem = "its codes were made by another model"
    if problem is not None:
        raise CodeFileError(f"{file.path}: {problem}; choose another folder, or remove what is in this one")
    return None if file.path == path else path


def _parts_of(folder: Path) -> list["OneFile"]:
    if missing := parts.missing_parts(folder):
        raise CodeFileError(
            f"{folder} lacks parts: {parts.listed(missing)}; repeat the scvae-fast encode command that made the others"
        )
    files = [OneFile(path) for _, path in sorted(parts.parts_in(folder).items())]
    first, about = files[0], files[0].part()
    for file in files[1:]:
        problem = file.part().difference(about)
        if problem is None and replace(file.info, scvae_fast=first.info.scvae_fast) != first.info:
            problem = "its codes were made by another model"
        if problem is not None:
            raise CodeFileError(f"{file.path} does not belong to {first.path.name}: {problem}")
    return files


class _Totals:
    """Checks and counts pictures on their way to the file."""

    def __init__(self, model: SCVAE) -> None:
        self._config = model.config
        self.pictures = self.pixels = self.cells = self.entries = 0

    def count(self, picture: CodedPicture) -> CodedPicture:
        codes = picture.check(self._config).codes
        self.pictures += 1
        self.pixels += picture.size[0] * picture.size[1]
        self.cells += codes.h * codes.w
        self.entries += codes.n_entries
        return picture._replace(name=printable(picture.name))

    def of_part(self, part: PartInfo) -> PartInfo:
        return replace(part, pixels=self.pixels, cells=self.cells, entries=self.entries)


def _write(path: Path, info: CodeFileInfo, pictures: Iterable[CodedPicture], about: Callable[[], str] | None) -> None:
    schema = columns_of(info).with_metadata({KEY: json.dumps(asdict(info))})
    options = {
        "compression": "zstd",
        "compression_level": 9,
        "use_dictionary": False,
        # On codes of the demo's model, this encoding shrinks atoms by a third and values by a twelfth.
        "column_encoding": {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in ARRAYS},
        "write_statistics": ["name", "height", "width"],
        "write_page_checksum": True,
    }
    with path.open("wb") as file, pq.ParquetWriter(file, schema, **options) as writer:
        for group in _groups(pictures):
            writer.write_table(_table(group, schema, info), row_group_size=len(group))
            del group  # free it before the next one fills
        if about is not None:
            writer.add_key_value_metadata({parts.KEY: about()})


def _groups(pictures: Iterable[CodedPicture]) -> Iterator[list[CodedPicture]]:
    group: list[CodedPicture] = []
    entries = 0
    for picture in pictures:
        group.append(picture)
        entries += picture.codes.n_entries + len(picture.codes.counts)
        if entries >= _ENTRIES_AT_ONCE or len(group) >= _PICTURES_AT_ONCE:
            yield group
            group, entries = [], 0
    if group:
        yield group


def _table(group: list[CodedPicture], schema: Any, info: CodeFileInfo) -> Any:
    codes = [picture.codes for picture in group]
    arrays: dict[str, list[np.ndarray]] = {name: [getattr(each, name) for each in codes] for name in ARRAYS}
    arrays["values"] = [each.values.astype(info.values) for each in codes]
    columns = {
        "name": [picture.name for picture in group],
        "height": [picture.size[0] for picture in group],
        "width": [picture.size[1] for picture in group],
        "h": [each.h for each in codes],
        "w": [each.w for each in codes],
    } | {name: _lists(each, schema.field(name).type) for name, each in arrays.items()}
    return pa.table(columns, schema=schema)


def _stored(picture: CodedPicture, values: ValueType) -> CodedPicture:
    """The picture without entries that are zero in the file's dtype."""
    codes = picture.codes
    with np.errstate(over="ignore"):
        narrowed = codes.values.astype(values)
    if np.isinf(narrowed).any() and not np.isinf(codes.values).any():
        raise CodeFileError(f"the codes of {picture.name} have values too large for {values}: use float32")
    keep = narrowed != 0
    if keep.all():
        return picture
    cells = np.repeat(np.arange(len(codes.counts)), codes.counts)[keep]
    counts = np.bincount(cells, minlength=len(codes.counts)).astype(codes.counts.dtype)
    kept = SparseCodes(codes.h, codes.w, codes.n_atoms, counts, codes.atoms[keep], codes.values[keep])
    return picture._replace(codes=kept)


def _lists(arrays: list[np.ndarray], kind: Any) -> Any:
    starts = np.cumsum([0, *map(len, arrays)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(starts), pa.array(np.concatenate(arrays)), type=kind)
