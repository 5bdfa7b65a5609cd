"""Sheets of edited pictures next to those that they are compared with."""

from collections.abc import Sequence

from torch import Tensor

from scvae_fast.plotting.figures import INK, Figure, literal, panel_ratios, show


def picture_grid(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, Tensor]]]], *, width: float = 1.9) -> Figure:
    """Rows of pictures (3, H, W), each with a caption above it; a row has a name, or "" for none.

    Args:
        title: of the sheet.
        rows: pairs of a name and a list of (caption, picture) pairs.
        width: of a picture, in inches.
    """
    columns = max(len(pictures) for _, pictures in rows)
    first = rows[0][1][0][1]
    height = width / panel_ratios([first])[0] + 0.25
    figure = Figure(figsize=(width * columns + 0.3, height * len(rows) + 0.5), layout="constrained", dpi=130)
    figure.suptitle(literal(title), color=INK, fontsize=11, fontweight="bold")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for (name, pictures), line in zip(rows, axes, strict=True):
        for index, (axis, (caption, picture)) in enumerate(zip(line, pictures, strict=False)):
            show(axis, picture, f"{name}: {caption}" if name and index == 0 else caption)
            axis.title.set(fontsize=8)
    return figure
