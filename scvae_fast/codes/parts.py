"""Folders of codes: a Parquet file for each part of a listing; in their order they are what one process would write.

A part is called part-00001-of-00064.parquet. Beside what every file of codes has, its metadata holds, as JSON under
"scvae_fast.part", what `PartInfo` has.
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
    """A file of codes can't be written, read, or used with a model; the message names the file and says why."""


@dataclass(frozen=True, kw_only=True)
class PartInfo:
    """What a part of a folder of codes says of itself.

    Args:
        part: which, counted from 1.
        parts: of how many.
        listing: digest of the names of all pictures, see `PictureStream.listing`.
        settings: what else decides what the codes are: the size of pictures, precision and the like.
        skipped: so many pictures of this part could not be read.
        pixels: of its pictures.
        cells: of its pictures.
        entries: of their codes that are not zero.
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
        """As the metadata of a file has it."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, path: Path, metadata: Mapping[bytes, bytes]) -> "PartInfo":
        """That of a file.

        Raises:
            CodeFileError: it is no part, or damaged.
        """
        if KEY not in metadata:
            raise CodeFileError(f"{path} is no part of a folder of codes, whatever it is called")
        try:
            found = json.loads(metadata[KEY])
            info = cls(**{each.name: found[each.name] for each in fields(cls)})
            counts = (info.part, info.parts, info.skipped, info.pixels, info.cells, info.entries)
            if not (all(type(count) is int for count in counts) and isinstance(info.settings, dict)):
                raise ValueError(f"these are no counts and settings: {found}")
            called = part_path(path.parent, Share(info.part, info.parts))
        except (ValueError, KeyError, TypeError) as error:
            raise CodeFileError(f"{path} is damaged: its metadata can't be read: {error!r}") from error
        if path != called:
            raise CodeFileError(f"{path} is part {info.part} of {info.parts} and must be called so")
        return info

    def difference(self, other: "PartInfo") -> str | None:
        """Why this part and another one don't belong together, in words; None where they do."""
        if self.parts != other.parts:
            return f"it is one of {self.parts} parts, not of {other.parts}"
        if self.listing != other.listing:
            return "its pictures are those of another listing: their names, or how many there are, differ"
        found = differences(self.settings, other.settings)
        return f"its codes were made with other settings: {', '.join(found)}" if found else None


def part_path(folder: Path, share: Share) -> Path:
    """The file of a part."""
    return folder / f"part-{share.part:05}-of-{share.parts:05}.parquet"


def parts_in(folder: Path) -> dict[int, Path]:
    """The parts that a folder holds, by their numbers.

    Raises:
        CodeFileError: it can't be read, or holds parts of several numbers of parts, or other Parquet files.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".parquet"))
    except OSError as error:
        raise CodeFileError(f"{folder} can't be read: {error.strerror or error}") from error
    found, counts = {}, set()
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            raise CodeFileError(f"{folder} holds {name}, which is no part of a folder of codes")
        found[int(match[1])] = folder / name
        counts.add(int(match[2]))
    if len(counts) > 1:
        several = " and ".join(map(str, sorted(counts)))
        raise CodeFileError(f"{folder} holds parts of folders of {several} parts, which don't belong together")
    return found


def missing_parts(folder: Path, parts: int | None = None) -> list[int]:
    """The numbers of the parts that a folder lacks, of so many or of as many as the names of its files say.

    Raises:
        CodeFileError: see `parts_in`; or it holds none, and nobody says how many there should be.
    """
    found = parts_in(folder)
    if not found and parts is None:
        raise CodeFileError(f"{folder} holds no parts of codes, which scvae-fast encode writes with --part or torchrun")
    if parts is None:
        match = _NAME.fullmatch(next(iter(found.values())).name)
        assert match is not None  # of one of `parts_in`
        parts = int(match[2])
    return sorted(set(range(1, parts + 1)) - found.keys())


def listed(numbers: list[int]) -> str:
    """Numbers in words, the first of them if there are many."""
    more = len(numbers) - _MOST_NAMED
    return ", ".join(map(str, numbers[:_MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
