"""Reference cases: recorded runs of the released code."""

import json
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class GoldenCase:
    """One recorded run of the released code; see tests/golden/README.md."""

    settings: dict[str, Any]
    arrays: dict[str, Tensor]
    state_dict: dict[str, Tensor]

    def load_options(self) -> dict[str, Any]:
        """The arguments of `load_official` besides the state dict."""
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
