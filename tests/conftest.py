"""Fixtures of the whole suite."""

import os
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained model, `pictures.TINY`."""
    from pictures import TINY

    from scvae_fast.models import SCVAE

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    SCVAE(TINY).save_pretrained(folder)
    return folder
