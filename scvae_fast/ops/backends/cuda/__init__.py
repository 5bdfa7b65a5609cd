"""What calls the CUDA C++ kernels of csrc/cuda, which are in the compiled module where nvcc was there to build them.

SCVAE_FAST_CUDA_EMULATOR names a module in which the same kernels were built for a processor: for tests.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from scvae_fast.ops import native

if TYPE_CHECKING:
    from scvae_fast.ops.backends.fused import Kernels

EMULATOR = "SCVAE_FAST_CUDA_EMULATOR"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def emulated() -> bool:
    """Whether the kernels run on the CPU."""
    return EMULATOR in os.environ


@cache
def module() -> Any:
    """What holds the kernels; asked for only where `unusable` finds no reason against it."""
    if not emulated():
        return native.module
    spec = importlib.util.spec_from_file_location("_cuda_emulated", os.environ[EMULATOR])
    if spec is None or spec.loader is None:
        raise ImportError(f"{EMULATOR} names no module: {os.environ[EMULATOR]}")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    sys.modules["_cuda_emulated"] = loaded
    return loaded


def unusable() -> str | None:
    """Why no call can run on these kernels here; None where some can."""
    if emulated():
        return None
    if native.missing is not None:
        return native.missing
    if not hasattr(native.module, "cuda_plan"):
        return "the compiled module was built without nvcc, so without the CUDA kernels"
    return None if torch.cuda.is_available() else "torch finds no CUDA device"


@cache
def card(index: int | None) -> Any:
    """The properties of a CUDA device; for None, what is emulated: few multiprocessors, all tiles fit."""
    return module().CudaCard(8, 0, 166_912, 2, False) if index is None else module().cuda_card(index)


def declines(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why they don't take a call on that device in that dtype; None where they do."""
    if device.type != ("cpu" if emulated() else "cuda"):
        return f"it runs on {'CPU tensors, emulated' if emulated() else 'CUDA tensors'}, got a tensor on {device}"
    if dtype not in _DTYPES:
        return f"it takes float32, bfloat16 and float16, got {dtype}"
    return None if emulated() else _unfit(device.index if device.index is not None else torch.cuda.current_device())


def _unfit(index: int) -> str | None:
    found, oldest = card(index), module().cuda_oldest_major
    if found.major >= oldest:
        return None
    return f"it needs compute capability {oldest}.0 or newer, this card has {found.major}.{found.minor}"


def on_device_of(tensor: torch.Tensor) -> AbstractContextManager[Kernels]:
    """The kernels for its dtype, on its device and that device's current stream."""
    from scvae_fast.ops.backends.cuda import kernels

    return kernels.on_device_of(tensor)
