"""Timing that can be compared: all contestants in one process, in turn, ratios taken round by round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping


def interleaved(
    contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2
) -> Iterator[dict[str, float]]:
    """Seconds of every contestant, a round at a time: A B C, A B C, …; the rounds of the warm-up are not given.

    A machine whose speed drifts slows all contestants of a round alike, so that their ratios stay honest.
    """
    for i in range(warmup + rounds):
        seconds = {}
        for name, run in contestants.items():
            begin = time.perf_counter()
            run()
            seconds[name] = time.perf_counter() - begin
        if i >= warmup:
            yield seconds


def speedups(samples: list[dict[str, float]], over: str) -> dict[str, float]:
    """Median over the rounds of how many times as fast as `over` each contestant was."""
    return {name: statistics.median(s[over] / s[name] for s in samples) for name in samples[0]}


def medians(samples: list[dict[str, float]]) -> dict[str, float]:
    """Median seconds of every contestant."""
    return {name: statistics.median(s[name] for s in samples) for name in samples[0]}
