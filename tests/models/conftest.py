"""Reference cases, and a model small enough for every test."""

import json
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scvae_fast.models import SCVAE, SCVAEConfig

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class GoldenCase:
    """One recorded run of the released code; see tests/golden/README.md."""

    settings: dict[str, Any]
    arrays: dict[str, Tensor]
    state_dict: dict[str, Tensor]

    def load_options(self) -> dict[str, Any]:
        """What `load_official` wants to know besides the state dict."""
        settings = self.settings
        return {
            "n_iter": settings["num_soft_thresh"],
            "beta": settings["beta"],
            "attention": settings["attention"],
        }


def _weight(name: str, shape: list[int], salt: float) -> Tensor:
    phase = zlib.crc32(name.encode()) % 1000 / 100 + salt
    values = 0.08 * np.sin(0.37 * np.arange(prod(shape), dtype=np.float64) + phase)
    weight = torch.from_numpy(values.astype(np.float32)).view(shape)
    return weight + 1 if "norm" in name and name.endswith("weight") else weight


def load_case(name: str) -> GoldenCase:
    settings = json.loads((GOLDEN / f"official_{name}.json").read_text())
    with np.load(GOLDEN / f"official_{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file}
    state_dict = {key: _weight(key, shape, settings["salt"]) for key, shape in settings["state_dict"].items()}
    state_dict |= {"Dict": arrays["dictionary"], "c": arrays["c"]}
    return GoldenCase(settings, arrays, state_dict)


@pytest.fixture(scope="session", params=["constant", "equivariant", "gat"])
def golden(request: pytest.FixtureRequest) -> GoldenCase:
    return load_case(request.param)


@pytest.fixture(scope="session")
def golden_gat() -> GoldenCase:
    return load_case("gat")


@pytest.fixture(scope="session")
def golden_layouts() -> dict[str, Any]:
    return json.loads((GOLDEN / "official_checkpoint_layout.json").read_text())


@pytest.fixture
def small_config() -> SCVAEConfig:
    """Two levels, attention on the lower one, a stride of 2; every width small."""
    return SCVAEConfig(
        n_features=16,
        n_atoms=24,
        n_iter=3,
        sparsity=0.05,
        resolution=16,
        ch=8,
        ch_mult=(1, 2),
        num_res_blocks=1,
        attn_levels=(1,),
        norm_groups=4,
    )


@pytest.fixture
def small_model(small_config: SCVAEConfig) -> SCVAE:
    torch.manual_seed(0)
    return SCVAE(small_config)


@pytest.fixture
def pictures() -> Tensor:
    """(2, 3, 12, 16), in -1 … 1."""
    return torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
