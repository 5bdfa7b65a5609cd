"""Calls the CUDA C++ kernels of csrc/cuda, which the compiled module contains if nvcc was found at build time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from scvae_fast._devices import cuda_index
from scvae_fast.ops import native
from scvae_fast.ops.backends.cuda.device import card, emulated, module
from scvae_fast.ops.problem import FACTORED, MOMENTUM

if TYPE_CHECKING:
    from scvae_fast.ops.backends.fused import Kernels

LACKS = frozenset((MOMENTUM, FACTORED))
"""Options of a `Problem` that these kernels don't support."""

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def unusable() -> str | None:
    """Why no call can run on these kernels here; None if some can."""
    if emulated():
        return None
    if native.missing is not None:
        return native.missing
    if not hasattr(native.module, "cuda_plan"):
        return f"the compiled module has no CUDA kernels: {native.module.without_cuda}"
    return None if torch.cuda.is_available() else "torch finds no CUDA device"


def declines(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why they decline a call on that device in that dtype; None if they don't."""
    if device.type != ("cpu" if emulated() else "cuda"):
        return f"it runs on {'CPU tensors, emulated' if emulated() else 'CUDA tensors'}, got a tensor on {device}"
    if dtype not in _DTYPES:
        return f"it takes float32, bfloat16 and float16, got {dtype}"
    return None if emulated() else _unfit(cuda_index(device))


def too_large(device: torch.device, dtype: torch.dtype, K: int, n: int) -> str | None:
    """Why K atoms or n features are too many for the card's shared memory; None if they aren't."""
    found = card(None if emulated() else cuda_index(device))
    try:
        module().cuda_plan(found, 1, K, n, False, dtype.itemsize)
        module().cuda_plan(found, 1, n, K, True, dtype.itemsize)
    except ValueError as error:
        return str(error).removeprefix("backend 'cuda': ")
    return None


def _unfit(index: int) -> str | None:
    found, oldest, compiled_for = card(index), module().cuda_oldest_major, module().cuda_compiled_for
    if found.major < oldest:
        return f"it needs compute capability {oldest}.0 or newer, this card has {found.major}.{found.minor}"
    if not any(runs_on(target, found.major, found.minor) for target in compiled_for.split()):
        return f"it was compiled for {compiled_for}, this card has compute capability {found.major}.{found.minor}"
    return None


def runs_on(target: str, major: int, minor: int) -> bool:
    """Whether a card can run code compiled for a target, an entry of CMAKE_CUDA_ARCHITECTURES.

    Machine code ("86-real") runs on cards of the same major version and the same or a later minor version, that of
    "90a" only on its own card. PTX ("86-virtual") runs on that card and all later ones. A target without a suffix has
    both.
    """
    if target in ("all", "all-major"):
        return True
    version, _, kind = target.partition("-")
    own = int(version.rstrip("af")[:-1]), int(version.rstrip("af")[-1])
    if version.endswith("a"):
        return own == (major, minor)
    if version.endswith("f"):
        return own[0] == major and own[1] <= minor
    as_code = kind != "virtual" and own[0] == major and own[1] <= minor
    as_ptx = kind != "real" and own <= (major, minor)
    return as_code or as_ptx


def on_device_of(tensor: torch.Tensor) -> AbstractContextManager[Kernels]:
    """The kernels for the tensor's dtype, on its device and that device's current stream."""
    from scvae_fast.ops.backends.cuda import kernels

    return kernels.on_device_of(tensor)
