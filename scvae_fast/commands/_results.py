"""Results in the output folder of a command: metrics.json, a table, figures."""

from collections.abc import Callable, Iterable, Mapping
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
    older: Iterable[Path] = (),
) -> list[Path]:
    """Write pictures and figures as NAME.png, the table as metrics.md, the content as metrics.json; each atomically.

    Figures are drawn last: an error in drawing them leaves the other results.

    Args:
        out: the folder; created if it doesn't exist.
        content: JSON-serialisable.
        table: Markdown.
        figures: by name.
        pictures: (3, H, W) in −1 … 1, by name.
        others: by file name, a function that writes the file atomically to the path it gets.
        older: files in `out` that only some runs of the command write. If metrics.json shows that there was an earlier
            run, those that this one doesn't write are removed.

    Returns:
        The paths of the files.

    Raises:
        UsageError: the folder can't be written to.
    """
    paths = []
    with writing_to(out):
        older = list(older) if (out / "metrics.json").exists() else []
        for name, picture in (pictures or {}).items():
            paths.append(out / f"{name}.png")
            save_picture(paths[-1], picture)
        for name, write in (others or {}).items():
            paths.append(out / name)
            write(paths[-1])
        paths += [out / "metrics.md", out / "metrics.json"]
        write_text(paths[-2], table + "\n")
        write_json(paths[-1], content)
        drawn = {out / f"{name}.png": figure for name, figure in figures.items()}
        for path in older:
            if path not in paths and path not in drawn and (path.is_file() or path.is_symlink()):
                path.unlink()
        for path, figure in drawn.items():
            save(path, figure, bbox_inches="tight", pad_inches=0.1)
            paths.append(path)
    return paths
