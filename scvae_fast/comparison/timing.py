"""Seconds per training step of all methods, measured in one process and in turn."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scvae_fast.comparison.settings import ComparisonSettings
from scvae_fast.models.speed import SpeedSettings
from scvae_fast.training.base import AutoencoderModule

WARM_UPS = 2
# Small enough to keep the weights, and with them the sparsity of codes, as training left them.
_RATE = 1e-12


def time_steps(
    modules: Mapping[str, AutoencoderModule], batch: Tensor, settings: ComparisonSettings, *, rounds: int
) -> dict[str, Any]:
    """Time steps of trained modules: loss, gradients, clipping and Adam, without data, checkpoints and logs.

    In every round each method takes one step. Rounds start with different methods, so that other load on the machine
    affects all alike.

    Args:
        modules: by method, all on the same device.
        batch: (B, C, H, W), on that device.
        settings: of the comparison.
        rounds: number of timed rounds, after `WARM_UPS` untimed ones.

    Returns:
        `seconds`, the median by method; `least` and `rounds`, `threads` and `batch_size`.
    """
    optimisers = {name: torch.optim.AdamW(module.parameters(), lr=_RATE) for name, module in modules.items()}
    speed = SpeedSettings.of(batch.device) if settings.precision is None else _of_lightning(settings.precision)
    samples: dict[str, list[float]] = {name: [] for name in modules}
    names = list(modules)
    for number in range(WARM_UPS + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds = _step(modules[name].train(), optimisers[name], batch, speed, settings.clip)
            if number >= WARM_UPS:
                samples[name].append(seconds)
    return {
        "seconds": {name: statistics.median(taken) for name, taken in samples.items()},
        "least": {name: min(taken) for name, taken in samples.items()},
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "batch_size": len(batch),
        "device": str(batch.device),
    }


def _step(
    module: AutoencoderModule, optimiser: torch.optim.Optimizer, batch: Tensor, speed: SpeedSettings, clip: float
) -> float:
    _wait(batch)
    begin = time.perf_counter()
    with speed.autocast(batch.device.type):
        total = module.objective(batch).total
    total.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimiser.step()
    optimiser.zero_grad()
    _wait(batch)
    return time.perf_counter() - begin


def _wait(batch: Tensor) -> None:
    if batch.is_cuda:
        torch.cuda.synchronize(batch.device)


def _of_lightning(precision: str) -> SpeedSettings:
    names = {"32-true": "float32", "bf16-mixed": "bfloat16", "16-mixed": "float16"}
    return SpeedSettings(precision=names[precision])  # type: ignore[arg-type]
