"""The ceilings of a roofline, measured in the same run: arithmetic, and memory copies."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import peak, timing
from benchmarks.problems import DTYPES

_ROUNDS = 7
_COPIED = 2**28  # bytes, more than any cache holds


def measured(device: str) -> dict[str, Any]:
    """Bytes per second of a copy, reads plus writes; multiply-adds per second of a large product, for each dtype.

    On a CPU also the peak of its multiply-add units in float32, or the reason why it is unknown under "no peak".
    """
    found: dict[str, Any] = {"copy": _copy(device), "product": {}}
    names = ("bfloat16", "float16", "float32", "float64") if device == "cuda" else ("float32", "float64")
    for name in names:
        found["product"][name] = _product(device, DTYPES[name])
    if device == "cpu":
        try:
            found["peak"] = peak.multiply_adds_per_second(torch.get_num_threads())
        except peak.UnknownPeakError as unknown:
            found["no peak"] = str(unknown)
    return found


def _copy(device: str) -> float:
    source = torch.ones(_COPIED // 4, device=device)
    target = torch.empty_like(source)
    return 2 * _COPIED / _fastest(lambda: target.copy_(source), device)


def _product(device: str, dtype: torch.dtype) -> float:
    size = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return size**3 / _fastest(lambda: torch.mm(a, b, out=out), device)


def _fastest(run: Any, device: str) -> float:
    """Seconds of the fastest run: a ceiling is the best that was reached."""
    calls = 8 if device == "cuda" else 1
    return min(s["run"] for s in timing.interleaved({"run": run}, _ROUNDS, calls=calls, device=device))
