"""Pictures one after the other, from wherever they are: what evaluation and coding read."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from scvae_fast.data.photographs import held_out_photographs, training_photographs
from scvae_fast.data.pictures import PictureError, load_picture
from scvae_fast.errors import UsageError

Layout = Literal["auto", "photographs", "folder", "ffhq", "imagenet", "shards"]
Split = Literal["train", "val"]


class NamedPicture(NamedTuple):
    """A picture (3, H, W) in −1 … 1, and its name: for a file, its path below the folder of the data."""

    name: str
    picture: Tensor


class PictureStream:
    """Pictures in a fixed order, decoded as they are needed; iterate over it as often as you like.

    Files that can't be read are skipped and named on stderr.

    Args:
        data: a folder, a picture, tar shards, or "photographs" for those embedded in scikit-image and scikit-learn.
        layout: how `data` is arranged; "auto" looks at it.
        split: of a layout that has splits.
        resize: shorter side in pixels, after which the centre is cropped to a square; None leaves pictures whole.
        most_broken: so many files may be skipped; one more stops the iteration with an error.

    Raises:
        UsageError: there are no pictures.
    """

    def __init__(
        self,
        data: str | os.PathLike[str],
        *,
        layout: Layout = "auto",
        split: Split = "val",
        resize: int | None = None,
        most_broken: int = 100,
    ) -> None:
        self.data, self.layout, self.split, self.resize, self.most_broken = data, layout, split, resize, most_broken
        self.skipped: list[str] = []  # messages about the files that the last iteration could not read

    def __iter__(self) -> Iterator[NamedPicture]:
        self.skipped = []
        if str(self.data) == "photographs":
            for photograph in held_out_photographs() if self.split == "val" else training_photographs():
                yield NamedPicture(photograph.name, photograph.picture)
            return
        for path in sorted(Path(self.data).rglob("*.*")):
            try:
                yield NamedPicture(str(path.relative_to(self.data)), load_picture(path))
            except PictureError as error:
                self.skipped.append(str(error))
                if len(self.skipped) > self.most_broken:
                    raise UsageError(f"{len(self.skipped)} files can't be read, the last: {error}") from error

    def describe(self) -> dict[str, Any]:
        """What the pictures are, for a record: data, layout, split, resize."""
        return {"data": str(self.data), "layout": self.layout, "split": self.split, "resize": self.resize}
