"""`scvae-fast reconstruct`: encodes picture files with a trained model, and decodes them again."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from scvae_fast._files import FreeNames, claim_folder
from scvae_fast.codes.tiling import TiledReconstruction, reconstruct_tiled
from scvae_fast.commands._inputs import InferenceOptions
from scvae_fast.data.files import list_folder
from scvae_fast.data.pictures import PictureError, load_picture, save_picture
from scvae_fast.errors import UsageError
from scvae_fast.metrics import CodeStatistics, PictureQuality


def reconstruct_files(
    checkpoint: str | os.PathLike[str], pictures: Sequence[Path], out: Path, *, device: str | None = None
) -> list[Path]:
    """Reconstruct picture files, and print the PSNR and the code density of each.

    Results are PNG files in `out`, see `result_paths`. Files that can't be read are named on stderr and skipped.

    Args:
        checkpoint: see `load_model`.
        pictures: files of any size; a folder stands for all pictures in it.
        out: a folder; created if it doesn't exist.
        device: where the model runs; None takes a GPU if there is one.

    Returns:
        The files that could not be read.

    Raises:
        UsageError: the checkpoint can't be loaded, a folder has no pictures, or a result can't be written.
    """
    inference = InferenceOptions(device=device)
    pictures = [file for path in pictures for file in _files(path)]
    claim_folder(out)
    model, _ = inference.load(checkpoint)
    unread = []
    for path, target in zip(pictures, result_paths(pictures, out), strict=True):
        try:
            picture = load_picture(path)
        except PictureError as error:
            print(f"skipped: {error}", file=sys.stderr)
            unread.append(path)
            continue
        result = reconstruct_tiled(model, picture)
        try:
            save_picture(target, result.x_hat)
        except OSError as error:
            raise UsageError(f"{target} can't be written: {error}") from error
        print(f"{path} -> {target}: {_rating(picture, result)}")
    return unread


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    listed = list_folder(path)
    return [listed.source(index) for index in range(len(listed))]


def _rating(picture: Tensor, result: TiledReconstruction) -> str:
    quality, codes = PictureQuality(rate_structure=False), CodeStatistics(len(result.usage))
    quality.update(result.x_hat, picture)
    codes.add(result.usage, result.active.numel())
    return f"{quality.psnr():.2f} dB, {codes.density:.1%} of the code entries not zero"


def result_paths(pictures: Sequence[Path], out: Path) -> list[Path]:
    """The path of a PNG file in `out` for each picture: `name.png`, or `name-2.png` … if that is taken.

    The paths of all pictures and of earlier results are taken, even if only upper and lower case differ. If one of the
    pictures lies in `out`, everything else in that folder is taken too.
    """
    taken = {_key(picture) for picture in pictures}
    if any(picture.resolve().parent == out.resolve() for picture in pictures) and out.is_dir():
        taken |= {_key(each) for each in out.iterdir()}
    results: list[Path] = []
    free = FreeNames(lambda path: _key(path) in taken)
    for picture in pictures:
        results.append(free(out / f"{picture.stem}.png"))
        taken.add(_key(results[-1]))
    return results


def _key(path: Path) -> str:
    return str(path.resolve()).casefold()
