"""Input and output shared by the commands of `scvae-fast edit`."""

import os
from collections.abc import Iterable, Mapping, Sequence
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


def check_inputs(pictures: Sequence[Path], out: Path, names: Iterable[str]) -> None:
    """Check that no picture is a file that the command replaces or removes.

    Args:
        pictures: the inputs.
        out: the folder for the results.
        names: of the files in it, without metrics.md and metrics.json.

    Raises:
        UsageError: a picture is such a file.
    """
    for result in (out / name for name in (*names, "metrics.md", "metrics.json")):
        for picture in pictures:
            if os.path.exists(picture) and os.path.exists(result) and os.path.samefile(picture, result):
                raise UsageError(f"the results would replace the picture {picture}: choose another --out, got {out}")


def start(checkpoint: Checkpoint, out: Path, device: str | None) -> SCVAE:
    """Check that the folder can be written to, then load the model.

    Raises:
        UsageError: the folder can't be written to, or the model can't be loaded.
    """
    inference = InferenceOptions(device=device)
    claim_folder(out)
    model = inference.load(checkpoint)[0]
    tell("coding and decoding")
    return model


def read(path: Path) -> Tensor:
    """Read a picture file.

    Raises:
        UsageError: the file can't be read.
    """
    try:
        return load_picture(path)
    except PictureError as error:
        raise UsageError(str(error)) from error


def decibels(value: float) -> str:
    """A PSNR as text, in dB."""
    return f"{value:.2f} dB"


def finish(
    out: Path,
    checkpoint: Checkpoint,
    found: dict[str, Any],
    table: str,
    figures: Mapping[str, Figure],
    pictures: Mapping[str, Tensor],
    older: Iterable[Path] = (),
) -> dict[str, Any]:
    """Write the results to the folder, then print the table and the path of the folder; see `write_results`.

    Returns:
        The content of `metrics.json`.

    Raises:
        UsageError: the folder can't be written to.
    """
    content = {**head(checkpoint), **found}
    write_results(out, plain(content), table, figures, pictures, older=older)
    print(f"{table}\n\n{out}")
    return content
