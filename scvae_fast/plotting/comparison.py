"""Figures of a comparison of methods."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from scvae_fast.plotting.figures import INK, plain, titled

# Colours by method, in the order of `METHODS`.
_COLOURS = {
    "vae": "#6b7280",
    "beta-vae": "#9aa3ae",
    "info-vae": "#4d908e",
    "vqgan": "#7a9a3a",
    "vit-vqgan": "#b5a642",
    "rq-vae": "#8e5ea2",
    "mo-vqgan": "#c0504d",
    "sc-vae": "#2563a8",
}


def reconstruction_rows(originals: np.ndarray, rebuilt: Mapping[str, tuple[str, np.ndarray]]) -> Figure:
    """Originals (N, 3, H, W) uint8 in the first row, each method's reconstructions below, with labels."""
    rows = [("original", originals), *rebuilt.values()]
    count = len(originals)
    figure = Figure(figsize=(1.5 * count + 1.6, 1.52 * len(rows) + 0.2), layout="constrained", dpi=150)
    axes = figure.subplots(len(rows), count, squeeze=False)
    for line, (label, pictures) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture.transpose(1, 2, 0), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(label, color=INK, fontsize=10, rotation=0, ha="right", va="center", labelpad=8)
    return figure


def rate_and_quality(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """PSNR over bits per pixel, with a point for each method."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained", dpi=150)
    axes = plain(figure.subplots())
    named: list[tuple[float, float]] = []
    for row in rows:
        rating, colour = row["rating"], _COLOURS[row["method"]]
        # A collapsed posterior has zero bits, which a logarithmic axis can't show.
        bits, psnr = max(rating["bits_per_pixel"], 1e-3), rating["psnr"]
        axes.scatter(bits, psnr, s=50, color=colour, zorder=3)
        # Names of nearly coincident methods are stacked.
        near = sum(abs(np.log10(bits / other)) < 0.3 and abs(psnr - height) < 0.4 for other, height in named)
        offset = (6, 5 - 13 * near)
        axes.annotate(row["title"], (bits, psnr), offset, textcoords="offset points", color=colour, fontsize=9)
        named.append((bits, psnr))
    axes.set(xscale="log", xlabel="bits per pixel (counted differently by method, see the table)", ylabel="PSNR, dB")
    axes.margins(x=0.15, y=0.12)
    titled(axes, "Quality and size of the code")
    return figure


# For each kind of codes: the axes and the title.
_COLLAPSE = {
    "posterior": ("unit, the largest first", "KL to the prior, nats", "Posterior collapse: KL of each unit"),
    "codebook": (
        "codebook vector, the most used first",
        "use, relative to uniform use",
        "Codebook collapse: use of each vector",
    ),
    "atoms": ("atom, the most used first", "use, relative to uniform use", "Use of each atom"),
}


def collapse(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """KL of each Gaussian unit, and how often each codebook vector and each atom is used, in descending order.

    There is a panel for each kind of codes.
    """
    found = [(row, row["rating"]["diagnosis"]) for row in rows]
    kinds = [kind for kind in _COLLAPSE if any(diagnosis["kind"] == kind for _, diagnosis in found)]
    figure = Figure(figsize=(4 * len(kinds), 3.9), layout="constrained", dpi=150)
    panels = dict(zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True))
    for row, diagnosis in found:
        posterior = diagnosis["kind"] == "posterior"
        values = np.maximum(np.asarray(diagnosis["kl_nats_per_unit" if posterior else "shares"]), 1e-12)
        panels[diagnosis["kind"]].plot(
            np.arange(1, len(values) + 1),
            values if posterior else values * len(values),
            color=_COLOURS[row["method"]],
            label=row["title"],
        )
    for kind, axes in panels.items():
        across, up, title = _COLLAPSE[kind]
        plain(axes).set(xlabel=across, ylabel=up, yscale="log", ylim=(1e-3, None))
        titled(axes, title)
        axes.legend(frameon=False, fontsize=9)
    return figure


def training_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """PSNR of the training crops over the steps."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained", dpi=150)
    axes = plain(figure.subplots())
    for row in rows:
        if row["psnr_in_training"]:
            steps, psnr = np.asarray(row["psnr_in_training"]).T
            axes.plot(steps, psnr, color=_COLOURS[row["method"]], label=row["title"], linewidth=1.4)
    axes.set(xlabel="step", ylabel="dB")
    if axes.lines:
        axes.legend(frameon=False, ncols=2, fontsize=9)
    titled(axes, "PSNR of the training crops, each point the mean of 20 steps")
    return figure
