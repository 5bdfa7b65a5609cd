"""Loads the compiled module, once, and keeps the reason where that fails.

torch comes first: both then share the OpenMP runtime that torch brings, and its thread settings.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch


def _load() -> tuple[Any, str | None]:
    try:
        return importlib.import_module("scvae_fast._native"), None
    except ImportError as error:
        return None, f"the compiled module scvae_fast._native could not be loaded: {error}"


native, missing = _load()


def address(tensor: torch.Tensor | None) -> int:
    """Address of the first element; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()
