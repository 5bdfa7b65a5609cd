"""`scvae-fast edit denoise`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from scvae_fast.analysis.results import markdown_table
from scvae_fast.editing import classical
from scvae_fast.editing.denoising import add_noise, recode
from scvae_fast.editing.files import Checkpoint, decibels, finish, read, start
from scvae_fast.editing.rating import psnr
from scvae_fast.editing.sheets import centre, picture_grid
from scvae_fast.errors import UsageError


def denoise_file(
    checkpoint: Checkpoint,
    picture: Path,
    out: Path,
    *,
    sigmas: Sequence[float] = (10.0, 25.0, 50.0),
    scales: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    shifts: int | None = None,
    seed: int = 0,
    noisy: bool = False,
    reference: Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Denoise a picture by coding it again, beside scikit-image's total variation and non-local means.

    Noise is added to the picture, unless it is noisy already. The folder gets the result of each scale of the threshold
    (for each sigma), sheet.png, metrics.md and metrics.json.

    Args:
        checkpoint: see `load_model`.
        picture: a picture file of any size.
        out: the folder; made if it doesn't exist.
        sigmas: deviations of the noise in 8-bit levels; of a picture that is noisy already the first, as an estimate
            for non-local means.
        scales: of the threshold, see `recode`.
        shifts: of the cells in each direction, over which results are averaged; None is 2, or a cell's pixels if fewer.
        seed: of the noise.
        noisy: whether the picture is noisy already.
        reference: what a picture that is noisy already should be.
        device: where the model runs.

    Raises:
        UsageError: something that was given can't be used.
    """
    for option, values in (("--sigma", sigmas), ("--scale", scales)):
        if not values or not all(0 <= value < float("inf") for value in values):
            raise UsageError(f"{option} must be numbers, 0 or more, got {', '.join(map(str, values)) or 'none'}")
    if reference is not None and not noisy:
        raise UsageError("--reference goes with --noisy: else the picture itself is the reference")
    given = read(picture)
    clean = read(reference) if reference else None if noisy else given
    if clean is not None and clean.shape != given.shape:
        raise UsageError(f"--reference must be of the picture's size, {given.shape[1]} x {given.shape[2]}")
    model = start(checkpoint, out, device)
    shifts = min(2, model.config.stride) if shifts is None else shifts
    if not 1 <= shifts <= model.config.stride:
        raise UsageError(f"--shifts must be 1 … {model.config.stride}, the pixels of a cell, got {shifts}")
    rows: list[dict[str, Any]] = []
    lines = []
    pictures: dict[str, Tensor] = {}
    for sigma in sigmas[:1] if noisy else sigmas:
        observed = given if noisy else add_noise(given, sigma, seed=seed)
        results = {f"codes x {scale:g}": recode(model, observed, scale=scale, shifts=shifts).cpu() for scale in scales}
        pictures |= {f"sigma-{sigma:g}-{name.replace(' ', '')}": each for name, each in results.items()}
        results |= _classical_denoisers(observed, clean, sigma)
        rated = {name: None if clean is None else psnr(each, clean) for name, each in results.items()}
        rows.append({"sigma": sigma, "noisy": None if clean is None else psnr(observed, clean), "psnr": rated})
        lines.append((f"σ = {sigma:g}", _noise_line(observed, clean, results, rated)))
    names = list(rows[0]["psnr"])
    table = markdown_table(
        ("σ", "noisy", *names),
        [(f"{row['sigma']:g}", decibels(row["noisy"]), *map(decibels, row["psnr"].values())) for row in rows],
    )
    content = {"picture": str(picture), "seed": seed, "already_noisy": noisy, "shifts": shifts, "rows": rows}
    return finish(out, checkpoint, content, table, {"sheet": picture_grid("Denoised", lines)}, pictures)


def _classical_denoisers(noisy: Tensor, clean: Tensor | None, sigma: float) -> dict[str, Tensor]:
    if clean is None:
        found = {"total variation": classical.total_variation(noisy, 0.1)}
    else:
        found = {"total variation": classical.best_total_variation(noisy, lambda each: psnr(each, clean))[1]}
    return found | {"non-local means": classical.non_local_means(noisy, sigma)}


def _noise_line(
    noisy: Tensor, clean: Tensor | None, results: Mapping[str, Tensor], rated: Mapping[str, float | None]
) -> list[tuple[str, Tensor]]:
    """The noisy picture, the best of the ways through codes, and the classical ones."""
    coded = [name for name in results if name.startswith("codes")]
    best = max(coded, key=lambda name: rated[name] or 0.0)
    shown = {"noisy": noisy, best: results[best], **{name: each for name, each in results.items() if name not in coded}}
    ratings = {**rated, "noisy": None if clean is None else psnr(noisy, clean)}
    return [
        (name if clean is None else f"{name}, {decibels(ratings[name])}", centre(each)) for name, each in shown.items()
    ]
