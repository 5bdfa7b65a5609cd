"""One Parquet file of codes: its metadata, its columns, and how it is read; see `storage`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from scvae_fast._extras import extra
from scvae_fast._limits import too_large
from scvae_fast.codes.parts import CodeFileError, PartInfo
from scvae_fast.codes.sparse import CodedPicture, SparseCodes, index_type

with extra("scvae_fast.codes.storage", "pyarrow"):
    import pyarrow as pa
    import pyarrow.parquet as pq

ValueType = Literal["float16", "float32"]

SCHEMA = 1
KEY = b"scvae_fast.codes"
ARRAYS = ("counts", "atoms", "values")
_MAGIC = b"PAR1"


@dataclass(frozen=True, kw_only=True)
class CodeFileInfo:
    """The metadata of a file of codes.

    Args:
        schema: version of the format.
        scvae_fast: version of the package that wrote it.
        fingerprint: of the model that made the codes, see `SCVAE.fingerprint`.
        config: configuration of that model.
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


class OneFile:
    """One Parquet file of codes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as file:
            self._metadata = file.metadata.metadata or {}
            self.info = _read_info(path, self._metadata)
            if not file.schema_arrow.equals(columns_of(self.info), check_metadata=False):
                raise CodeFileError(f"{path} is damaged: its columns are not those of format {SCHEMA}")
            self.pictures = int(file.metadata.num_rows)

    def part(self) -> PartInfo:
        """Which part of a folder this file is."""
        return PartInfo.read(self.path, self._metadata)

    def read(self, rows: range) -> Iterator[CodedPicture]:
        """The pictures with these numbers."""
        for number, group in self._groups(rows, None):
            try:
                yield from _pictures_of(group, self.info)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise self._damaged(number, error) from error

    def read_columns(self, rows: range, columns: list[str]) -> Iterator[tuple[Any, ...]]:
        """The values of these columns, for each of these pictures."""
        for _, group in self._groups(rows, columns):
            yield from zip(*(group[name].to_pylist() for name in columns), strict=True)

    def _groups(self, rows: range, columns: list[str] | None) -> Iterator[tuple[int, Any]]:
        """Row groups that contain these rows, cut to them, with their group numbers."""
        with self._open() as file:
            end = 0
            for number in range(file.num_row_groups):
                start, end = end, end + file.metadata.row_group(number).num_rows
                own = range(max(rows.start, start), min(rows.stop, end))
                if not len(own):
                    continue
                try:
                    group = file.read_row_group(number, columns=columns).combine_chunks()
                except (pa.ArrowException, OSError, ValueError) as error:
                    raise self._damaged(number, error) from error
                yield number, group.slice(own.start - start, len(own))

    def _damaged(self, group: int, error: Exception) -> CodeFileError:
        return CodeFileError(f"{self.path} is damaged in row group {group}: {error}")

    @contextmanager
    def _open(self) -> Iterator[Any]:
        # Given a path, pyarrow first checks whether it is a URL, and it accepts only UTF-8 names.
        try:
            source = open(self.path, "rb")  # noqa: SIM115  # its errors must not be handled like those of the block
        except OSError as error:
            raise CodeFileError(f"{self.path} can't be read: {error.strerror or error}") from error
        with source:
            is_parquet = source.read(len(_MAGIC)) == _MAGIC
            try:
                file = pq.ParquetFile(source, page_checksum_verification=True)
            except (pa.ArrowException, OSError) as error:
                what = "is cut short or damaged" if is_parquet else "is not a file of codes"
                raise CodeFileError(f"{self.path} {what}: {error}") from error
            yield file


def columns_of(info: CodeFileInfo) -> Any:
    """The columns of format 1."""
    index = pa.from_numpy_dtype(index_type(info.n_atoms))
    arrays = dict(zip(ARRAYS, (index, index, pa.from_numpy_dtype(np.dtype(info.values))), strict=True))
    lists = {name: pa.list_(pa.field("element", kind, nullable=False)) for name, kind in arrays.items()}
    kinds = {"name": pa.string()} | dict.fromkeys(("height", "width", "h", "w"), pa.uint32()) | lists
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])


def _read_info(path: Path, metadata: dict[bytes, bytes]) -> CodeFileInfo:
    if KEY not in metadata:
        raise CodeFileError(f"{path} is a Parquet file, but not one of codes written by scvae_fast")
    try:
        found = json.loads(metadata[KEY])
        if found["schema"] != SCHEMA:
            raise CodeFileError(
                f"{path} has format {found['schema']}, written by scvae_fast {found.get('scvae_fast')}; "
                f"this version reads format {SCHEMA}"
            )
        info = CodeFileInfo(**{field.name: found[field.name] for field in fields(CodeFileInfo)})
        if wrong := [name for name, right in _plausible(info).items() if not right]:
            raise ValueError(f"{wrong[0]} is {getattr(info, wrong[0])!r}")
        return info
    except (ValueError, KeyError, TypeError) as error:
        raise CodeFileError(f"{path} is damaged: its metadata can't be read: {error!r}") from error


def _plausible(info: CodeFileInfo) -> dict[str, bool]:
    """Whether each field has a plausible value."""
    counts = {name: getattr(info, name) for name in ("n_atoms", "stride")}
    return {
        "scvae_fast": isinstance(info.scvae_fast, str),
        "fingerprint": isinstance(info.fingerprint, str),
        "config": isinstance(info.config, dict),
        "values": info.values in get_args(ValueType),
        **{name: type(value) is int and 1 <= value < 2**32 for name, value in counts.items()},
    }


def _pictures_of(group: Any, info: CodeFileInfo) -> Iterator[CodedPicture]:
    """The pictures of a row group; their arrays are views of it."""
    rows = {name: group[name].to_pylist() for name in ("name", "height", "width", "h", "w")}
    starts, arrays = {}, {}
    for name in ARRAYS:
        (lists,) = group[name].chunks
        starts[name], arrays[name] = lists.offsets.to_numpy(), lists.values.to_numpy(zero_copy_only=True)
    for row, (name, height, width, h, w) in enumerate(zip(*rows.values(), strict=True)):
        if problem := too_large(height, width):
            raise ValueError(f"{name}: {problem}")
        if (h, w) != (-(-height // info.stride), -(-width // info.stride)):
            raise ValueError(f"{name} of {height} x {width} pixels has {h} x {w} cells")
        counts, atoms, values = (arrays[each][starts[each][row] : starts[each][row + 1]] for each in ARRAYS)
        yield CodedPicture(name, (height, width), SparseCodes(h, w, info.n_atoms, counts, atoms, values))
