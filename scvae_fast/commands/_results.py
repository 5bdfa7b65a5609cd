"""Results in the output folder of a command: metrics.json, a table, figures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scvae_fast._files import write_json, write_text, writing_to
from scvae_fast.data.pictures import save_picture
from scvae_fast.plotting.figures import Figure, save


def write_results(
    out: Path,
    content: dict[str, Any],
    table: str,
    figures: Mapping[str, Figure],
    pictures: Mapping[str, Tensor] | None = None,
    others: Mapping[str, Callable[[Path], object]] | None = None,
) -> list[Path]:
    """Write pictures and figures as NAME.png, the table as metrics.md, the content as metrics.json; each atomically.

    Args:
        out: the folder; created if it doesn't exist.
        content: JSON-serialisable.
        table: Markdown.
        figures: by name.
        pictures: (3, H, W) in −1 … 1, by name.
        others: by file name, a function that writes the file atomically to the path it gets.

    Returns:
        The paths of the files.

    Raises:
        UsageError: the folder can't be written to.
    """
    paths = []
    with writing_to(out):
        for name, picture in (pictures or {}).items():
            paths.append(out / f"{name}.png")
            save_picture(paths[-1], picture)
        for name, figure in figures.items():
            paths.append(out / f"{name}.png")
            save(paths[-1], figure, bbox_inches="tight", pad_inches=0.1)
        for name, write in (others or {}).items():
            paths.append(out / name)
            write(paths[-1])
        paths += [out / "metrics.md", out / "metrics.json"]
        write_text(paths[-2], table + "\n")
        write_json(paths[-1], content)
    return paths
