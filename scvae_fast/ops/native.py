"""Loads the compiled module once, or keeps the reason for a failure; and the number of threads for its kernels.

torch is imported first, so that both share its OpenMP runtime and thread settings.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch


def _load() -> tuple[Any, str | None]:
    try:
        return importlib.import_module("scvae_fast._native"), None
    except ImportError as error:
        return None, f"the compiled module scvae_fast._native could not be loaded: {error}"


module, missing = _load()


# OpenMP keeps its threads between calls. A forked child lacks them and would wait for them forever, so they are
# released before a fork. If that fails, the child runs everything on one thread.
_released = True
_alone = False


def threads() -> int:
    """Number of threads that a kernel may use: torch's setting."""
    return 1 if _alone else torch.get_num_threads()


def _before_fork() -> None:
    global _released
    _released = module.release_threads()


def _in_child() -> None:
    global _alone
    _alone = _alone or not _released


if module is not None and hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)


def address(tensor: torch.Tensor | None) -> int:
    """Address of the first element; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()
