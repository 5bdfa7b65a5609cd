"""Helpers shared by the commands: load a model, set how it runs, and show progress."""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scvae_fast._devices import find_device
from scvae_fast._extras import extra
from scvae_fast._shares import Share, own_share
from scvae_fast.codes.coding import BATCH_SIZE
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.models.loading import load_model
from scvae_fast.models.speed import Precision, SpeedSettings

with extra("scvae_fast.commands", "tqdm"):
    from tqdm import tqdm  # type: ignore[import-untyped]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """How a model is run.

    Args:
        device: name of the device; None takes a GPU if there is one.
        precision: of encoder and decoder; codes are computed in float32.
        batch_size: largest number of pictures of the same size that go through the model together.

    Raises:
        UsageError: there is no such device.
    """

    device: str | None = None
    precision: Precision = "float32"
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        find_device(self.device)

    def load(self, checkpoint: str | os.PathLike[str]) -> tuple[SCVAE, SpeedSettings]:
        """Load the model of a checkpoint onto the device, and return it with its speed settings.

        Raises:
            UsageError: the checkpoint can't be loaded, or its model is not for pictures with 3 channels.
        """
        speed = SpeedSettings(precision=self.precision)
        model = load_model(checkpoint, find_device(self.device))
        if model.config.in_channels != 3:
            raise UsageError(f"{checkpoint} is for pictures with {model.config.in_channels} channels, not 3")
        return model, speed


def check_outside(out: Path, data: str | os.PathLike[str]) -> None:
    """Check that the results of a command don't become data of the next one.

    Raises:
        UsageError: `out` lies in the folder `data`.
    """
    folder = Path(data)
    if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"--out {out} lies in the data folder {data}, so later runs would read its pictures as data: choose "
            "another folder"
        )


def with_progress(things: Iterable[T], total: int | None = None, unit: str = "pictures") -> Iterable[T]:
    """The same things, with a progress bar on a terminal; `total` is not needed for a stream that knows its length.

    Under torchrun, only the first process shows a bar, for its own share.
    """
    total = getattr(things, "length", None) if total is None else total
    disable = None if _is_first() else True  # None: hide the bar if stderr is not a terminal
    return tqdm(things, total=total, unit=f" {unit}", leave=False, disable=disable)


def tell(stage: str) -> None:
    """Announce a stage that may take long, if stderr is a terminal."""
    if sys.stderr.isatty() and _is_first():
        print(f"{stage} …", file=sys.stderr, flush=True)


def _is_first() -> bool:
    return (own_share(None) or Share()).part == 1
