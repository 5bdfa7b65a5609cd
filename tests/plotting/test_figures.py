"""Figures without data, and names in figures."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from pictures import scene

from scvae_fast.plotting import comparison, figures
from scvae_fast.plotting.clusters import maps
from scvae_fast.plotting.neighbours import Neighbour, neighbour_sheet
from scvae_fast.plotting.sheets import picture_grid

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
