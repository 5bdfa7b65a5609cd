"""Equal losses: our training and the released code's, step by step from the same weights on the same pictures.

Rounding makes two runs diverge after some steps, like different seeds do; it must not make them diverge further.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks import model
from benchmarks.cases import ParityCase
from benchmarks.model import HABITS, OURS


def measure(case: ParityCase, device: str) -> dict[str, Any]:
    """The losses of each step by contestant and seed, and seconds of each run; contestants take turns."""
    losses: dict[str, list[list[float]]] = {HABITS: [], OURS: []}
    seconds: dict[str, list[float]] = {HABITS: [], OURS: []}
    config = model.config_of(case)
    for seed in range(case.seeds):
        for name in losses:
            one = model.contestant(name, config, device, seed)
            stream = model.batches(config, case.batch, device, seed)
            begin = time.monotonic()
            losses[name].append([float(one.train(next(stream)).total.detach()) for _ in range(case.steps)])
            seconds[name].append(time.monotonic() - begin)
    return {"chosen": OURS, "losses": losses, "seconds": seconds}
