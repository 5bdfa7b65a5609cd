"""A dictionary learned from photographs, and how well its sparse codes reconstruct a held-out photograph.

    python -m examples.patches --out docs/images/gallery

Learns K = 256 atoms for patches of 8 × 8 pixels (without their means) from crops of the embedded photographs. Codes the
patches of a held-out photograph by the lasso's optimum, by a LISTA network of 5 iterations trained on the same crops,
and by 5 iterations of ISTA. Prints a table, and draws the atoms and the PSNR over the density.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scvae_fast._markdown import markdown_table
from scvae_fast.data import CropSettings, RandomCrops, held_out_photographs, training_photographs
from scvae_fast.estimators import LassoCoder, LISTACoder, OnlineDictionaryLearning
from scvae_fast.plotting.figures import plain

SIDE, ATOMS, T = 8, 256, 5
COLOURS = {"lasso, optimum": "#1b1f24", f"LISTA, {T} iterations": "#2563a8", f"ISTA, {T} iterations": "#d9822b"}


class Point(NamedTuple):
    """A coder at one α: the density of its codes, and the PSNR of their reconstruction."""

    coder: str
    alpha: float
    density: float
    psnr: float


def patches(pictures: torch.Tensor) -> np.ndarray:  # (B, 3, H, W) -> (M, 64)
    """Adjacent patches of the grey pictures, as rows without their means."""
    grey = pictures.mean(1, keepdim=True)
    rows = torch.nn.functional.unfold(grey, SIDE, stride=SIDE).transpose(1, 2).reshape(-1, SIDE**2)
    return (rows - rows.mean(1, keepdim=True)).numpy()


def compare(
    train: np.ndarray, test: np.ndarray, alphas: tuple[float, ...], epochs: int
) -> tuple[list[Point], np.ndarray]:
    """Every coder at every α, over one dictionary (K, n)."""
    learner = OnlineDictionaryLearning(ATOMS, alpha=alphas[0], max_iter=3, random_state=0).fit(train)
    atoms, points = learner.components_, []
    for alpha in alphas:
        ista = {"transform_algorithm": "ista", "transform_max_iter": T, "transform_tol": 0}
        coders = (
            LassoCoder(atoms, alpha=alpha).fit(train),
            LISTACoder(atoms, alpha=alpha, n_iter=T, epochs=epochs, random_state=0).fit(train),
            LassoCoder(atoms, alpha=alpha, **ista).fit(train),
        )
        for name, coder in zip(COLOURS, coders, strict=True):
            codes = coder.transform(test)
            error = np.square(test - coder.inverse_transform(codes)).mean()
            points.append(Point(name, alpha, float((codes != 0).mean()), float(10 * np.log10(4 / error))))
    return points, atoms


def draw(points: list[Point], atoms: np.ndarray) -> Figure:
    """The atoms, and PSNR over density."""
    figure = Figure(figsize=(10, 4.6), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    scaled = (atoms / np.abs(atoms).max(1, keepdims=True)).reshape(16, 16, SIDE, SIDE)
    sheet = (
        np.pad(scaled, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=1.0).transpose(0, 2, 1, 3).reshape(144, 144)
    )
    left.imshow(sheet, cmap="gray", interpolation="nearest")
    left.set_axis_off()
    left.set_title("The learned atoms", fontsize=11)
    for name, colour in COLOURS.items():
        its = sorted((p.density, p.psnr) for p in points if p.coder == name)
        right.plot(*zip(*its, strict=True), marker="o", color=colour, label=name)
    plain(right).set(xlabel="share of code entries that are not zero", ylabel="PSNR of the held-out photograph, dB")
    right.legend(frameon=False)
    return figure


def main(words: list[str] | None = None) -> None:
    """Learn, compare, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder of patches.png")
    parser.add_argument("--crops", type=int, default=60, metavar="N", help="64 × 64 pixels each (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=15, metavar="N", help="epochs of LISTA (default: %(default)s)")
    options = parser.parse_args(words)
    settings = CropSettings(size=64, zoom_out=2.0, recolour=0.0, negative=0.0)
    crops = RandomCrops(training_photographs(), settings, seed=0)
    train = patches(torch.stack([crops[i] for i in range(options.crops)]))
    picture = next(p.picture for p in held_out_photographs() if p.name == "china")
    test = patches(picture[None, :, :424, :640])
    points, atoms = compare(train, test, (0.4, 0.2, 0.1, 0.05), options.epochs)
    rows = [[p.coder, f"{p.alpha:g}", f"{p.density:.1%}".replace("%", " %"), f"{p.psnr:.2f} dB"] for p in points]
    print(markdown_table(["coder", "α", "not zero", "PSNR"], rows, left=(0,)))
    options.out.mkdir(parents=True, exist_ok=True)
    draw(points, atoms).savefig(options.out / "patches.png", facecolor="white")


if __name__ == "__main__":
    main()
