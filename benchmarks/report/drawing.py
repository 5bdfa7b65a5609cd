"""The style of figures: a colour for each contestant, axes, ticks on logarithmic scales, legends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmarks import model
from benchmarks.rivals import CLEAN, COMPILED, GRAPH, PRODUCTS, RELEASED
from scvae_fast.plotting.figures import BLUE, INK, ORANGE, QUIET

GREY, GREEN, VIOLET, RED, TEAL, PALE = "#a3abb5", "#6f9a35", "#8458b3", "#b8403a", "#2f8f8b", "#86b3dd"
_COLOURS = {RELEASED: GREY, model.HABITS: GREY, CLEAN: INK, model.EAGER: INK, PRODUCTS: QUIET, GRAPH: TEAL}
_COLOURS |= {"cpu": BLUE, model.OURS: BLUE, "cuda": ORANGE, "triton": GREEN, "eager": RED, model.FLOAT32: PALE}
_CYCLE = (BLUE, ORANGE, GREEN, VIOLET, RED, TEAL, INK, GREY)
N_COLOURS = len(_CYCLE)


def save(figure: Figure, file: Path | IO[bytes]) -> None:
    """Write a figure as PNG."""
    figure.savefig(file, dpi=150, facecolor="white", format="png")


def colour_of(name: str) -> str:
    """A contestant's colour, the same in every figure."""
    if name in _COLOURS:
        return _COLOURS[name]
    if COMPILED in name:
        return VIOLET
    method, _, backend = name.partition(", ")
    if method in ("ISTA", "FISTA", "coordinate descent"):  # a solver
        return {"scvae_fast.lasso": BLUE, "cpu": BLUE, "triton": GREEN, "cuda": ORANGE}.get(backend, INK)
    return _COLOURS.get(method, QUIET)


def colours(n: int) -> list[Any]:
    """Colours for n things other than contestants."""
    return [_CYCLE[i % len(_CYCLE)] for i in range(n)]


def dot(mark: str, colour: Any, label: str) -> Line2D:
    """A marker for legends."""
    return Line2D([], [], linestyle="", marker=mark, color=colour, label=label)


def blank(width: float, height: float, title: str) -> Figure:
    """An empty figure of this size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    figure.suptitle(title, color=INK, fontsize=13, fontweight="bold")
    return figure


def legend(figure: Figure, panels: Iterable[Axes], columns: int = 6) -> None:
    """One legend for all panels, below them."""
    known = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        known.values(), known, loc="outside lower center", ncols=min(columns, len(known)), frameon=False, fontsize=9
    )


def ticks(axis: Any, values: Iterable[float], most: int = 7) -> None:
    """Put ticks only at these values, or at every second or third of them if there are too many to read."""
    chosen = sorted(values)
    axis.set_major_locator(FixedLocator(chosen[:: -(-len(chosen) // most)]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))


def large(value: float) -> str:
    """A number with the suffix G or T."""
    return f"{value / 1e12:.3g} T" if value >= 1e12 else f"{value / 1e9:.3g} G"


def log_ticks(axis: Any, low: float, high: float, shown: Callable[[float], str] = "{:g}".format) -> None:
    """Put ticks at powers of ten, and between them if the axis covers few."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))


def count(value: float) -> str:
    """Format large multiples of 1024 with Ki and Mi."""
    if value >= 2**14 and value % 2**10 == 0:
        return f"{value / 2**20:g} Mi" if value >= 2**20 else f"{value / 2**10:g} Ki"
    return f"{value:g}"
