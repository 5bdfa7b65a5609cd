"""Fixtures of the whole suite."""

import os
from collections.abc import Iterator

import pytest
import torch

# What cuBLAS asks for before it computes deterministically.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(autouse=True)
def reproducible() -> Iterator[None]:
    """A fixed seed; and torch.empty gives NaN, so that memory which nobody wrote shows."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
