"""`scvae-fast decode`: decodes a file of codes, or a folder of parts, into pictures."""

import os
from functools import partial
from itertools import islice
from pathlib import Path

from scvae_fast._extras import extra
from scvae_fast._files import claim_folder
from scvae_fast._shares import Processes, joined
from scvae_fast.codes.coding import decode_file
from scvae_fast.codes.naming import Targets
from scvae_fast.codes.storage import CodeFile
from scvae_fast.commands._inputs import InferenceOptions, with_progress
from scvae_fast.data.pictures import save_picture
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.models.speed import SpeedSettings

with extra("scvae_fast.commands.decode", "Pillow"):
    from PIL import Image


def decode_codes(
    checkpoint: str | os.PathLike[str],
    codes: Path,
    out: Path,
    *,
    suffix: str = "png",
    force: bool = False,
    inference: InferenceOptions | None = None,
) -> int:
    """Decode a file of codes, and write the pictures under their original names.

    Under torchrun, each process writes its share; the file names are the same as with a single process.

    Args:
        checkpoint: see `load_model`.
        codes: the file, or the folder of its parts.
        out: a folder that is empty or doesn't exist. No picture is written outside of it.
        suffix: format of the pictures: "png", or another one that Pillow writes.
        force: whether to accept codes that another model made.
        inference: how the model is run.

    Returns:
        The number of pictures.

    Raises:
        UsageError: an argument can't be used, a picture's name leads out of the folder, or a picture can't be
            written.
    """
    file, inference = CodeFile(codes), inference or InferenceOptions()
    model, speed = inference.load(checkpoint)
    if not force:
        try:
            file.check_model(model)
        except UsageError as error:
            raise UsageError(f"{error}; --force decodes them anyway") from error
    if (file.info.n_atoms, file.info.stride) != (model.config.n_atoms, model.config.stride):
        raise UsageError(
            f"{codes} has codes over {file.info.n_atoms} atoms for {file.info.stride} x {file.info.stride} pixels, "
            f"{checkpoint} over {model.config.n_atoms} for {model.config.stride} x {model.config.stride}"
        )
    with joined() as processes:
        processes.on_first(partial(claim_folder, out, empty=True))
        pixels = _write(model, file, out, suffix, inference, speed, processes)
    if processes.first:
        bits_per_pixel = 8 * file.n_bytes / pixels if pixels else float("nan")
        print(f"{len(file):,} pictures in {out}; {codes}: {bits_per_pixel:.3f} bits per pixel")
    return len(file)


def _write(
    model: SCVAE,
    file: CodeFile,
    out: Path,
    suffix: str,
    inference: InferenceOptions,
    speed: SpeedSettings,
    processes: Processes,
) -> int:
    """Write this process's share of the pictures; return the number of pixels that all processes wrote."""
    own, pixels = file.part(processes.share, inference.batch_size), 0
    targets = Targets(lambda: map(_safe, file.names()), lambda name: _target(out, name, suffix))
    for name in islice(file.names(), own.first):
        targets(name)
    decoded = decode_file(model, own, batch_size=inference.batch_size, speed=speed)
    for name, picture in with_progress(decoded, len(own)):
        target = targets(name)
        try:
            save_picture(target, picture)
        except OSError as error:
            raise UsageError(f"{target} can't be written: {error}") from error
        pixels += picture[0].numel()
    return sum(processes.gather(pixels))


def _safe(name: str) -> str:
    path = Path(name)
    if path.anchor or ".." in path.parts or not path.name or "\0" in name:
        raise UsageError(f"the file contains a picture named {name!r}, which would be outside the folder")
    return name


def _target(out: Path, name: str, suffix: str) -> Path:
    """Path of a picture: `name.png` for `name` or `name.jpg`."""
    path = out / name
    is_picture = path.suffix.lower() in Image.registered_extensions()
    stem = path.stem if is_picture else path.name
    return path.with_name(f"{stem}.{suffix}")
