"""Results in the usual words and symbols: cases, implementations, numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.cases import BACKWARD, BOTH, FORWARD
from benchmarks.model import EAGER, FLOAT32, HABITS, OURS
from benchmarks.pictures import PHOTOGRAPHS
from benchmarks.report import measured
from benchmarks.report.measured import Spread
from benchmarks.rivals import CLEAN, GRAPH, PRODUCTS, RELEASED

NONE = "–"
KINDS_OF_RIVALS = {
    "released": "naive loop",
    "clean": "tuned loop",
    "compiled": "torch.compile",
    "graph": "CUDA graph",
    "products": "products only",
}
# Names of implementations on pages, if they differ from those in the files.
_CALLED = {
    RELEASED: "naive loop",
    CLEAN: "tuned loop",
    PRODUCTS: "matrix products only",
    GRAPH: "tuned loop, CUDA graph",
    HABITS: "released code",
    EAGER: "tuned loop",
    FLOAT32: "scvae_fast, float32",
    OURS: "scvae_fast",
}
DIRECTIONS = {FORWARD: "forward", BACKWARD: "backward", BOTH: "forward and backward"}
_STEPS = {FORWARD: "inference", BOTH: "training step"}  # of whole models
_STARTS = {"official": "γ = c", "paper": "γ = 1"}
_SYMBOLS = {"rows": "M", "n_iter": "T", "density": "d", "atoms": "K", "features": "n", "lmbda": "λ", "batch": "B"}


def called(name: str) -> str:
    """An implementation's name for readers."""
    if name in _CALLED:
        return _CALLED[name]
    if name.partition(",")[0] in measured.BACKENDS:
        return f"scvae_fast ({name})"
    return name.replace(RELEASED, _CALLED[RELEASED]).replace(CLEAN, _CALLED[CLEAN])


def times(r: Spread | None, *, noise: bool = False) -> str:
    """A ratio, with two decimals if it is small, followed by its noise if requested."""
    if r is None:
        return NONE
    return f"{number(r.median)}" + (f" ({number(r.low)}–{number(r.high)})" if noise else "")


def number(value: float) -> str:
    """A number with three significant digits, but at most two decimals."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def milliseconds(value: float) -> str:
    """Seconds as milliseconds with three digits."""
    shown = value * 1e3
    return f"{shown:.{max(0, 2 - math.floor(math.log10(shown)))}f}" if shown > 0 else "0"


def readable(value: float | None) -> str:
    """Seconds as text; milliseconds below one second."""
    if value is None:
        return NONE
    return f"{milliseconds(value)} ms" if value < 1 else f"{value:.2f} s"


def in_words(settings: dict[str, Any], keys: Iterable[str]) -> str:
    """The settings among these keys that are present, in the usual notation."""
    words = {key: _word(key, settings[key]) for key in keys if key in settings}
    if "direction" in words and "preset" in settings:
        words["direction"] = _STEPS[settings["direction"]]
    return ", ".join(filter(None, words.values()))


def varying(found: Sequence[dict[str, Any]]) -> list[str]:
    """Settings in which results differ; all of them for results of several kinds."""
    if len({r["kind"] for r in found}) > 1:
        return list(found[0]["settings"])
    return [key for key in found[0]["settings"] if len({r["settings"][key] for r in found}) > 1]


def labels(found: Sequence[dict[str, Any]]) -> tuple[str, list[str]]:
    """What results have in common, and what each of them differs in."""
    if len({r["kind"] for r in found}) != 1:
        return "", [r["name"] for r in found]
    keys = varying(found) if len(found) > 1 else ["op", "form", "direction", "dictionary", "preset"]
    shared = [key for key in found[0]["settings"] if key not in keys]
    return in_words(found[0]["settings"], shared), [in_words(r["settings"], keys) for r in found]


def lasso_problem(s: dict[str, Any], *, dictionary: bool = True) -> str:
    """The settings of a lasso problem."""
    sizes = f"M = {s['rows']:,}, n = {s['side'] ** 2}, K = {s['overcomplete'] * s['side'] ** 2:,}, λ = {s['lmbda']:g}"
    return ", ".join([s["data"], *([in_words(s, ["dictionary"])] if dictionary else []), sizes])


def shortened(operation: str, most: int = 34) -> str:
    """The name of a profiled operation or kernel, without its long parts."""
    plain = re.sub(r"^(aten::|void )", "", operation).partition("<")[0].partition("(")[0].strip() or operation
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def notes(result: dict[str, Any]) -> str:
    """Remarks on a result."""
    said = []
    if "raised" in result:
        said.append(f"raised: {measured.last_line(result['raised'])}")
    if result.get("pictures", PHOTOGRAPHS) != PHOTOGRAPHS:
        said.append(f"measured on {result['pictures']}, not on {PHOTOGRAPHS}")
    for what in ("wrong", "left out"):
        said += [f"{called(name)} {what}: {why}" for name, why in (result.get(what) or {}).items()]
    return "; ".join(said)


def _word(key: str, value: Any) -> str:
    if key == "direction":
        return DIRECTIONS[value]
    if key == "start":
        return _STARTS[value]
    if key == "released":
        return "released code's settings" if value else "preset's settings"
    if key == "compiled":
        return f"compiled, {value}" if value else ""
    if key in ("op", "form", "dtype", "preset", "attention"):
        return str(value)
    if key == "side":
        return f"patches of {value} × {value}"
    if key == "overcomplete":
        return f"K = {value} n"
    if key == "dictionary":
        return {"dct": "DCT"}.get(value, value) + " dictionary"
    name = _SYMBOLS.get(key, key.replace("_", " "))
    return f"{name} = {value:g}" if isinstance(value, float) else f"{name} = {value}"
