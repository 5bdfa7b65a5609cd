"""Comparable timing: all contestants in one process, in turn, with ratios taken round by round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
import torch

Result = TypeVar("Result")


class Spread(NamedTuple):
    """Quantiles of samples: 20 %, 50 % and 80 % of them are lower."""

    low: float
    median: float
    high: float


def interleaved(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 2,
    calls: int = 1,
    device: str = "cpu",
    settling: Mapping[str, float] | None = None,
) -> Iterator[dict[str, float]]:
    """Seconds per call of every contestant, one round at a time: A B C, A B C, …; rounds of the warm-up are not given.

    A machine whose speed drifts slows all contestants of a round alike, so that their ratios stay honest. A sample is
    the mean of `calls` consecutive calls. Before its sample, a contestant runs untimed for its seconds of `settling`:
    the threads of the one before it may wait for more work in a loop that keeps a processor busy.
    """
    for i in range(warmup + rounds):
        seconds = {}
        for name, run in contestants.items():
            end = time.perf_counter() + (settling or {}).get(name, 0.0)
            while time.perf_counter() < end:
                elapsed(run, 1, device)
            seconds[name] = elapsed(run, calls, device) / calls
        if i >= warmup:
            yield seconds


def elapsed(run: Callable[[], object], calls: int = 1, device: str = "cpu") -> float:
    """Seconds that this number of consecutive calls takes; on "cuda" those of the current stream."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - begin


def timed(call: Callable[[], Result], device: str = "cpu") -> tuple[Result, float]:
    """What a call returns, and its seconds."""
    found: list[Result] = []
    seconds = elapsed(lambda: found.append(call()), 1, device)
    return found[0], seconds


def calls_that_take(seconds: float, contestants: Mapping[str, Callable[[], object]], device: str = "cpu") -> int:
    """Consecutive calls after which even the fastest contestant has taken `seconds`; all are warm afterwards."""
    calls = 1
    while (fastest := min(elapsed(run, calls, device) for run in contestants.values())) < seconds:
        calls = max(2 * calls, math.ceil(1.2 * calls * seconds / max(fastest, 1e-9)))
    return calls


def until(
    seconds: float,
    contestants: Mapping[str, Callable[[], object]],
    least: int,
    most: int,
    calls: int = 1,
    device: str = "cpu",
    settling: Mapping[str, float] | None = None,
) -> list[dict[str, float]]:
    """Rounds of contestants that are warm, until `seconds` are over; at least `least`, at most `most`."""
    end = time.monotonic() + seconds
    samples = []
    for found in interleaved(contestants, most, warmup=0, calls=calls, device=device, settling=settling):
        samples.append(found)
        if len(samples) >= least and time.monotonic() > end:
            break
    return samples


def spread(values: Iterable[float]) -> Spread:
    """The quantiles of values, which must not be empty."""
    return Spread(*(float(q) for q in np.quantile(list(values), (0.2, 0.5, 0.8))))
