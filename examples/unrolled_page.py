"""Writes docs/unrolled.md and its figures from the results of `examples.unrolled`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scvae_fast._markdown import markdown_table

_STYLES = {
    "ISTA": ("#6b7280", ":"),
    "FISTA": ("#1b1f24", ":"),
    "LISTA": ("#2563a8", "-"),
    "LISTA-CP": ("#d9822b", "-"),
    "TiLISTA": ("#2f9e6e", "-"),
    "ALISTA": ("#b03a5b", "-"),
    "SLISTA": ("#7a52a8", "-"),
    "LISTA-CPSS": ("#d9822b", "--"),
    "TiLISTA, selecting": ("#2f9e6e", "--"),
    "ALISTA, selecting": ("#b03a5b", "--"),
}
_MEBIBYTE = 2**20

_PAGE = Path(__file__).with_suffix(".md")  # with {names} in place of results


def write(found: dict[str, Any], out: Path, constants: dict[str, object]) -> None:
    """Write the page and its figures into a folder."""
    images = out / "images" / "unrolled"
    images.mkdir(parents=True, exist_ok=True)
    for name, figure in (("nmse", _curves(found)), ("learned", _learned(found)), ("cost", _cost(found))):
        FigureCanvasAgg(figure).print_png(images / f"{name}.png")
    layers = (1, 2, 4, 8, 12, 16)
    curves = markdown_table(
        ["layers", *map(str, layers)],
        [[name, *(f"{curve[t]:.1f}" for t in layers)] for name, curve in found["curves"].items()],
    )
    costs = markdown_table(
        ["network", "T", "speed-up", "the loop keeps", "the layer keeps"],
        [
            [name, str(T), f"{faster:.1f} ×", f"{loop / _MEBIBYTE:.1f} MiB", f"{layer / _MEBIBYTE:.1f} MiB"]
            for name, T, faster, loop, layer in found["costs"]
        ],
    )
    page = _PAGE.read_text(encoding="utf-8")
    text = page.format(curves=curves, costs=costs, steps=found["steps"], machine=found["environment"], **constants)
    (out / "unrolled.md").write_text(text, encoding="utf-8")


def _figure(width: float, panels: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, 4.2), layout="constrained", dpi=150)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#e5e7eb", linewidth=0.6)
    return figure, axes


def _curves(found: dict[str, Any]) -> Figure:
    figure, (axis,) = _figure(8, 1)
    for name, curve in found["curves"].items():
        colour, line = _STYLES[name]
        axis.plot(range(len(curve)), curve, color=colour, linestyle=line, label=name)
    axis.set_xlabel("layers")
    axis.set_ylabel("NMSE, dB")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _learned(found: dict[str, Any]) -> Figure:
    figure, axes = _figure(10, 2)
    for axis, key, label in zip(axes, ("theta", "step"), ("threshold θ", "step γ"), strict=True):
        for name, rows in found["learned"].items():
            if key in rows:
                colour, line = _STYLES[name]
                axis.plot(range(1, len(rows[key]) + 1), rows[key], color=colour, linestyle=line, label=name)
        axis.set_xlabel("layer")
        axis.set_ylabel(label)
        axis.legend(frameon=False, fontsize=7)
    return figure


def _cost(found: dict[str, Any]) -> Figure:
    figure, axes = _figure(10, 2)
    for name, colour in (("LISTACP", "#d9822b"), ("TiLISTA", "#2f9e6e"), ("SLISTA", "#7a52a8")):
        rows = [row[1:] for row in found["costs"] if row[0] == name]
        T, faster, loop, layer = zip(*rows, strict=True) if rows else ((), (), (), ())
        axes[0].plot(T, faster, color=colour, marker="o", label=name)
        axes[1].plot(T, [each / _MEBIBYTE for each in loop], color=colour, linestyle=":", label=f"{name}, loop")
        axes[1].plot(T, [each / _MEBIBYTE for each in layer], color=colour, label=f"{name}, layer")
    axes[0].set_ylabel("speed-up over the loop")
    axes[1].set_ylabel("kept for the backward pass, MiB")
    axes[0].set_ylim(bottom=0)
    for axis in axes:
        axis.set_xlabel("T")
        axis.legend(frameon=False, fontsize=7)
    return figure
