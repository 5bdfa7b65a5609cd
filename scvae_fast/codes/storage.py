"""Files of codes: Apache Parquet, a row for each picture, written and read in row groups.

Format 1. A row has `name`, `height` and `width` (pixels), `h` and `w` (cells), and the arrays of a `SparseCodes`:
`counts`, `atoms` (uint16, or uint32 where K is above 65535) and `values` (float16 or float32). The file's metadata
has, as JSON under "scvae_fast.codes", what `CodeFileInfo` has. Pages are split into byte streams, compressed by
Zstandard, and carry check sums. Any reader of Parquet can read such a file. A folder of parts is a file in pieces,
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
from scvae_fast.codes.sparse import CodedPicture
from scvae_fast.models import SCVAE

with extra("scvae_fast.codes.storage", "pyarrow"):
    import pyarrow as pa
    import pyarrow.parquet as pq

# A row group is written when it has so many entries or pictures: some 12 MiB in memory.
_ENTRIES_AT_ONCE = 2**21
_PICTURES_AT_ONCE = 4096


@dataclass(frozen=True)
class CodeFileSize:
    """How much is in a file of codes, or in a folder of them."""

    pictures: int
    pixels: int
    cells: int
    entries: int  # that are not zero
    n_bytes: int  # of the file

    @property
    def bits_per_pixel(self) -> float:
        """Of the whole file; NaN without pixels."""
        return 8 * self.n_bytes / self.pixels if self.pixels else float("nan")


def write_codes(
    path: str | os.PathLike[str],
    model: SCVAE,
    pictures: Iterable[CodedPicture],
    *,
    values: ValueType = "float16",
    part: Callable[[], PartInfo] | None = None,
) -> CodeFileSize:
    """Write the codes of pictures as they come; the file appears whole, when all are written, or not at all.

    In memory are the pictures of one row group, however many there are in all.

    Args:
        path: the file; missing folders are made, and what is there is replaced.
        model: that made the codes.
        pictures: names, sizes and codes; of names, bytes that are no UTF-8 are escaped.
        values: "float32" keeps values as they are. "float16" takes two thirds of the space; with the demo's model its
            reconstructions are within 90 dB (PSNR) of those from float32.
        part: says, after the last picture, which part of a folder it is; its sums are filled in here.

    Raises:
        ValueError: codes are not the model's, or values is neither of the two.
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
        write_atomically(path, partial(_write, info=info, pictures=map(totals.count, pictures), about=about))
        n_bytes = path.stat().st_size
    except OSError as error:
        raise CodeFileError(f"{path} can't be written: {error}") from error
    return CodeFileSize(totals.pictures, totals.pixels, totals.cells, totals.entries, n_bytes)


class CodeFile:
    """A file that `write_codes` wrote, or a folder of parts; iterate over it as often as you like for each picture.

    The pictures of a folder are those of its parts in their order. In memory is one row group at a time, beside the
    codes that the caller keeps.

    Args:
        path: the file, or the folder.

    Attributes:
        info: a `CodeFileInfo`.
        first: the number of the first picture, see `part`.

    Raises:
        CodeFileError: there is no such file, it is no file of codes, of another version of the format, or damaged;
            damage of the codes themselves shows in the iteration. A folder lacks parts, or they don't belong together.
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
        """The number of the first picture among all of the file or the folder; 0 but for a `part`."""
        return self._rows.start

    @property
    def size(self) -> CodeFileSize:
        """How much is in a folder of parts.

        Raises:
            ValueError: it is no folder.
        """
        if not self.path.is_dir():
            raise ValueError(f"CodeFile.size: only the parts of a folder say it, {self.path} is a file")
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
        """So many pictures could not be read when the parts of a folder were made; of a file nobody knows it: 0."""
        return sum(file.part().skipped for file in self._files) if self.path.is_dir() else 0

    @property
    def n_bytes(self) -> int:
        """Of the file, or of all parts."""
        return sum(file.path.stat().st_size for file in self._files)

    def part(self, share: Share, block: int = 1) -> "CodeFile":
        """The pictures of one part of several; row groups without them are not read.

        Args:
            share: which part.
            block: so many, counted from the first picture, stay together.
        """
        other = copy.copy(self)
        other._rows = share.of(int(self._starts[-1]), block)
        return other

    def names(self) -> Iterator[str]:
        """The names of all pictures, of other parts as well; codes are not read."""
        return (name for file in self._files for (name,) in file.read_columns(range(file.pictures), ["name"]))

    def grids(self) -> Iterator[tuple[int, int]]:
        """(h, w) of each picture; codes are not read."""
        return (grid for file, rows in self._own() for grid in file.read_columns(rows, ["h", "w"]))

    def check_model(self, model: SCVAE) -> None:
        """Make sure that it was this model that made the codes.

        Raises:
            CodeFileError: it was another one.
        """
        found = model.fingerprint()
        if found != self.info.fingerprint:
            raise CodeFileError(
                f"the codes in {self.path} were made by another model: its fingerprint is "
                f"{self.info.fingerprint[:12]}…, that of the model given {found[:12]}…"
            )

    def _own(self) -> Iterator[tuple["OneFile", range]]:
        """Files with pictures of this part, and which of theirs they are."""
        for file, start in zip(self._files, self._starts.tolist(), strict=False):
            rows = range(max(self._rows.start - start, 0), min(self._rows.stop - start, file.pictures))
            if len(rows):
                yield file, rows


def part_to_write(folder: Path, model: SCVAE, wanted: PartInfo) -> Path | None:
    """Where a part is to be written; None if it is there already, whole and of the same model, listing and settings.

    Raises:
        CodeFileError: the folder holds something else than such parts, or this one is damaged.
    """
    found, path = parts.parts_in(folder), parts.part_path(folder, Share(wanted.part, wanted.parts))
    if not found:
        return path
    # Of the others one is enough: each was compared with one before it was written. Readers look at all.
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
            f"{folder} lacks parts: {parts.listed(missing)}; the scvae-fast encode that began it writes them"
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
    """What went by on its way to the file, checked."""

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
        # On the codes of the demo's model it takes a third off the atoms, and a twelfth off the values.
        "column_encoding": {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in ARRAYS},
        "write_statistics": ["name", "height", "width"],
        "write_page_checksum": True,
    }
    with path.open("wb") as file, pq.ParquetWriter(file, schema, **options) as writer:
        for group in _groups(pictures):
            writer.write_table(_table(group, schema, info), row_group_size=len(group))
            del group  # before the next one fills
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
    arrays["values"] = [_narrowed(picture, info.values) for picture in group]
    columns = {
        "name": [picture.name for picture in group],
        "height": [picture.size[0] for picture in group],
        "width": [picture.size[1] for picture in group],
        "h": [each.h for each in codes],
        "w": [each.w for each in codes],
    } | {name: _lists(each, schema.field(name).type) for name, each in arrays.items()}
    return pa.table(columns, schema=schema)


def _narrowed(picture: CodedPicture, values: ValueType) -> np.ndarray:
    with np.errstate(over="ignore"):
        narrowed = picture.codes.values.astype(values)
    if np.isinf(narrowed).any() and not np.isinf(picture.codes.values).any():
        raise CodeFileError(f"the codes of {picture.name} have values too large for {values}: take float32")
    return narrowed


def _lists(arrays: list[np.ndarray], kind: Any) -> Any:
    starts = np.cumsum([0, *map(len, arrays)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(starts), pa.array(np.concatenate(arrays)), type=kind)
