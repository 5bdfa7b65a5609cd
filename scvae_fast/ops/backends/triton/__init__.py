"""The Triton kernels and their launching code; triton is imported only on the first call.

iteration.py: one iteration, for a tile; forward_kernels.py, backward_kernels.py: all iterations. products.py: matrix
products and sums. tiles.py: the choice of tiles and number of launches; autotune.py: the same choice, by timing.
launch.py: packing, scratch, single launches. bottleneck.py: the forward and the backward pass of lista and
sparse_code.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING

import torch

from scvae_fast._devices import cuda_index
from scvae_fast.ops.backends.triton import tiles

if TYPE_CHECKING:
    from scvae_fast.ops.backends.fused import Kernels


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def unusable() -> str | None:
    """Why no call can run on these kernels here; None if some can."""
    if not _installed():
        return "the package triton is not installed"
    if interpreted() or torch.cuda.is_available():
        return None
    return "torch finds no CUDA device"


def declines(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why they decline a call on that device in that dtype; None if they don't."""
    if device.type != ("cpu" if interpreted() else "cuda"):
        return f"it runs on {'CPU tensors, interpreted' if interpreted() else 'CUDA tensors'}, got a tensor on {device}"
    if dtype == torch.float64:
        return "its matrix products are float32 at most, got torch.float64"
    return None if interpreted() else _unfit(cuda_index(device))


def too_large(device: torch.device, dtype: torch.dtype, K: int, n: int) -> str | None:
    """Why K atoms or n features are too many; None if they aren't."""
    if max(K, n) <= tiles.MOST_ATOMS:
        return None
    return f"it takes at most {tiles.MOST_ATOMS} atoms or features, got {max(K, n)}"


def _unfit(index: int) -> str | None:
    from scvae_fast.ops.backends.triton import launch

    return tiles.unfit(launch.card(index))


def on_device_of(tensor: torch.Tensor) -> AbstractContextManager[Kernels]:
    """The kernels for the tensor's dtype, on its device and that device's current stream."""
    from scvae_fast.ops.backends.triton import bottleneck

    return bottleneck.on_device_of(tensor)
