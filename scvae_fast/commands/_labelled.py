"""Data, descriptors and records shared by `scvae-fast retrieve` and `scvae-fast probe`."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from scvae_fast.commands._inputs import with_progress
from scvae_fast.commands._results import write_results
from scvae_fast.data.labelled import DIGITS, PATCHES, LabelledPictures, open_labelled
from scvae_fast.data.stream import NamedPicture, PictureStream
from scvae_fast.errors import ArgumentError, UsageError
from scvae_fast.evaluation.record import head, plain
from scvae_fast.models import SCVAEConfig
from scvae_fast.plotting.figures import Figure
from scvae_fast.tasks.descriptors import Described, Descriptor

# The descriptors that are compared by default. Sheets of neighbours show the first one.
DEFAULTS = (
    "codes:signs:1",
    "codes:signs:2",
    "codes:use:1",
    "codes:use:2",
    "latents:signs:1",
    "latents:signs:2",
    "pixels:signs:1",
    "pixels:signs:2",
    "thumbnail",
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class LabelledData:
    """The data options of both commands, see `open_labelled`; side "model" is the model's resolution."""

    data: str | os.PathLike[str]
    side: int | Literal["model"] | None = "model"
    per_class: int | None = None
    seed: int = 0

    def open(self, config: SCVAEConfig) -> LabelledPictures:
        """Open the pictures.

        Raises:
            UsageError: see `open_labelled`; or the seed is negative.
        """
        if self.seed < 0:
            raise ArgumentError(f"--seed must be 0 or more, got {self.seed}")
        return open_labelled(self.data, self.pixels(config), per_class=self.per_class, seed=self.seed)

    @property
    def embedded(self) -> bool:
        """Whether the data comes with the package."""
        return self.data in (PATCHES, DIGITS) and not Path(self.data).exists()

    def pixels(self, config: SCVAEConfig) -> int | None:
        """Side of the square pictures; None for whole pictures."""
        return config.resolution if self.side == "model" else self.side


def parse_descriptors(texts: Sequence[str] | None) -> list[Descriptor]:
    """Parse descriptors and drop duplicates; without texts, parse the `DEFAULTS`.

    Raises:
        UsageError: a text is not a descriptor, see `Descriptor.parse`.
    """
    try:
        return list(dict.fromkeys(map(Descriptor.parse, texts or DEFAULTS)))
    except ValueError as error:
        raise ArgumentError(f"--descriptors: {str(error).removeprefix('Descriptor: ')}") from error


class ReadablePictures:
    """Pictures with a progress bar; files that can't be read are tried, and named on stderr, only the first time.

    Args:
        pictures: can be iterated over repeatedly.
    """

    def __init__(self, pictures: Iterable[NamedPicture]) -> None:
        self._pictures = pictures

    def __iter__(self) -> Iterator[NamedPicture]:
        pictures, names = self._pictures, []
        for named in with_progress(pictures):
            names.append(named.name)
            yield named
        # Of several pictures with the same name, `some` would only find one.
        if isinstance(pictures, PictureStream) and pictures.skipped and len(set(names)) == len(names):
            self._pictures = pictures.some(names, pictures.resize)


def check_read(described: Described, data: str) -> None:
    """Check that at least one picture could be read.

    Raises:
        UsageError: none could; the message names the data.
    """
    if not described.names:
        raise UsageError(f"{data}: no picture could be read")


def check_two_classes(labels: np.ndarray, data: str) -> None:
    """Check that the pictures belong to two classes or more.

    Raises:
        UsageError: they are not; the message names the data.
    """
    if (count := len(np.unique(labels))) < 2:
        raise UsageError(f"{data}: pictures must belong to two classes or more, got {count}")


def labels_of(pictures: LabelledPictures, names: list[str]) -> np.ndarray:
    """(N,) class index of each picture."""
    return np.array([pictures.labels[name] for name in names])


def usable(make: Callable[[], _T], wrong: type[UsageError] = UsageError) -> _T:
    """Call `make`, and report a ValueError as an error in the user's input.

    Args:
        make: the call.
        wrong: class of the reported error; `ArgumentError` for a value that is invalid whatever the data.

    Raises:
        UsageError: replaces a ValueError, with the same message.
    """
    try:
        return make()
    except ValueError as error:
        raise wrong(str(error)) from error


def content_of(
    checkpoint: str | os.PathLike[str], pictures: LabelledPictures, data: LabelledData, n_pictures: int
) -> dict[str, Any]:
    """Record entries that both commands write."""
    return {
        **head(checkpoint, "scikit-learn"),
        "data": pictures.data,
        "side": data.side,
        "per_class": data.per_class,
        "seed": data.seed,
        "n_pictures": n_pictures,
        "classes": pictures.classes,
    }


def finish(out: Path, content: dict[str, Any], table: str, figures: Mapping[str, Figure]) -> None:
    """Write the results, then print the table and the paths of the files.

    Raises:
        UsageError: the folder can't be written to.
    """
    written = write_results(out, plain(content), table, figures)
    print(f"{table}\n\n{', '.join(map(str, written))}")
