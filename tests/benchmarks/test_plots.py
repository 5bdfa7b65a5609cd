"""Figures of results: drawn if there is data, and not empty."""

import io
from pathlib import Path

import benchmark_results as made
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.cases import BOTH, FORWARD, Case
from benchmarks.report import drawing, plots
from benchmarks.rivals import CLEAN


def pixels(figure: Figure) -> np.ndarray:
    held = io.BytesIO()
    drawing.save(figure, held)
    return np.asarray(Image.open(held).convert("RGB"))


@pytest.mark.parametrize("name", plots.PICTURES)
def test_every_picture_shows_something(name: str, tmp_path: Path) -> None:
    figure = plots.PICTURES[name](made.everything(tmp_path))
    assert figure is not None
    found = pixels(figure)
    assert min(found.shape[:2]) > 300
    assert 0.005 < (found < 128).any(-1).mean() < 0.9


@pytest.mark.parametrize("name", plots.PICTURES)
def test_without_data_there_is_no_picture(name: str, tmp_path: Path) -> None:
    assert plots.PICTURES[name](made.results(tmp_path, {})) is None
    case = Case("lista", FORWARD)
    nothing = {
        "crossover": [made.of(case, raised="MemoryError")],
        "iterations": [made.of(case, **{"left out": {CLEAN: "-"}})],
    }
    assert plots.PICTURES[name](made.results(tmp_path, nothing)) is None


def test_the_crossover_writes_the_ratio_of_every_cell(tmp_path: Path) -> None:
    figure = plots.crossover(made.everything(tmp_path))
    assert figure is not None
    cells = [sorted(text.get_text() for text in axes.texts) for axes in figure.axes]
    assert cells == [["0.67"] * 3 + ["13.3"] * 3] * 2


def test_a_cell_that_is_missing_stays_empty(tmp_path: Path) -> None:
    members = [made.timed(Case("lista", FORWARD, rows=M, density=d)) for M, d in ((1, 0.05), (16, 0.05), (16, 1.0))]
    figure = plots.crossover(made.results(tmp_path, {"crossover": members}))
    assert figure is not None
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["2.00", "2.00", "2.00", "–"]


def test_dtypes_get_panels_of_their_own(tmp_path: Path) -> None:
    members = [
        made.timed(Case("lista", way, rows=M, dtype=dtype))
        for way in (FORWARD, BOTH)
        for M in (1, 16, 256)
        for dtype in ("bfloat16", "float32")
    ]
    results = made.results(tmp_path, {"rows": members})
    for draw in (plots.speedup, plots.grown):
        figure = draw(results)
        assert figure is not None
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        assert sum("bfloat16" in title for title in titles) == sum("float32" in title for title in titles) > 0


def test_the_growth_of_the_picture_is_that_of_the_fit(tmp_path: Path) -> None:
    figure = plots.grown(made.everything(tmp_path))
    assert figure is not None
    legends = [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    assert "scvae_fast (cpu): $T^{1.00}$ ± 0.00" in legends
    assert "scvae_fast (cpu): $K^{1.00}$ ± 0.00" in legends


def test_models_that_were_wrong_have_no_bar(tmp_path: Path) -> None:
    result = made.model()
    result["samples"] = [{name: s for name, s in sample.items() if name != "ours"} for sample in result["samples"]]
    result["wrong"] = {"ours": "loss: error 1"}
    figure = plots.model(made.results(tmp_path, {"model": [result]}))
    assert figure is not None
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [
        "released code",
        "tuned loop",
        "scvae_fast, float32",
    ]
