"""Results of several processes, combined."""

import warnings
from typing import Any

import torch

from scvae_fast._shares import Processes, while_all_live


def sync(metric: Any, processes: Processes) -> None:
    """Have a torchmetrics metric sum over all processes, by its own means; once, at the end."""
    if not processes.alone:
        with while_all_live():
            metric.cpu().sync(distributed_available=lambda: True)


def computed(metric: Any) -> float:
    """The value of a metric, without the warning if all its sums come from other processes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric", category=UserWarning)
        return float(metric.compute())


def added(processes: Processes, *values: float) -> list[float]:
    """The sums of numbers over all processes, in float64."""
    return [float(total) for total in processes.sum(torch.tensor(values, dtype=torch.float64))]
