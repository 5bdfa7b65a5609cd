"""The folder of a comparison."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scvae_fast._files import claim_folder, write_json
from scvae_fast._settings import differences
from scvae_fast.comparison.settings import METHODS
from scvae_fast.errors import UsageError
from scvae_fast.models.loading import STATE_FILE


class MethodFolder:
    """The files of one method."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / STATE_FILE  # the weights and everything else needed to resume
        self.trained = path / "training.json"  # exists once the training is finished
        self.rating = path / "rating.json"
        self.pictures = path / "pictures.npz"  # originals and reconstructions to draw


class ComparisonFolder:
    """The folder of a comparison: a folder for each method, and the results of all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = path / "settings.json"
        self.timing = path / "timing.json"
        self.results = path / "comparison.json"

    def method(self, name: str) -> MethodFolder:
        """The folder of a method."""
        return MethodFolder(self.path / name)

    def trained(self) -> list[str]:
        """The methods whose training is finished, in the order of `METHODS`."""
        return [name for name in METHODS if self.method(name).trained.exists()]

    def claim(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Check that the folder can be written to and holds nothing but a comparison to resume.

        Args:
            settings: everything that determines the comparison, JSON-serialisable.
            resume: whether results with the same settings may exist.

        Raises:
            UsageError: it can't be written to, holds another comparison, or holds this one and resume is not set.
        """
        if self.settings.exists():
            found = read_json(self.settings)
            if different := differences(settings, found):
                raise UsageError(
                    f"{self.path} holds a comparison with other settings ({', '.join(different)}): "
                    "choose another folder"
                )
            if not resume:
                raise UsageError(f"{self.path} already holds a comparison: resume it, or choose another folder")
            return
        claim_folder(self.path, empty=True)
        write_json(self.settings, dict(settings))


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file written by `write_json`.

    Raises:
        UsageError: the file can't be read.
    """
    try:
        return dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UsageError(f"{os.fspath(path)} can't be read: {error}") from error
