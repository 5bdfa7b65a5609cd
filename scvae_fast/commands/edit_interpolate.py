"""`scvae-fast edit interpolate`."""

from pathlib import Path
from typing import Any

from scvae_fast._markdown import markdown_table
from scvae_fast.commands._editing import Checkpoint, check_inputs, decibels, finish, read, start
from scvae_fast.errors import ArgumentError, UsageError
from scvae_fast.metrics.psnr import psnr
from scvae_fast.plotting.sheets import picture_grid
from scvae_fast.tasks.editing.interpolation import interpolate


def interpolate_files(
    checkpoint: Checkpoint, first: Path, second: Path, out: Path, *, steps: int = 7, device: str | None = None
) -> dict[str, Any]:
    """Interpolate between two pictures of the same size: in codes, in latents and in pixels.

    The folder gets codes-0.png … (interpolated in codes), strip.png (all three ways), metrics.md and metrics.json. All
    numbers have as many digits as the last one. Pictures of an earlier run with other numbers are removed.

    Raises:
        UsageError: the pictures differ in size, one of them is a file in `out` that would be replaced or removed, or
            another argument can't be used.
    """
    if steps < 2:
        raise ArgumentError(f"--steps must be 2 or more, got {steps}")
    names = [f"codes-{step:0{len(str(steps - 1))}}" for step in range(steps)]
    older = [path for path in out.glob("codes-*.png") if path.stem.removeprefix("codes-").isdecimal()]
    check_inputs((first, second), out, [*(f"{name}.png" for name in (*names, "strip")), *(path.name for path in older)])
    ends = [read(path) for path in (first, second)]
    if ends[0].shape != ends[1].shape:
        sizes = [f"{path}: {end.shape[1]} x {end.shape[2]}" for path, end in zip((first, second), ends, strict=True)]
        raise UsageError(f"the pictures must have the same size, got {sizes[0]}, {sizes[1]}")
    model = start(checkpoint, out, device)
    shares = [step / (steps - 1) for step in range(steps)]
    found = interpolate(model, ends[0], ends[1], shares)
    ways = {"codes": found.by_codes, "latents": found.by_latents, "pixels": found.by_pixels}
    rows = [
        {
            "share": share,
            "density": found.codes[i].density,
            "psnr_codes_to_pixels": psnr(found.by_codes[i], found.by_pixels[i]),
            "psnr_codes_to_latents": psnr(found.by_codes[i], found.by_latents[i]),
        }
        for i, share in enumerate(shares)
    ]
    strip = picture_grid(
        f"From {first.name} to {second.name}",
        [
            (way, [(f"t = {share:.2f}", each) for share, each in zip(shares, pictures, strict=True)])
            for way, pictures in ways.items()
        ],
    )
    table = markdown_table(
        ("t", "nonzero code entries", "codes against pixels", "codes against latents"),
        [
            (
                f"{row['share']:.2f}",
                f"{row['density']:.1%}",
                decibels(row["psnr_codes_to_pixels"]),
                decibels(row["psnr_codes_to_latents"]),
            )
            for row in rows
        ],
    )
    content = {"pictures": [str(first), str(second)], "steps": rows}
    pictures = dict(zip(names, found.by_codes, strict=True))
    return finish(out, checkpoint, content, table, {"strip": strip}, pictures, older)
