"""What the commands of `scvae-fast edit` share: how they read, and what they leave."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scvae_fast._files import claim_folder
from scvae_fast.commands._inputs import InferenceOptions, tell
from scvae_fast.commands._results import write_results
from scvae_fast.data.pictures import PictureError, load_picture
from scvae_fast.errors import UsageError
from scvae_fast.evaluation.record import head, plain
from scvae_fast.models import SCVAE
from scvae_fast.plotting.figures import Figure

Checkpoint = str | os.PathLike[str]


def start(checkpoint: Checkpoint, out: Path, device: str | None) -> SCVAE:
    """The model, after it was found out that the folder can be written to.

    Raises:
        UsageError: it can't, or the model can't be loaded.
    """
    inference = InferenceOptions(device=device)
    claim_folder(out)
    model = inference.load(checkpoint)[0]
    tell("coding and decoding")
    return model


def read(path: Path) -> Tensor:
    """The picture of a file.

    Raises:
        UsageError: it can't be read.
    """
    try:
        return load_picture(path)
    except PictureError as error:
        raise UsageError(str(error)) from error


def decibels(value: float) -> str:
    """A PSNR in words."""
    return f"{value:.2f} dB"


def finish(
    out: Path,
    checkpoint: Checkpoint,
    found: dict[str, Any],
    table: str,
    figures: Mapping[str, Figure],
    pictures: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Write what was found, and print the table and where all is.

    Returns:
        What `metrics.json` holds.

    Raises:
        UsageError: the folder can't be written to.
    """
    content = {**head(checkpoint), **found}
    write_results(out, plain(content), table, figures, pictures)
    print(f"{table}\n\n{out}")
    return content
