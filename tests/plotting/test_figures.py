"""Figures without data, and names in figures."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from pictures import scene

from scvae_fast.data import load_picture
from scvae_fast.data.masks import MaskedPicture
from scvae_fast.plotting import comparison, figures
from scvae_fast.plotting.clusters import maps
from scvae_fast.plotting.neighbours import Neighbour, neighbour_sheet
from scvae_fast.plotting.segmentation import segmentations
from scvae_fast.plotting.sheets import picture_grid
from scvae_fast.tasks.segmentation.experiment import Segmented

NAMES = ["a$b$c.png", "$\\frac$", "50%", "猫.png", "a\nb", "{x}_y^z", "caf\udce9"]


def texts(figure: figures.Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("name", NAMES)
def test_file_names_are_not_read_as_mathematics(name: str, tmp_path: Path) -> None:
    picture, labels = scene(8, 8), np.zeros((8, 8), int)
    drawn = [
        figures.reconstructions("Title", [name], [picture], [picture], ["1 dB"]),
        figures.density_overlay([name], [picture], [torch.ones(4, 4)], stride=2, n_atoms=3),
        picture_grid(f"From {name} to {name}", [("codes", [(name, picture)])]),
        neighbour_sheet("Title", [(name, picture)], [[Neighbour(picture, name)]]),
        maps([picture], [labels], [name], 2),
    ]
    for figure in drawn:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figures.save(tmp_path / "x.png", figure)
        assert (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize("size", [(4, 4000), (4000, 4)])
def test_long_pictures_make_no_large_figures(size: tuple[int, int], tmp_path: Path) -> None:
    pictures, names, cells = [scene(*size)] * 2, list("ab"), [torch.ones(size[0] // 2, size[1] // 2)] * 2
    mask, labels = np.zeros(size, np.uint8), [np.zeros(size, int)] * 2
    drawn = [
        figures.reconstructions("Title", names, pictures, pictures, names),
        figures.density_overlay(names, pictures, cells, stride=2, n_atoms=3),
        figures.alpha_maps(pictures, torch.rand(2, size[0] // 2, size[1] // 2)),
        picture_grid("Title", [("codes", list(zip(names, pictures, strict=True)))] * 3),
        maps(pictures, labels, names, 2),
        segmentations([Segmented(MaskedPicture("a", pictures[0], mask), mask)] * 2, ["one", "two"]),
    ]
    for figure in drawn:
        width, height = figure.get_size_inches()
        assert width * height * figure.dpi**2 < 2e7
        figures.save(tmp_path / "x.png", figure, bbox_inches="tight", pad_inches=0.1)
        assert np.prod(load_picture(tmp_path / "x.png").shape[1:]) < 2e7


def test_panels_have_the_proportions_of_pictures_within_limits() -> None:
    sizes = {(30, 45): 1.5, (30, 15): 0.5, (10, 41): 4, (41, 10): 0.25}
    assert figures.panel_ratios(torch.empty(3, *size) for size in sizes) == list(sizes.values())


def test_constant_weights_are_described_in_words() -> None:
    alpha = torch.full((2, 4, 4), 1 / 16)
    alpha[1, 0, 0] = 0.5
    figure = figures.alpha_maps([scene(8, 8), scene(8, 8)], alpha)
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 0, 1]
    assert "the same everywhere, 0.062" in texts(figure)
    assert "0.062 … 0.5" in texts(figure)


@pytest.mark.parametrize("kinds", [["atoms"], ["codebook", "atoms"], ["posterior", "codebook", "atoms"]])
def test_collapse_has_a_panel_for_each_kind_of_codes_there_is(kinds: list[str]) -> None:
    methods = {"posterior": "vae", "codebook": "vqgan", "atoms": "sc-vae"}
    rows = [
        {
            "method": methods[kind],
            "title": kind,
            "rating": {"diagnosis": {"kind": kind, "kl_nats_per_unit": [2.0, 0.1], "shares": [0.75, 0.25]}},
        }
        for kind in kinds
    ]
    figure = comparison.collapse(rows)
    assert [axes.get_legend().get_texts()[0].get_text() for axes in figure.axes] == kinds
    lines = [axes.lines[0].get_ydata().tolist() for axes in figure.axes]
    assert lines == [[2.0, 0.1] if kind == "posterior" else [1.5, 0.5] for kind in kinds]
