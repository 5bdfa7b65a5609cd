"""`scvae-fast edit inpaint`."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scvae_fast.analysis.recognition import usable
from scvae_fast.analysis.results import markdown_table
from scvae_fast.editing import classical
from scvae_fast.editing.files import Checkpoint, decibels, finish, read, start
from scvae_fast.editing.inpainting import fill_smoothly, inpaint, random_mask
from scvae_fast.editing.rating import psnr
from scvae_fast.editing.sheets import centre, picture_grid
from scvae_fast.errors import UsageError


def inpaint_file(
    checkpoint: Checkpoint,
    picture: Path,
    out: Path,
    *,
    mask: Path | None = None,
    share: float = 0.25,
    block: int = 8,
    seed: int = 0,
    iterations: int = 1,
    scale: float = 1.0,
    device: str | None = None,
) -> dict[str, Any]:
    """Fill in missing pixels by coding again and again, beside scikit-image's biharmonic in-painting.

    PSNRs are of the missing pixels, which the picture file is taken to have right. The folder gets masked.png,
    inpainted.png, biharmonic.png, sheet.png, metrics.md and metrics.json.

    Args:
        checkpoint: see `load_model`.
        picture: a picture file of any size.
        out: the folder; made if it doesn't exist.
        mask: a picture of the same size, light where pixels are missing; by default blocks are drawn.
        share: of the blocks that are missing.
        block: their side in pixels.
        seed: of the draw.
        iterations: see `inpaint`.
        scale: of the threshold, see `recode`.
        device: where the model runs.

    Raises:
        UsageError: the mask is of another size, or something else that was given can't be used.
    """
    original = read(picture)
    size = (original.shape[1], original.shape[2])
    missing = _read_mask(mask, size) if mask else usable(partial(random_mask, size, share, block=block, seed=seed))
    if iterations < 0 or not 0 <= scale < float("inf"):
        raise UsageError(f"--iterations and --scale must be 0 or more, got {iterations} and {scale}")
    model = start(checkpoint, out, device)
    steps: list[float] = []
    filled = {
        "smooth": fill_smoothly(original, missing),
        "codes": inpaint(
            model,
            original,
            missing,
            iterations=iterations,
            scale=scale,
            on_step=lambda each: steps.append(psnr(each, original, missing)),
        ),
        "biharmonic": classical.biharmonic(original, missing),
    }
    rated = {name: psnr(each, original, missing) for name, each in filled.items()}
    masked = torch.where(missing, -1.0, original)
    content = {
        "picture": str(picture),
        "mask": str(mask) if mask else {"share": share, "block": block, "seed": seed},
        "missing": float(missing.double().mean()),
        "iterations": iterations,
        "scale": scale,
        "psnr_of_missing": rated,
        "psnr_after_each_iteration": steps,
    }
    shown = {"original": original, "missing": masked}
    shown |= {f"{name}, {decibels(rated[name])}": each for name, each in filled.items()}
    sheet = picture_grid("In-painted", [("", [(caption, centre(each)) for caption, each in shown.items()])])
    pictures = {"masked": masked, "inpainted": filled["codes"], "biharmonic": filled["biharmonic"]}
    return finish(out, checkpoint, content, _table(rated, iterations), {"sheet": sheet}, pictures)


def _table(rated: dict[str, float], iterations: int) -> str:
    names = {
        "smooth": "local means, the start",
        "codes": f"codes, iterations: {iterations}",
        "biharmonic": "biharmonic",
    }
    rows = [(names[name], decibels(value)) for name, value in rated.items()]
    return markdown_table(("missing pixels filled by", "PSNR"), rows)


def _read_mask(path: Path, size: tuple[int, int]) -> Tensor:  # -> (H, W) bool
    mask = read(path).mean(0) > 0
    if mask.shape != size:
        raise UsageError(
            f"--mask must be of the picture's size, {size[0]} x {size[1]}, got {mask.shape[0]} x {mask.shape[1]}"
        )
    if not mask.any() or mask.all():
        raise UsageError(f"--mask {path}: must be light where pixels are missing and dark where they are known")
    return mask
