"""What commands read: the model of a checkpoint, and how it is run."""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
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
        device: its name; None takes a GPU where there is one.
        precision: of encoder and decoder; codes are computed in float32.
        batch_size: most pictures of one size that go through the model together.

    Raises:
        UsageError: there is no such device.
    """

    device: str | None = None
    precision: Precision = "float32"
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        find_device(self.device)

    def load(self, checkpoint: str | os.PathLike[str]) -> tuple[SCVAE, SpeedSettings]:
        """The model of a checkpoint for pictures with three colours, where it is to run, and how.

        Raises:
            UsageError: there is no such checkpoint, or the model is for other pictures.
        """
        speed = SpeedSettings(precision=self.precision)
        model = load_model(checkpoint, find_device(self.device))
        if model.config.in_channels != 3:
            raise UsageError(f"{checkpoint} codes pictures with {model.config.in_channels} channels, not with 3")
        return model, speed


def with_progress(things: Iterable[T], total: int | None = None, unit: str = "pictures") -> Iterable[T]:
    """The same, with a bar on a terminal; of a stream that knows its length, nobody need say the total.

    Of the processes of torchrun the first one has the bar, of its own share.
    """
    total = getattr(things, "length", None) if total is None else total
    disable = None if _is_first() else True  # None: where nobody watches
    return tqdm(things, total=total, unit=f" {unit}", leave=False, disable=disable)


def tell(stage: str) -> None:
    """Say on a terminal what begins now and may take long."""
    if sys.stderr.isatty() and _is_first():
        print(f"{stage} …", file=sys.stderr, flush=True)


def _is_first() -> bool:
    return (own_share(None) or Share()).part == 1
