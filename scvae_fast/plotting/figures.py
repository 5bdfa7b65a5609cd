"""General figures: reconstructions, atoms, their use, density of codes, losses."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scvae_fast._extras import extra
from scvae_fast._files import printable, write_atomically
from scvae_fast.data.pictures import to_bytes

with extra("scvae_fast.plotting", "matplotlib"):
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

INK, QUIET, BLUE, ORANGE = "#1b1f24", "#6b7280", "#2563a8", "#d9822b"
# Transparent for sparse codes, bright for dense ones.
HEAT = LinearSegmentedColormap.from_list(
    "heat", [(0.10, 0.02, 0.30, 0.0), (0.75, 0.15, 0.40, 0.55), (1.0, 0.85, 0.30, 0.9)]
)


def reconstructions(
    title: str, names: Sequence[str], originals: Sequence[Tensor], rebuilt: Sequence[Tensor], captions: Sequence[str]
) -> Figure:
    """Originals (3, H, W) in the upper row, their reconstructions in the lower one."""
    widths = panel_ratios(originals)
    figure = Figure(figsize=(max(3.1 * sum(widths), 6), 7.0), layout="constrained", dpi=150)
    figure.suptitle(title, color=INK, fontsize=13, fontweight="bold")
    axes = figure.subplots(2, len(names), squeeze=False, width_ratios=widths)
    for i, name in enumerate(names):
        show(axes[0, i], originals[i], f"{name}, original")
        show(axes[1, i], rebuilt[i], captions[i])
    return figure


def atom_patches(patches: Tensor, usage: Tensor, *, columns: int = 32) -> Figure:
    """Patches (K, C, s, s) of all atoms, the most used first, each scaled individually."""
    order = usage.argsort(descending=True, stable=True)
    peak = patches.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-9)
    scaled = (patches / peak)[order]
    rows = -(-len(scaled) // columns)
    side, gap = scaled.shape[-1], 2
    sheet = torch.ones(3, rows * (side + gap) - gap, columns * (side + gap) - gap)
    for i, patch in enumerate(scaled):
        top, left = (i // columns) * (side + gap), (i % columns) * (side + gap)
        sheet[:, top : top + side, left : left + side] = patch
    figure = Figure(figsize=(12, 12 * rows / columns + 0.7), layout="constrained", dpi=150)
    show(figure.subplots(), sheet, "")
    figure.suptitle(
        f"What each of the {len(patches)} atoms adds, the most used first (grey: no change; each scaled individually)",
        color=INK,
        fontsize=13,
        fontweight="bold",
    )
    return figure


def density_overlay(
    names: Sequence[str], originals: Sequence[Tensor], active: Sequence[Tensor], *, stride: int, n_atoms: int
) -> Figure:
    """Grey photographs overlaid with the number `active` (h, w) of nonzero entries of their codes."""
    widths = panel_ratios(originals)
    figure = Figure(figsize=(4.4 * sum(widths) + 0.8, 4.9), layout="constrained", dpi=150)
    axes = figure.subplots(1, len(names), squeeze=False, width_ratios=widths)[0]
    most = max(float(torch.quantile(count.double(), 0.995)) for count in active)
    for axis, name, picture, count in zip(axes, names, originals, active, strict=True):
        show(axis, picture.mean(0, keepdim=True).expand(3, -1, -1) * 0.6 - 0.2, name)
        height, width = picture.shape[1:]
        extent = (-0.5, count.shape[1] * stride - 0.5, count.shape[0] * stride - 0.5, -0.5)
        heat = axis.imshow(count.numpy(), cmap=HEAT, vmin=0, vmax=most, extent=extent, interpolation="nearest")
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    bar = figure.colorbar(heat, ax=list(axes), shrink=0.85, pad=0.01)
    bar.set_label(f"nonzero entries of a code, of {n_atoms}", color=INK)
    bar.outline.set_visible(False)
    figure.suptitle("Where the codes are dense", color=INK, fontsize=13, fontweight="bold")
    return figure


def alpha_maps(originals: Sequence[Tensor], alpha: Tensor) -> Figure:
    """Pictures (3, H, W) above the weights α (B, h, w) of their positions, each scaled from 0 to its maximum.

    If α is constant, a text says so.
    """
    widths = panel_ratios(originals)
    figure = Figure(figsize=(max(3.1 * sum(widths), 6), 7.0), layout="constrained", dpi=150)
    figure.suptitle("Weights α of the positions in the loss", color=INK, fontsize=13, fontweight="bold")
    axes = figure.subplots(2, len(originals), squeeze=False, width_ratios=widths)
    for i, picture in enumerate(originals):
        show(axes[0, i], picture, "")
        axes[1, i].set_axis_off()
        least, most = float(alpha[i].min()), float(alpha[i].max())
        if most - least <= 1e-3 * most:
            text = f"the same everywhere, {most:.2g}"
            axes[1, i].text(0.5, 0.5, text, transform=axes[1, i].transAxes, color=QUIET, ha="center", va="center")
        else:
            axes[1, i].imshow(alpha[i].numpy(), cmap="magma", interpolation="nearest", vmin=0)
            axes[1, i].set_title(f"{least:.2g} … {most:.2g}", color=INK, fontsize=10)
    return figure


def support_histogram(counts: Tensor, n_atoms: int) -> Figure:
    """Histogram of the number of nonzero entries per code; counts (codes,)."""
    figure = Figure(figsize=(7, 4), layout="constrained", dpi=150)
    axes = plain(figure.subplots())
    values = counts.numpy()
    axes.hist(values, bins=min(40, max(int(values.max()), 1)), color=BLUE)
    axes.set(xlabel=f"nonzero entries of a code, of {n_atoms}", ylabel="codes", xlim=(0, None))
    titled(axes, f"Supports: {values.mean():.1f} entries on average")
    return figure


def loss_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """The terms of the loss, PSNR of the training crops and density of their codes, over the steps."""
    figure = Figure(figsize=(12, 3.8), layout="constrained", dpi=150)
    left, middle, right = (plain(axes) for axes in figure.subplots(1, 3))
    steps = [row["step"] for row in history]
    for name, colour in (("total", INK), ("image", BLUE), ("latent", ORANGE), ("sparsity", "#7a9a3a")):
        left.plot(steps, [row[f"loss/{name}"] for row in history], color=colour, label=name, linewidth=1.4)
    left.set(yscale="log", xlabel="step")
    left.legend(frameon=False, ncols=2)
    titled(left, "Terms of the loss")
    middle.plot(steps, [row["psnr"] for row in history], color=BLUE, linewidth=1.4)
    middle.set(xlabel="step", ylabel="dB")
    titled(middle, "PSNR of the training crops")
    right.plot(steps, [100 * row["density"] for row in history], color=ORANGE, linewidth=1.4)
    right.set(xlabel="step", ylabel="%", ylim=(0, None))
    titled(right, "Nonzero code entries")
    return figure


def panel_ratios(pictures: Iterable[Tensor | np.ndarray]) -> list[float]:
    """Width / height of the panels of pictures (…, H, W), at least 1/4 and at most 4, which limits the size of figures.

    A picture outside these limits keeps its proportions, and leaves a part of its panel empty.
    """
    return [min(max(picture.shape[-1] / picture.shape[-2], 1 / 4), 4.0) for picture in pictures]


def show(axes: Axes, picture: Tensor, title: str) -> None:
    """Draw a picture (3, H, W) in −1 … 1, without a frame."""
    axes.imshow(to_bytes(picture), interpolation="antialiased")
    axes.set_axis_off()
    axes.set_title(literal(title), color=INK, fontsize=10)


def literal(text: str) -> str:
    """Escape text that may contain file names: matplotlib reads text between two $ as mathematics."""
    return printable(text).replace("$", r"\$")


def save(path: Path, figure: Figure, **options: Any) -> None:
    """Write a figure atomically; letters that the font lacks are drawn as boxes.

    Raises:
        OSError: the file can't be written.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        write_atomically(path, partial(figure.savefig, **options))


def plain(axes: Axes) -> Axes:
    """Style the axes with a light grid and without a frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=QUIET)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def titled(axes: Axes, text: str) -> None:
    """Write a title above the left end."""
    axes.set_title(text, color=INK, fontsize=11, fontweight="bold", loc="left")


def pixels_of(figure: Figure) -> np.ndarray:  # -> (H, W, 3) uint8
    """The rendered figure at 100 dots per inch."""
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
