"""Reference cases, and pictures."""

import json
from typing import Any

import pytest
import torch
from golden_cases import GOLDEN, GoldenCase, load_case
from torch import Tensor


@pytest.fixture(scope="session", params=["constant", "equivariant", "gat"])
def golden(request: pytest.FixtureRequest) -> GoldenCase:
    return load_case(request.param)


@pytest.fixture(scope="session")
def golden_layouts() -> dict[str, Any]:
    return json.loads((GOLDEN / "official_checkpoint_layout.json").read_text())


@pytest.fixture
def pictures() -> Tensor:
    """(2, 3, 12, 16), in -1 … 1."""
    return torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
