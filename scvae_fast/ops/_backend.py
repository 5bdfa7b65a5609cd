"""The one place that chooses which sibling runs a call: from device, dtype and rows alone, never by trying one out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from scvae_fast.ops import _cuda, _native, _triton


class Backend(NamedTuple):
    """A sibling implementation, and when it can be used."""

    unusable: Callable[[], str | None]
    """Why this machine or build can't run it; None where it can."""
    declines: Callable[[torch.device, torch.dtype], str | None]
    """Why it doesn't take a call on that device in that dtype; None where it does."""


def _always(*_: object) -> None:
    return None


def _cpu_declines(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return f"it runs on CPU tensors, got a tensor on {device}"
    return None


# In the order of preference: the first that takes the call runs it. Eager takes every call, so that what follows it
# runs for those alone who ask for it: the kernels for GPUs, until their tests have passed on a card.
_BACKENDS: dict[str, Backend] = {
    "cpu": Backend(unusable=lambda: _native.missing, declines=_cpu_declines),
    "eager": Backend(unusable=_always, declines=_always),
    "triton": Backend(unusable=_triton.missing, declines=_triton.declines),
    "cuda": Backend(unusable=_cuda.missing, declines=_cuda.declines),
}


def backends() -> dict[str, str | None]:
    """Which implementations of the operations there are.

    Returns:
        For each backend's name None if it can be used here, else the reason why not.
    """
    return {name: backend.unusable() for name, backend in _BACKENDS.items()}


def declines(backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a backend can't run a call on that device in that dtype here; None where it can."""
    asked = _BACKENDS[backend]
    return asked.unusable() or asked.declines(device, dtype)


def check_name(op: str, backend: str | None) -> None:
    """Raises ValueError unless `backend` is None or the name of a backend."""
    if backend is not None and backend not in _BACKENDS:
        raise ValueError(f"{op}: backend must be one of {', '.join(_BACKENDS)}, or None, got {backend!r}")


# With fewer rows, packing D for the C++ kernels of decode takes longer than PyTorch's product (python -m benchmarks,
# the group "decode"; K = 128 … 2048).
_ROWS_TO_PACK_FOR = 64


def choose(op: str, backend: str | None, device: torch.device, dtype: torch.dtype, rows: int) -> str:
    """Name of the backend that runs a call of `op` with so many rows.

    Raises:
        ValueError: no backend has that name.
        RuntimeError: the backend asked for can't be used here, or declines the call; the message says why.
    """
    check_name(op, backend)
    if backend is None:
        if op == "decode" and rows < _ROWS_TO_PACK_FOR and device.type == "cpu":
            return "eager"
        return next(name for name in _BACKENDS if declines(name, device, dtype) is None)
    reason = declines(backend, device, dtype)
    if reason is not None:
        raise RuntimeError(f"{op}: backend {backend!r} can't be used: {reason}")
    return backend
