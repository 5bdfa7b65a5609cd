"""Figures of a clustering: patches of its clusters, maps of pictures, quality against k."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from scvae_fast.data.pictures import to_bytes
from scvae_fast.plotting.figures import BLUE, INK, ORANGE, panel_ratios, plain, show, titled

_GAP = 2  # pixels between patches
# Colours of clusters and classes: Tableau's, then similar ones.
_COLOURS = np.concatenate([colormaps[name](range(n))[:, :3] for name, n in (("tab10", 10), ("Dark2", 8), ("Set2", 8))])


def colours(n: int) -> np.ndarray:  # -> (n, 3) in 0 … 1
    """A different colour for each of n clusters."""
    if n <= len(_COLOURS):
        return _COLOURS[:n]
    return colormaps["gist_ncar"](np.linspace(0.03, 0.97, n))[:, :3]


def overlay(picture: Tensor, labels: np.ndarray, n: int, *, share: float = 0.55) -> np.ndarray:
    """A grey picture (3, H, W) tinted with the colours of its pixels' labels (H, W); (H, W, 3) uint8."""
    grey = to_bytes(picture).mean(2, keepdims=True)
    return ((1 - share) * grey + share * 255 * colours(n)[labels]).round().astype(np.uint8)


def pixels_of(labels: np.ndarray, stride: int, size: tuple[int, int]) -> np.ndarray:  # (h, w) -> (H, W)
    """The label of every pixel, which is that of its cell."""
    return labels.repeat(stride, 0).repeat(stride, 1)[: size[0], : size[1]]


def patch_sheet(painted: Tensor, nearest: list[list[Tensor]], drawn: list[list[Tensor]], counts: np.ndarray) -> Figure:
    """A row for each cluster: its decoded mean code, the patches nearest to its centre, and random patches.

    Args:
        painted: (k, 3, s, s).
        nearest: of each cluster, patches (3, s, s).
        drawn: of each cluster, patches.
        counts: (k,), number of patches in each cluster.
    """
    k, side = len(painted), painted.shape[-1]
    pitch, widths = side + _GAP, (1, max(map(len, nearest)), max(map(len, drawn)))
    starts = np.cumsum([0, *(width * pitch + 3 * _GAP for width in widths)])
    sheet = torch.ones(3, k * pitch - _GAP, int(starts[-1]) - 4 * _GAP)
    for start, patches_of in zip(starts, ([[patch] for patch in painted], nearest, drawn), strict=False):
        for row, column, patch in ((i, j, each) for i, own in enumerate(patches_of) for j, each in enumerate(own)):
            top, left = row * pitch, int(start) + column * pitch
            sheet[:, top : top + side, left : left + side] = patch
    figure = Figure(figsize=(0.6 * sum(widths) + 2.0, 0.6 * k + 1.0), layout="constrained", dpi=150)
    axis = figure.subplots()
    axis.imshow(to_bytes(sheet), interpolation="nearest")
    heights = [row * pitch + side / 2 for row in range(k)]
    axis.set_yticks(heights, [f"{i}: {share:.1%}" for i, share in enumerate(counts / counts.sum())])
    for height, colour in zip(heights, colours(k), strict=True):  # the colours of the maps
        axis.text(-2 * _GAP, height, "■", color=colour, ha="right", va="center", fontsize=10)
    for start, width, text in zip(starts, widths, ("mean", "nearest to the centre", "random"), strict=False):
        if width:
            axis.text(start + (width * pitch - _GAP) / 2, -_GAP, text, ha="center", va="bottom", color=INK, fontsize=10)
    axis.set_xticks([])
    axis.tick_params(length=0, pad=18, labelcolor=INK)
    axis.spines[:].set_visible(False)
    title = f"Patches of {k} clusters, each with one cell around it"
    figure.suptitle(title, color=INK, fontweight="bold", fontsize=12)
    return figure


def maps(pictures: Sequence[Tensor], labels: Sequence[np.ndarray], names: Sequence[str], n: int) -> Figure:
    """Pictures above their label maps (H, W), with n labels."""
    widths = panel_ratios(pictures)
    figure = Figure(figsize=(max(3.1 * sum(widths), 5), 6.6), layout="constrained", dpi=150)
    axes = figure.subplots(2, len(pictures), squeeze=False, width_ratios=widths)
    for i, picture in enumerate(pictures):
        show(axes[0, i], picture, names[i])
        axes[1, i].imshow(overlay(picture, labels[i], n), interpolation="nearest")
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle(f"The clusters of cells, {n} in all", color=INK, fontweight="bold", fontsize=12)
    return figure


def quality_curves(rated: Sequence[dict[str, Any]], chosen: int) -> Figure:
    """Inertia and silhouette against the number of clusters."""
    figure = Figure(figsize=(8, 3.4), layout="constrained", dpi=150)
    axes = [plain(axis) for axis in figure.subplots(1, 2)]
    ks = [each["clusters"] for each in rated]
    for axis, key, title, colour in zip(
        axes, ("inertia", "silhouette"), ("Inertia", "Mean silhouette, of a sample"), (BLUE, ORANGE), strict=True
    ):
        values = [np.nan if each[key] is None else each[key] for each in rated]
        axis.plot(ks, values, "o-", color=colour)
        axis.plot(ks[chosen], values[chosen], "o", markersize=11, markerfacecolor="none", color=INK)
        axis.set_xscale("log", base=2)
        axis.set_xticks(ks, [str(k) for k in ks], minor=False)
        axis.set(xlabel="clusters")
        titled(axis, title)
    return figure
