"""Results as matplotlib figures: speed-ups, memory, roofline, crossover, growth, lasso, models, parity."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.cases import BACKWARD, BOTH, FORWARD
from benchmarks.model import HABITS
from benchmarks.report import drawing, growth, measured, wording
from benchmarks.results import Results
from benchmarks.rivals import CLEAN, PRODUCTS, RELEASED, WAYS
from scvae_fast.plotting.figures import BLUE, INK, ORANGE, QUIET, plain, titled

_MARKS = {FORWARD: "o", BACKWARD: "v", BOTH: "s"}
_SLOWER_FASTER = LinearSegmentedColormap.from_list("slower_faster", [drawing.RED, "#ffffff", BLUE])
_LARGEST = 2.0  # octaves from 1 where the colour scale ends
_SPEEDUPS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 30, 50, 100)
_ATOMS, _DENSITY = 512, 0.05  # figures that can't show all sizes show these, if available


def speedup(results: Results) -> Figure | None:
    """Speed-up of the automatic choice over both eager loops, against M."""
    found = _over_rows(results)
    if not found:
        return None
    densities = sorted({r["settings"]["density"] for r in found})
    rows = sorted({r["settings"]["rows"] for r in found})
    dtypes = list(dict.fromkeys(r["settings"]["dtype"] for r in found))
    kinds = [(direction, dtype) for direction in (FORWARD, BOTH) for dtype in dtypes]
    figure = drawing.blank(11, 1 + 3.2 * len(kinds), "Speed-up over eager PyTorch against the number of rows M")
    panels = figure.subplots(len(kinds), 2, squeeze=False, sharex=True, sharey=True)
    for (i, (direction, dtype)), (j, rival) in itertools.product(enumerate(kinds), enumerate((CLEAN, RELEASED))):
        axes = plain(panels[i, j])
        axes.axhline(1, color=INK, linewidth=1)
        its = [r for r in found if (r["settings"]["direction"], r["settings"]["dtype"]) == (direction, dtype)]
        for density, colour in zip(densities, drawing.colours(len(densities)), strict=True):
            members = {r["settings"]["rows"]: r for r in its if r["settings"]["density"] == density}
            _band(axes, rows, [members.get(M, {}) for M in rows], rival, f"d = {density:g}", colour)
        axes.set(xscale="log", yscale="log", xlabel="rows M" if i == len(kinds) - 1 else "")
        titled(axes, f"{wording.DIRECTIONS[direction]}, {dtype}, over the {wording.called(rival)}")
    drawing.ticks(panels[0, 0].xaxis, rows)
    low, high = panels[0, 0].get_ylim()
    drawing.ticks(panels[0, 0].yaxis, [t for t in _SPEEDUPS if low <= t <= high], most=len(_SPEEDUPS))
    drawing.legend(figure, panels.flat)
    return figure


def memory(results: Results) -> Figure | None:
    """Bytes kept for the backward pass and added at the peak, against T."""
    found = [r for r in results.group("memory") if r.get("memory")]
    found = found or [r for r in results.group("iterations") if r["settings"]["direction"] == BOTH and r.get("kept")]
    if not found:
        return None
    dtypes = list(dict.fromkeys(r["settings"].get("dtype", "") for r in found))
    common = wording.in_words(found[0]["settings"], ("op", "rows", "density", "atoms"))
    figure = drawing.blank(11, 0.8 + 3.6 * len(dtypes), f"Memory of a forward and a backward pass: {common}")
    panels = figure.subplots(len(dtypes), 2, squeeze=False, sharex=True, sharey="row")
    whats = {"kept for the backward pass": measured.kept, "added at the peak": measured.peak}
    for line, dtype in zip(panels, dtypes, strict=True):
        members = [r for r in found if r["settings"].get("dtype", "") == dtype]
        for axes, (title, of) in zip(line, whats.items(), strict=True):
            for name in dict.fromkeys(name for r in members for name in r.get("memory") or r["kept"]):
                there = {r["settings"]["n_iter"]: size for r in members if (size := of(r, name)) is not None}
                sizes = sorted(there)
                _line(axes, sizes, [there[T] / 2**20 for T in sizes], name)
            plain(axes).set(yscale="log", ylabel="MiB" if axes is line[0] else "")
            drawing.log_ticks(axes.yaxis, *axes.get_ylim())
            titled(axes, ", ".join(filter(None, (title, dtype))))
    for axes in panels[-1]:
        axes.set_xlabel("iterations T")
    panels[0, 0].set_xticks(sorted({r["settings"]["n_iter"] for r in found}))
    drawing.legend(figure, panels.flat)
    return figure


def roofline(results: Results) -> Figure | None:
    """Useful arithmetic per second against useful arithmetic per byte to be moved, under the ceilings."""
    ceilings = results.document.get("ceilings", {})
    found = [r for r in measured.timed(results.document["results"]) if r.get("least bytes")]
    dtypes = [d for d in ceilings.get("product", {}) if any(r["settings"]["dtype"] == d for r in found)]
    if not dtypes:
        return None
    figure = drawing.blank(
        7.2 * min(2, len(dtypes)),
        0.9 + 5.2 * -(-len(dtypes) // 2),
        "Useful arithmetic per second, and the limits of the machine",
    )
    panels = figure.subplots(-(-len(dtypes) // 2), min(2, len(dtypes)), squeeze=False)
    ops = list(dict.fromkeys(r["settings"]["op"] for r in found))
    colours = dict(zip(ops, drawing.colours(len(ops)), strict=True))
    for axes, dtype in zip(panels.flat, dtypes, strict=False):
        members = [r for r in found if r["settings"]["dtype"] == dtype]
        plain(axes).set(xscale="log", yscale="log")
        _points(axes, members, colours)
        peak = ceilings.get("peak") if dtype == "float32" else None
        _ceilings(axes, ceilings["copy"], {"a large product": ceilings["product"][dtype], "the peak": peak})
        drawing.log_ticks(axes.xaxis, *axes.get_xlim())
        low, high = axes.get_ylim()
        drawing.log_ticks(axes.yaxis, low, high, drawing.large)
        axes.set(xlabel="useful multiply-adds per byte that must move", ylabel="useful multiply-adds per second")
        titled(axes, dtype)
    for axes in panels.flat[len(dtypes) :]:
        axes.set_axis_off()
    marks: list[Line2D] = [drawing.dot("o", colour, op) for op, colour in colours.items()]
    marks += [drawing.dot(mark, QUIET, wording.DIRECTIONS[d]) for d, mark in _MARKS.items()]
    marks += [Line2D([], [], linestyle="", marker="o", markerfacecolor="none", color=QUIET, label="tuned loop")]
    figure.legend(handles=marks, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    return figure


def crossover(results: Results) -> Figure | None:
    """Speed-up of the automatic choice over the tuned eager loop: M by density."""
    found = measured.timed(results.group("crossover"))
    found = [r for r in found if measured.ratio(r, CLEAN) is not None]
    if not found:
        return None
    keys = [key for key in wording.varying(found) if key not in ("rows", "density", "direction")]
    kinds = list(dict.fromkeys(wording.in_words(r["settings"], keys) for r in found))
    directions = [d for d in (FORWARD, BOTH) if any(r["settings"]["direction"] == d for r in found)]
    densities = sorted({r["settings"]["density"] for r in found})
    rows = sorted({r["settings"]["rows"] for r in found})
    wide, high = 1.5 + len(directions) * (1.2 + 0.85 * len(densities)), 1.2 + len(kinds) * (1.1 + 0.45 * len(rows))
    figure = drawing.blank(max(8, wide), high, "Speed-up over the tuned eager loop")
    panels = figure.subplots(len(kinds), len(directions), squeeze=False, sharex=True, sharey=True)
    for line, kind in zip(panels, kinds, strict=True):
        for axes, direction in zip(line, directions, strict=True):
            its = [r for r in found if r["settings"]["direction"] == direction]
            _cells(axes, [r for r in its if wording.in_words(r["settings"], keys) == kind], rows, densities)
            titled(axes, ", ".join(filter(None, (wording.DIRECTIONS[direction], kind))))
    for axes in panels[-1]:
        axes.set_xlabel("density of the codes")
    for axes in panels[:, 0]:
        axes.set_ylabel("rows M")
    return figure


def grown(results: Results) -> Figure | None:
    """Seconds against M, T and K, with the exponents of their growth."""
    shown: dict[tuple[str, str], dict[str, growth.Series]] = {}
    for series in growth.series(results):
        s = series.shared
        if s["direction"] == BACKWARD:
            continue
        held = shown.setdefault((s["direction"], s["dtype"]), {})
        if series.axis not in held or _distance(s) < _distance(held[series.axis].shared):
            held[series.axis] = series
    if not shown:
        return None
    names = [axis for axis in growth.AXES if any(axis in held for held in shown.values())]
    size = (1.2 + 4.6 * len(names), 0.8 + 3.9 * len(shown))
    figure = drawing.blank(*size, "Time against size, with fitted power laws")
    panels = figure.subplots(len(shown), len(names), squeeze=False)
    for line, held in zip(panels, shown.values(), strict=True):
        for axes, axis in zip(line, names, strict=True):
            if axis in held:
                _growth(axes, held[axis])
            else:
                axes.set_axis_off()
    return figure


def lasso(results: Results) -> Figure | None:
    """Seconds until the objective is close enough to the optimum, or that it never is; for cases with all solvers."""
    found = [r for r in results.document["results"] if r["kind"] == "LassoCase" and r.get("efforts")]
    found = [r for r in found if r["settings"].get("loops", True)]
    if not found:
        return None
    names = list(dict.fromkeys(name for r in found for name in r["efforts"]))
    s = found[0]["settings"]
    title = f"Time to a gap of {s['gap']:g}: {wording.lasso_problem(s, dictionary=len(found) == 1)}"
    each = [wording.in_words(r["settings"], ["dictionary"]) for r in found]
    figure = drawing.blank(5.2 * len(found) + 1.5, 1.5 + 0.45 * len(names), title)
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, result, title in zip(panels, found, each, strict=True):
        longest = 0.0
        for y, name in enumerate(names):
            took = measured.seconds(result, name)
            if took is not None:
                longest = max(longest, took.median * 1e3)
                axes.barh(y, took.median * 1e3, color=drawing.colour_of(name), height=0.66)
            axes.text((took.median * 1e3) if took else 0, y, _effort(result, name), va="center", fontsize=9, color=INK)
        plain(axes).set(xlim=(0, max(longest, 1e-9) * 1.75), xlabel="ms")
        titled(axes, title)
    panels[0].set_yticks(range(len(names)), list(map(wording.called, names)))
    panels[0].invert_yaxis()
    return figure


def model(results: Results) -> Figure | None:
    """Pictures per second of whole models, and where their time goes."""
    found = [r for r in results.document["results"] if r["kind"] == "ModelCase" and measured.rounds(r)]
    if not found:
        return None
    common, each = wording.labels(found)
    timed = [[name for name in measured.contestants(r) if measured.seconds(r, name) is not None] for r in found]
    heights = [1.2 + len(names) for names in timed]
    figure = drawing.blank(12, 1.6 + 0.36 * sum(heights), f"Whole models: {common}")
    panels = figure.subplots(len(found), 2, squeeze=False, height_ratios=heights, sharey="row")
    operations = _largest(found)
    colours = dict(zip(operations, drawing.colours(len(operations)), strict=True))
    for line, result, names, label in zip(panels, found, timed, each, strict=True):
        _speeds(line[0], result, names)
        titled(line[0], label)
        _profile(line[1], measured.profile(result), names, colours)
    panels[-1, 0].set_xlabel("pictures per second")
    panels[-1, 1].set_xlabel("share of the time, %")
    drawing.legend(figure, panels.flat, columns=4)
    return figure


def parity(results: Results) -> Figure | None:
    """Training losses of scvae_fast and of the released code, from the same starts."""
    found = [r for r in results.document["results"] if r["kind"] == "ParityCase" and r.get("losses")]
    if not found:
        return None
    figure = drawing.blank(max(8.0, 6.2 * len(found)), 4.4, "Training losses")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, result in zip(panels, found, strict=True):
        for name, seeds in result["losses"].items():
            colour = ORANGE if name == HABITS else BLUE
            for losses in seeds:
                axes.plot(range(1, len(losses) + 1), losses, color=colour, linewidth=0.6, alpha=0.5)
            length = min((len(losses) for losses in seeds), default=0)
            mean = np.mean([losses[:length] for losses in seeds], axis=0) if length else []
            axes.plot(
                range(1, length + 1), mean, color=colour, linewidth=2.2, label=f"{name}, mean of {len(seeds)} seeds"
            )
        plain(axes).set(yscale="log", xlabel="step", ylabel="loss")
        axes.legend(frameon=False, fontsize=9)
        titled(axes, wording.in_words(result["settings"], ("preset", "batch", "attention")))
    return figure


PICTURES: dict[str, Callable[[Results], Figure | None]] = {
    "speedup.png": speedup,
    "crossover.png": crossover,
    "growth.png": grown,
    "roofline.png": roofline,
    "memory.png": memory,
    "lasso.png": lasso,
    "model.png": model,
    "parity.png": parity,
}


def _over_rows(results: Results) -> list[dict[str, Any]]:
    """Cases of lista that differ in M, density and dtype, each once."""
    members = {r["name"]: r for group in ("crossover", "rows") for r in results.group(group)}
    found = [r for r in measured.timed(members.values()) if r["settings"]["op"] == "lista"]
    atoms = {r["settings"]["atoms"] for r in found}
    kept = _ATOMS if _ATOMS in atoms else min(atoms, default=0)
    return [r for r in found if r["settings"]["atoms"] == kept]


def _band(axes: Axes, rows: list[int], its: list[dict[str, Any]], rival: str, label: str, colour: Any) -> None:
    """A line with its noise band, interrupted where a result is missing."""
    missing = measured.Spread(np.nan, np.nan, np.nan)
    low, median, high = zip(*(measured.ratio(result, rival) or missing for result in its), strict=True)
    axes.fill_between(rows, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.vlines(rows, low, high, color=colour, alpha=0.5, linewidth=1)
    axes.plot(rows, median, color=colour, marker="o", markersize=4, linewidth=1.6, label=label)


def _points(axes: Axes, found: Sequence[dict[str, Any]], colours: dict[str, Any]) -> None:
    for result in found:
        s = result["settings"]
        intensity = result["useful multiply-adds"] / result["least bytes"]
        for name, hollow in ((CLEAN, True), (result["chosen"], False)):
            reached = measured.per_second(result, name, "useful multiply-adds")
            if reached and intensity:
                face = "none" if hollow else colours[s["op"]]
                mark: dict[str, Any] = {"marker": _MARKS[s["direction"]], "s": 30, "linewidths": 1, "alpha": 0.8}
                axes.scatter(intensity, reached, facecolors=face, edgecolors=colours[s["op"]], **mark)


def _ceilings(axes: Axes, copy: float, flat: dict[str, float | None]) -> None:
    """The limits of copying (slanted) and arithmetic (level), each drawn only where it is the lower one."""
    low, high = axes.dataLim.x0 / 2, 2 * axes.dataLim.x1
    known = {name: value for name, value in flat.items() if value}
    left = min(low, 0.2 * min(known.values()) / copy)
    high = max(high, 3 * max(known.values()) / copy)
    x = np.geomspace(left, high, 100)
    axes.plot(x, np.minimum(x * copy, max(known.values())), color=INK, linewidth=1.4)
    for name, value in known.items():
        axes.plot([value / copy, high], [value] * 2, color=INK, linewidth=1, linestyle="--")
        axes.text(1.1 * value / copy, value, f"{name}, {drawing.large(value)}", va="bottom", fontsize=8.5, color=INK)
    axes.set_xlim(left, high)
    label = f"slanted: copies, {drawing.large(copy)}B/s"
    axes.text(0.02, 0.98, label, transform=axes.transAxes, va="top", fontsize=8.5)


def _cells(axes: Axes, found: Sequence[dict[str, Any]], rows: list[int], densities: list[float]) -> None:
    """Colours of the ratios with their numbers; cells without a result are grey."""
    there = {(r["settings"]["rows"], r["settings"]["density"]): measured.ratio(r, CLEAN) for r in found}
    logs = np.full((len(rows), len(densities)), np.nan)
    for (i, M), (j, d) in itertools.product(enumerate(rows), enumerate(densities)):
        ratio = there.get((M, d))
        shown, colour = wording.times(ratio), INK
        if ratio is not None:
            logs[i, j] = np.log2(ratio.median)
            colour = "white" if abs(logs[i, j]) > 0.6 * _LARGEST else INK
        axes.text(j, i, shown, ha="center", va="center", fontsize=9.5, color=colour)
    axes.set_facecolor("#e5e7eb")
    axes.imshow(logs, cmap=_SLOWER_FASTER, vmin=-_LARGEST, vmax=_LARGEST, aspect="auto")
    axes.set_xticks(range(len(densities)), [f"{d:g}" for d in densities])
    axes.set_yticks(range(len(rows)), [drawing.count(M) for M in rows])
    axes.tick_params(colors=QUIET, length=0)
    axes.spines[:].set_visible(False)


def _growth(axes: Axes, series: growth.Series) -> None:
    """Points, the fitted lines, and their exponents in the legend."""
    shown = {name: took for name, took in series.seconds.items() if name not in WAYS}
    for name, took in shown.items():
        fitted, colour, stroke = series.fits[name], drawing.colour_of(name), ":" if name == PRODUCTS else "-"
        sizes = np.array(list(took), float)
        label = f"{wording.called(name)}: ${series.axis}^{{{fitted.exponent:.2f}}}$ ± {fitted.error:.2f}"
        mark: dict[str, Any] = {"marker": "o", "markersize": 4.5, "color": colour}
        axes.plot(sizes, [1e3 * fitted.at(size) for size in sizes], linestyle=stroke, linewidth=1.2, color=colour)
        axes.plot(sizes, [1e3 * t for t in took.values()], linestyle="", **mark)
        axes.plot([], [], linestyle=stroke, linewidth=1.2, label=label, **mark)
    plain(axes).set(xscale="log", yscale="log", xlabel=series.axis, ylabel="ms")
    drawing.ticks(axes.xaxis, {size for took in series.seconds.values() for size in took})
    low, high = axes.get_ylim()
    high *= (high / low) ** (0.09 * len(shown) + 0.1)  # room for the legend
    axes.set_ylim(low, high)
    drawing.log_ticks(axes.yaxis, low, high)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    titled(axes, wording.in_words(series.shared, ("op", "direction", "dtype", "density")))


def _distance(shared: dict[str, Any]) -> tuple[float, float]:
    """Distance from the settings that a figure shows by preference."""
    return (abs(np.log(shared.get("atoms", _ATOMS) / _ATOMS)), abs(np.log(shared["density"] / _DENSITY)))


def _effort(result: dict[str, Any], name: str) -> str:
    effort, took = result["efforts"].get(name), measured.seconds(result, name)
    if effort is None:
        return " not run"
    n_iter = effort["iterations"]
    if took is None:
        return f" gap {effort['gap']:.0e}" + ("" if n_iter is None else f" after {n_iter} iterations")
    return f" {wording.milliseconds(took.median)} ms" + ("" if n_iter is None else f", {n_iter} iterations")


def _largest(found: Sequence[dict[str, Any]]) -> list[str]:
    """The operations with the largest shares of the time in any result, as many as there are colours."""
    parts: dict[str, float] = {}
    for operation, part in (pair for r in found for its in measured.profile(r).values() for pair in its):
        parts[operation] = max(part, parts.get(operation, 0.0))
    return sorted(parts, key=lambda operation: -parts[operation])[: drawing.N_COLOURS]


def _speeds(axes: Axes, result: dict[str, Any], names: Sequence[str]) -> None:
    """Pictures per second as bars."""
    for y, name in enumerate(names):
        took = measured.seconds(result, name)
        speed = result["settings"]["batch"] / took.median if took else 0.0
        axes.barh(y, speed, color=drawing.colour_of(name), height=0.66)
        axes.text(speed, y, f" {wording.number(speed)}", va="center", fontsize=9, color=INK)
    plain(axes).set_yticks(range(len(names)), list(map(wording.called, names)))
    axes.margins(x=0.14)
    axes.invert_yaxis()


def _profile(axes: Axes, profile: dict[str, Any], names: Sequence[str], colours: dict[str, Any]) -> None:
    """Shares of the time as stacked bars, next to the speeds of the same contestants; the rest is grey."""
    left = np.zeros(len(names))
    for operation, colour in colours.items():
        shares = np.array([sum(part for op, part in profile.get(name, []) if op == operation) for name in names])
        axes.barh(
            range(len(names)),
            100 * shares,
            left=100 * left,
            color=colour,
            height=0.66,
            label=wording.shortened(operation),
        )
        left += shares
    rest = [max(0.0, 1 - gone) if name in profile else 0.0 for name, gone in zip(names, left, strict=True)]
    axes.barh(range(len(names)), 100 * np.array(rest), left=100 * left, color="#e5e7eb", height=0.66, label="the rest")
    plain(axes).set_xlim(0, 100)


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], name: str) -> None:
    axes.plot(x, y, color=drawing.colour_of(name), marker="o", markersize=5, linewidth=1.8, label=wording.called(name))
