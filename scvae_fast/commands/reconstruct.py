"""`scvae-fast reconstruct`: encodes picture files with a trained model, and decodes them again."""

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from scvae_fast._extras import extra
from scvae_fast._files import FreeNames, claim_folder, write_atomically
from scvae_fast.codes.tiling import TiledReconstruction, reconstruct_tiled
from scvae_fast.commands._inputs import InferenceOptions
from scvae_fast.data.files import list_folder
from scvae_fast.data.pictures import PictureError, load_picture, to_bytes
from scvae_fast.errors import UsageError
from scvae_fast.metrics import CodeStatistics, PictureQuality

with extra("scvae_fast.commands.reconstruct", "Pillow"):
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

# The text that marks a PNG file as a result of this command. Pillow writes it before the pixels.
_KEY, _NAME = "Software", "scvae-fast reconstruct"
_MARK = f"tEXt{_KEY}\0{_NAME}".encode()
_HEAD = 1024  # bytes at the start of a file that are searched for the mark


def reconstruct_files(
    checkpoint: str | os.PathLike[str], pictures: Sequence[Path], out: Path, *, device: str | None = None
) -> list[Path]:
    """Reconstruct picture files, and print the PSNR and the code density of each.

    Results are PNG files in `out`, see `result_paths`. They are marked, so that a later run recognises and replaces
    them; all other files in `out` are kept. Files that can't be read are named on stderr and skipped.

    Args:
        checkpoint: see `load_model`.
        pictures: files of any size; a folder stands for all pictures in it, except for earlier results in `out`.
        out: a folder; created if it doesn't exist.
        device: where the model runs; None takes a GPU if there is one.

    Returns:
        The files that could not be read.

    Raises:
        UsageError: the checkpoint can't be loaded, a folder has no pictures, or a result can't be written.
    """
    inference = InferenceOptions(device=device)
    pictures = [file for path in pictures for file in _files(path, out)]
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
            _save(target, result.x_hat)
        except OSError as error:
            raise UsageError(f"{target} can't be written: {error}") from error
        print(f"{path} -> {target}: {_rating(picture, result)}")
    return unread


def _files(path: Path, out: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    listed, place = list_folder(path), os.path.realpath(out)
    files = [listed.source(index) for index in range(len(listed))]
    files = [file for file in files if os.path.realpath(file.parent) != place or not _is_result(file)]
    if not files:
        raise UsageError(
            f"{path} contains only earlier results of this command: choose another --out to reconstruct them"
        )
    return files


def _save(path: Path, picture: Tensor) -> None:
    """Write a picture as a PNG file with the mark."""
    mark = PngInfo()
    mark.add_text(_KEY, _NAME)
    write_atomically(path, partial(Image.fromarray(to_bytes(picture)).save, pnginfo=mark))


def _is_result(path: Path) -> bool:
    """Whether a file has the mark."""
    if not os.path.isfile(path):
        return False
    try:
        with path.open("rb") as file:
            return _MARK in file.read(_HEAD)
    except OSError:
        return False


def _rating(picture: Tensor, result: TiledReconstruction) -> str:
    quality, codes = PictureQuality(rate_structure=False), CodeStatistics(len(result.usage))
    quality.update(result.x_hat, picture)
    codes.add(result.usage, result.active.numel())
    return f"{quality.psnr():.2f} dB, {codes.density:.1%} of the code entries nonzero"


def result_paths(pictures: Sequence[Path], out: Path) -> list[Path]:
    """The path of a PNG file in `out` for each picture: `name.png`, or `name-2.png` … if that is taken.

    Taken are the paths of all pictures, of the results before it in the list, and of all files in `out` except for
    results of an earlier run, which are replaced. Names that differ only in upper and lower case count as the same.
    """
    taken = {_key(picture) for picture in pictures}
    present: dict[str, list[Path]] = defaultdict(list)
    for each in out.iterdir() if out.is_dir() else ():
        present[each.name.casefold()].append(each)

    def is_taken(path: Path) -> bool:
        return _key(path) in taken or not all(map(_is_result, present.get(path.name.casefold(), ())))

    results: list[Path] = []
    free = FreeNames(is_taken)
    for picture in pictures:
        results.append(free(out / f"{picture.stem}.png"))
        taken.add(_key(results[-1]))
    return results


def _key(path: Path) -> str:
    return os.path.realpath(path).casefold()
