"""Loads the compiled module, once, and keeps the reason where that fails; and how many threads its kernels may use.

torch comes first: both then share the OpenMP runtime that torch brings, and its thread settings.
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


# OpenMP keeps its threads between calls. A forked child has none of them and would wait for them forever, so they are
# released before a fork. If that failed, the child runs everything on one thread.
_released = True
_alone = False


def threads() -> int:
    """How many threads a kernel may use: torch's setting."""
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
