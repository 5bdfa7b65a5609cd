"""Sheets of query pictures and their neighbours."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from scvae_fast.plotting.figures import BLUE, INK, ORANGE, Figure, show

# Side of a picture on a sheet; larger pictures are scaled down to it.
SHOWN_PIXELS = 216


class Neighbour(NamedTuple):
    """A gallery picture next to a query; `same` says whether it has the query's class, None if unknown."""

    picture: Tensor  # (3, H, W)
    caption: str
    same: bool | None = None


def neighbour_sheet(
    title: str, queries: Sequence[tuple[str, Tensor]], neighbours: Sequence[Sequence[Neighbour]]
) -> Figure:
    """A row for each query: the query (name and picture) and its neighbours, the most similar first."""
    columns = 1 + max(len(row) for row in neighbours)
    figure = Figure(figsize=(1.45 * columns + 0.3, 1.6 * len(queries) + 0.5), layout="constrained", dpi=150)
    figure.suptitle(title, color=INK, fontsize=11, fontweight="bold")
    axes = figure.subplots(len(queries), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for (name, picture), row, own in zip(queries, axes, neighbours, strict=True):
        show(row[0], picture, name)
        row[0].title.set(fontsize=6, fontweight="bold")
        for axis, neighbour in zip(row[1:], own, strict=False):
            show(axis, neighbour.picture, neighbour.caption)
            axis.title.set(fontsize=6, color={None: INK, True: BLUE, False: ORANGE}[neighbour.same])
    return figure
