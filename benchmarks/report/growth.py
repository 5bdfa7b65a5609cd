"""How time grows with M, T and K: exponents of power laws, fitted by least squares to logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.report import measured
from benchmarks.results import Results

# By the name of the size: its setting, and the groups in which it varies.
AXES = {"M": ("rows", ("crossover", "rows")), "T": ("n_iter", ("iterations",)), "K": ("atoms", ("atoms",))}
LEAST_SIZES = 3  # two give an exponent, but no error estimate


class Growth(NamedTuple):
    """seconds = factor · size ** exponent."""

    exponent: float
    error: float  # standard error of the exponent
    factor: float

    def at(self, size: float) -> float:
        """Seconds according to the fit."""
        return float(self.factor * size**self.exponent)

    def __str__(self) -> str:
        """The exponent and its standard error."""
        return f"{self.exponent:.2f} ± {self.error:.2f}"


class Series(NamedTuple):
    """Cases that differ in only one size, and the times of each contestant."""

    axis: str  # a key of AXES
    shared: dict[str, Any]  # the other settings
    seconds: dict[str, dict[int, float]]  # medians by size, for each contestant
    fits: dict[str, Growth]


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Growth:
    """The power law closest to the points, with equal weights on a logarithmic scale.

    Raises:
        ValueError: there are fewer than three distinct sizes, or a number is not positive.
    """
    if len(set(sizes)) < LEAST_SIZES or len(sizes) != len(seconds) or min(*sizes, *seconds) <= 0:
        raise ValueError(f"growth: needs {LEAST_SIZES} sizes and a time for each, all positive, got {sizes}, {seconds}")
    x, y = np.log(np.array(sizes, float)), np.log(np.array(seconds, float))
    centred = x - x.mean()
    exponent = float(centred @ y / (centred @ centred))
    offset = float(y.mean() - exponent * x.mean())
    missed = y - offset - exponent * x
    error = math.sqrt(float(missed @ missed) / (len(x) - 2) / float(centred @ centred))
    return Growth(exponent, error, math.exp(offset))


def series(results: Results) -> list[Series]:
    """All series of a run that are long enough for a fit."""
    found = []
    for axis, (setting, groups) in AXES.items():
        members = {r["name"]: r for group in groups for r in results.group(group) if r["kind"] == "Case"}
        bundles: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for result in members.values():
            others = tuple((key, value) for key, value in result["settings"].items() if key != setting)
            bundles.setdefault(others, []).append(result)
        for others, bundle in bundles.items():
            seconds = _by_contestant(bundle, setting)
            if seconds:
                fits = {name: fit(list(took), list(took.values())) for name, took in seconds.items()}
                found.append(Series(axis, dict(others), seconds, fits))
    return found


def _by_contestant(bundle: list[dict[str, Any]], setting: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for result in sorted(bundle, key=lambda r: r["settings"][setting]):
        for name in measured.contestants(result):
            took = measured.seconds(result, name)
            if took is not None:
                found.setdefault(name, {})[result["settings"][setting]] = took.median
    return {name: took for name, took in found.items() if len(took) >= LEAST_SIZES}
