"""What fits into the time and the memory that there is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch

from benchmarks import timing
from benchmarks.run import CLEAN, FORWARD, RELEASED
from benchmarks.sweep_cases import OURS, SweepCase

LEAST_ROUNDS = 3
# Matrices of (M, K) in float32 that a contestant holds at once: for each iterate, if it is kept for a backward
# pass, and besides.
KEPT = {RELEASED: 6, CLEAN: 2, OURS: 0}
BESIDES = 8


def bytes_needed(case: SweepCase, name: str) -> int:
    """Memory that a call of the contestant takes, arguments and results included."""
    kept = 0 if case.what == FORWARD else KEPT[name] * (case.n_iter + 1)
    return 4 * (case.rows * case.atoms * (kept + BESIDES) + 8 * case.atoms**2)


def fits(case: SweepCase, name: str) -> bool:
    """Whether four fifths of the machine's memory are enough for a call of the contestant."""
    return bytes_needed(case, name) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 4 // 5


def slowest_round() -> float:
    """Seconds for each multiply-add of a case that a round of calls hardly exceeds, from a matmul on this machine.

    Three contestants, three times the forward pass where there is a backward pass, and three times for what is slower
    than a matmul.
    """
    size = 512
    a = torch.ones(size, size)
    return 3 * 3 * 3 * min(timing.elapsed(lambda: a @ a) for _ in range(5)) / size**3


class Budget:
    """Shares seconds out between cases, and says which can't be afforded.

    What a case will take is predicted from the last of its kind (operation, direction, threads), as multiply-adds go:
    cases come in the order of their size. `ceiling` limits what is concluded from small ones, where overhead rules.
    """

    def __init__(self, seconds: float, ceiling: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts the clock."""
        self._clock = clock
        self._end = clock() + seconds
        self._ceiling = ceiling
        self._rates: dict[tuple[str, str, int], float] = {}

    def share(self, cases_left: int) -> float:
        """Seconds for the next of so many cases."""
        return max(0.0, self._end - self._clock()) / cases_left

    def refusal(self, case: SweepCase) -> str | None:
        """Why a case is left out; None if it is not."""
        lacking = [name for name in (CLEAN, OURS) if not fits(case, name)]
        if lacking:
            return f"{lacking[0]} needs about {bytes_needed(case, lacking[0]) / 2**30:.0f} GiB of memory"
        left = self._end - self._clock()
        # The gate and the first calls take about two rounds more.
        rate = min(self._ceiling, self._rates.get(self._kind(case), self._ceiling))
        needed = rate * case.multiply_adds * (LEAST_ROUNDS + 2)
        if needed > left or left <= 0:
            return f"it needs about {needed:.0f} s, {max(0.0, left):.0f} s are left"
        return None

    def learn(self, case: SweepCase, seconds_a_round: float) -> None:
        """Takes note of what a round of calls took."""
        self._rates[self._kind(case)] = seconds_a_round / case.multiply_adds

    @staticmethod
    def _kind(case: SweepCase) -> tuple[str, str, int]:
        return case.op, case.what, case.threads
