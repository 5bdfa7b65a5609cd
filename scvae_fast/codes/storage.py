"""Files of codes: Apache Parquet, a row for each picture, written and read in row groups.

Format 1. A row has `name`, `height` and `width` (pixels), `h` and `w` (cells), and the arrays of a `SparseCodes`:
`counts`, `atoms` (uint16, or uint32 where K is above 65535) and `values` (float16 or float32). The file's metadata
has, as JSON under "scvae_fast.codes", what `CodeFileInfo` has. Pages are split into byte streams, compressed by
Zstandard, and carry check sums. Any reader of Parquet can read such a file.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from scvae_fast._extras import extra
from scvae_fast._files import printable, write_atomically
from scvae_fast._limits import too_large
from scvae_fast.codes.sparse import CodedPicture, SparseCodes, index_type
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE

with extra("scvae_fast.codes.storage", "pyarrow"):
    import pyarrow as pa
    import pyarrow.parquet as pq

ValueType = Literal["float16", "float32"]

SCHEMA = 1
_KEY = b"scvae_fast.codes"
_MAGIC = b"PAR1"
_ARRAYS = ("counts", "atoms", "values")
# A row group is written when it has so many entries or pictures: some 12 MiB in memory.
_ENTRIES_AT_ONCE = 2**21
_PICTURES_AT_ONCE = 4096


class CodeFileError(UsageError):
    """A file of codes can't be written, read, or used with a model; the message names the file and says why."""


@dataclass(frozen=True, kw_only=True)
class CodeFileInfo:
    """What a file of codes says of itself.

    Args:
        schema: version of the format.
        scvae_fast: version of the package that wrote it.
        fingerprint: of the model that made the codes, see `SCVAE.fingerprint`.
        config: of that model.
        n_atoms: K.
        stride: pixels per cell, in each direction.
        values: dtype of the values.
    """

    schema: int
    scvae_fast: str
    fingerprint: str
    config: dict[str, Any]
    n_atoms: int
    stride: int
    values: ValueType


@dataclass(frozen=True)
class CodeFileSize:
    """How much is in a file of codes."""

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
    path: str | os.PathLike[str], model: SCVAE, pictures: Iterable[CodedPicture], *, values: ValueType = "float16"
) -> CodeFileSize:
    """Write the codes of pictures as they come; the file appears whole, when all are written, or not at all.

    In memory are the pictures of one row group, however many there are in all.

    Args:
        path: the file; missing folders are made, and what is there is replaced.
        model: that made the codes.
        pictures: names, sizes and codes; of names, bytes that are no UTF-8 are escaped.
        values: "float32" keeps values as they are. "float16" takes two thirds of the space; with the demo's model its
            reconstructions are within 90 dB (PSNR) of those from float32.

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
    try:
        write_atomically(path, partial(_write, info=info, pictures=map(totals.count, pictures)))
        n_bytes = path.stat().st_size
    except OSError as error:
        raise CodeFileError(f"{path} can't be written: {error}") from error
    return CodeFileSize(totals.pictures, totals.pixels, totals.cells, totals.entries, n_bytes)


class CodeFile:
    """A file that `write_codes` wrote; iterate over it as often as you like to get each `CodedPicture`.

    In memory is one row group at a time, beside the codes that the caller keeps.

    Args:
        path: the file.

    Attributes:
        info: a `CodeFileInfo`.

    Raises:
        CodeFileError: there is no such file, it is no file of codes, of another version of the format, or damaged;
            damage of the codes themselves shows in the iteration.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self._open() as file:
            self.info = _read_info(self.path, file.metadata.metadata or {})
            if not file.schema_arrow.equals(_columns(self.info), check_metadata=False):
                raise CodeFileError(f"{self.path} is damaged: its columns are not those of format {SCHEMA}")
            self._pictures = int(file.metadata.num_rows)

    def __len__(self) -> int:
        """Number of pictures."""
        return self._pictures

    def __iter__(self) -> Iterator[CodedPicture]:
        with self._open() as file:
            for number in range(file.num_row_groups):
                try:
                    yield from _pictures_of(file.read_row_group(number).combine_chunks(), self.info)
                except (pa.ArrowException, OSError, ValueError) as error:
                    raise CodeFileError(f"{self.path} is damaged in row group {number}: {error}") from error

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

    @contextmanager
    def _open(self) -> Iterator[Any]:
        # Of a path, pyarrow would ask first whether it is an address, and it takes no names but UTF-8.
        try:
            source = open(self.path, "rb")  # noqa: SIM115  # whose errors are not those of the block
        except OSError as error:
            raise CodeFileError(f"{self.path} can't be read: {error.strerror or error}") from error
        with source:
            is_parquet = source.read(len(_MAGIC)) == _MAGIC
            try:
                file = pq.ParquetFile(source, page_checksum_verification=True)
            except (pa.ArrowException, OSError) as error:
                what = "is cut short or damaged" if is_parquet else "is no file of codes"
                raise CodeFileError(f"{self.path} {what}: {error}") from error
            yield file


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


def _columns(info: CodeFileInfo) -> Any:
    """The columns of format 1."""
    index = pa.from_numpy_dtype(index_type(info.n_atoms))
    arrays = dict(zip(_ARRAYS, (index, index, pa.from_numpy_dtype(np.dtype(info.values))), strict=True))
    lists = {name: pa.list_(pa.field("element", kind, nullable=False)) for name, kind in arrays.items()}
    kinds = {"name": pa.string()} | dict.fromkeys(("height", "width", "h", "w"), pa.uint32()) | lists
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])


def _write(path: Path, info: CodeFileInfo, pictures: Iterable[CodedPicture]) -> None:
    schema = _columns(info).with_metadata({_KEY: json.dumps(asdict(info))})
    options = {
        "compression": "zstd",
        "compression_level": 9,
        "use_dictionary": False,
        # On the codes of the demo's model it takes a third off the atoms, and a twelfth off the values.
        "column_encoding": {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in _ARRAYS},
        "write_statistics": ["name", "height", "width"],
        "write_page_checksum": True,
    }
    with path.open("wb") as file, pq.ParquetWriter(file, schema, **options) as writer:
        for group in _groups(pictures):
            writer.write_table(_table(group, schema, info), row_group_size=len(group))
            del group  # before the next one fills


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
    arrays: dict[str, list[np.ndarray]] = {name: [getattr(each, name) for each in codes] for name in _ARRAYS}
    arrays["values"] = [_narrowed(picture, info.values) for picture in group]
    columns = {
        "name": [picture.name for picture in group],
        "height": [picture.size[0] for picture in group],
        "width": [picture.size[1] for picture in group],
        "h": [each.h for each in codes],
        "w": [each.w for each in codes],
    } | {name: _lists(parts, schema.field(name).type) for name, parts in arrays.items()}
    return pa.table(columns, schema=schema)


def _narrowed(picture: CodedPicture, values: ValueType) -> np.ndarray:
    with np.errstate(over="ignore"):
        narrowed = picture.codes.values.astype(values)
    if np.isinf(narrowed).any() and not np.isinf(picture.codes.values).any():
        raise CodeFileError(f"the codes of {picture.name} have values too large for {values}: take float32")
    return narrowed


def _lists(parts: list[np.ndarray], kind: Any) -> Any:
    starts = np.cumsum([0, *map(len, parts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(starts), pa.array(np.concatenate(parts)), type=kind)


def _read_info(path: Path, metadata: dict[bytes, bytes]) -> CodeFileInfo:
    if _KEY not in metadata:
        raise CodeFileError(f"{path} is a Parquet file, but not of codes that scvae_fast wrote")
    try:
        found = json.loads(metadata[_KEY])
        if found["schema"] != SCHEMA:
            raise CodeFileError(
                f"{path} is of format {found['schema']}, written by scvae_fast {found.get('scvae_fast')}; "
                f"this version reads format {SCHEMA}"
            )
        info = CodeFileInfo(**{field.name: found[field.name] for field in fields(CodeFileInfo)})
        if wrong := [name for name, right in _plausible(info).items() if not right]:
            raise ValueError(f"{wrong[0]} is {getattr(info, wrong[0])!r}")
        return info
    except (ValueError, KeyError, TypeError) as error:
        raise CodeFileError(f"{path} is damaged: its metadata can't be read: {error!r}") from error


def _plausible(info: CodeFileInfo) -> dict[str, bool]:
    """Whether each field is what it can be."""
    counts = {name: getattr(info, name) for name in ("n_atoms", "stride")}
    return {
        "scvae_fast": isinstance(info.scvae_fast, str),
        "fingerprint": isinstance(info.fingerprint, str),
        "config": isinstance(info.config, dict),
        "values": info.values in get_args(ValueType),
        **{name: type(value) is int and 1 <= value < 2**32 for name, value in counts.items()},
    }


def _pictures_of(group: Any, info: CodeFileInfo) -> Iterator[CodedPicture]:
    """The pictures of a row group; their arrays are parts of its own."""
    rows = {name: group[name].to_pylist() for name in ("name", "height", "width", "h", "w")}
    starts, arrays = {}, {}
    for name in _ARRAYS:
        (lists,) = group[name].chunks
        starts[name], arrays[name] = lists.offsets.to_numpy(), lists.values.to_numpy(zero_copy_only=True)
    for row, (name, height, width, h, w) in enumerate(zip(*rows.values(), strict=True)):
        if problem := too_large(height, width):
            raise ValueError(f"{name}: {problem}")
        if (h, w) != (-(-height // info.stride), -(-width // info.stride)):
            raise ValueError(f"{name} of {height} x {width} pixels has {h} x {w} cells")
        counts, atoms, values = (arrays[each][starts[each][row] : starts[each][row + 1]] for each in _ARRAYS)
        yield CodedPicture(name, (height, width), SparseCodes(h, w, info.n_atoms, counts, atoms, values))
