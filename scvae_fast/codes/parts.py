"""Folders of codes: one Parquet file per part of a listing; in order, they hold what one process would write.

A part is called part-00001-of-00064.parquet. In addition to the metadata of every file of codes, it has the fields of
`PartInfo` as JSON under "scvae_fast.part".
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from scvae_fast._settings import differences
from scvae_fast._shares import Share
from scvae_fast.errors import UsageError

KEY = b"scvae_fast.part"

_NAME = re.compile(r"part-(\d{5,})-of-(\d{5,})\.parquet")
_MOST_NAMED = 20


class CodeFileError(UsageError):
    """A file of codes can't be written, read, or used with a model; the message names the file and the reason."""


@dataclass(frozen=True, kw_only=True)
class PartInfo:
    """The metadata of one part of a folder of codes.

    Args:
        part: its number, counted from 1.
        parts: number of parts.
        listing: digest of the names of all pictures, see `PictureStream.listing`.
        settings: everything else that affects the codes, such as the size of pictures and the precision.
        skipped: number of this part's pictures that could not be read.
        pixels: total of its pictures.
        cells: total of its pictures.
        entries: number of nonzero entries in its codes.
    """

    part: int
    parts: int
    listing: str
    settings: dict[str, Any]
    skipped: int = 0
    pixels: int = 0
    cells: int = 0
    entries: int = 0

    def to_json(self) -> str:
        """As JSON, for the metadata of a file."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, path: Path, metadata: Mapping[bytes, bytes]) -> "PartInfo":
        """Read it from the metadata of a file.

        Raises:
            CodeFileError: the file is not a part, or damaged.
        """
        if KEY not in metadata:
            raise CodeFileError(f"{path} has the name of a part of a folder of codes, but is not one")
        try:
            found = json.loads(metadata[KEY])
            info = cls(**{each.name: found[each.name] for each in fields(cls)})
            counts = (info.part, info.parts, info.skipped, info.pixels, info.cells, info.entries)
            if not (all(type(count) is int for count in counts) and isinstance(info.settings, dict)):
                raise ValueError(f"counts or settings are missing or invalid: {found}")
            called = part_path(path.parent, Share(info.part, info.parts))
        except (ValueError, KeyError, TypeError) as error:
            raise CodeFileError(f"{path} is damaged: its metadata can't be read: {error!r}") from error
        if path != called:
            raise CodeFileError(f"{path} is part {info.part} of {info.parts} and must be named {called.name}")
        return info

    def difference(self, other: "PartInfo") -> str | None:
        """Why this part and another one don't belong together, in words; None if they do."""
        if self.parts != other.parts:
            return f"it is one of {self.parts} parts, not of {other.parts}"
        if self.listing != other.listing:
            return "its pictures come from another listing: their names or their number differ"
        found = differences(self.settings, other.settings)
        return f"its codes were made with other settings: {', '.join(found)}" if found else None


def part_path(folder: Path, share: Share) -> Path:
    """The file of a part."""
    return folder / f"part-{share.part:05}-of-{share.parts:05}.parquet"


def parts_in(folder: Path) -> dict[int, Path]:
    """The parts in a folder, by number.

    Raises:
        CodeFileError: the folder can't be read, or holds parts of different divisions, or other Parquet files.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".parquet"))
    except OSError as error:
        raise CodeFileError(f"{folder} can't be read: {error.strerror or error}") from error
    found, counts = {}, set()
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            raise CodeFileError(f"{folder} holds {name}, which is not a part of a folder of codes")
        found[int(match[1])] = folder / name
        counts.add(int(match[2]))
    if len(counts) > 1:
        several = " and ".join(map(str, sorted(counts)))
        raise CodeFileError(f"{folder} mixes parts of divisions into {several} parts")
    return found


def missing_parts(folder: Path, parts: int | None = None) -> list[int]:
    """The numbers of the parts that a folder lacks, out of `parts` or of the number in its file names.

    Raises:
        CodeFileError: see `parts_in`; or the folder holds no parts, and `parts` is not given.
    """
    found = parts_in(folder)
    if not found and parts is None:
        raise CodeFileError(f"{folder} holds no parts of codes, which scvae-fast encode writes with --part or torchrun")
    if parts is None:
        match = _NAME.fullmatch(next(iter(found.values())).name)
        assert match is not None  # `parts_in` has checked the names
        parts = int(match[2])
    return sorted(set(range(1, parts + 1)) - found.keys())


def listed(numbers: list[int]) -> str:
    """Numbers as text; only the first ones if there are many."""
    more = len(numbers) - _MOST_NAMED
    return ", ".join(map(str, numbers[:_MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
