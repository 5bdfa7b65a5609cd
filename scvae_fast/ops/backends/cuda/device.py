"""The module with the CUDA C++ kernels, and the card that they run on.

For tests, SCVAE_FAST_CUDA_EMULATOR names a module in which the same kernels are compiled for the CPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from scvae_fast.ops import native

EMULATOR = "SCVAE_FAST_CUDA_EMULATOR"


def emulated() -> bool:
    """Whether the kernels run on the CPU."""
    return EMULATOR in os.environ


@cache
def module() -> Any:
    """The module with the kernels; called only if `unusable` returns None."""
    if not emulated():
        return native.module
    spec = importlib.util.spec_from_file_location("_cuda_emulated", os.environ[EMULATOR])
    if spec is None or spec.loader is None:
        raise ImportError(f"{EMULATOR} names no module: {os.environ[EMULATOR]}")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    sys.modules["_cuda_emulated"] = loaded
    return loaded


@cache
def _card(index: int | None) -> Any:
    return module().CudaCard(8, 0, 166_912, 2, False) if index is None else module().cuda_card(index)


_few = False


def card(index: int | None) -> Any:
    """The properties of a CUDA device; None stands for the emulator, with few multiprocessors, where all tiles fit."""
    found = _card(index)
    return module().CudaCard(found.major, found.minor, found.shared_bytes, 2, found.hopper) if _few else found


@contextlib.contextmanager
def few_multiprocessors() -> Iterator[None]:
    """Plan as for a card with two multiprocessors, so that small problems use the kernels for large ones."""
    global _few
    before, _few = _few, True
    try:
        yield
    finally:
        _few = before
