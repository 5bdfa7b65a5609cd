"""Settings for training an `SCVAE`, as frozen dataclasses that a YAML file or the demonstration fills."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from scvae_fast.models.loss import SCVAELoss, scvae_loss
from scvae_fast.models.scvae import SCVAEOutput
from scvae_fast.nn.dictionary_lista import Compat


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The loss of a batch; see `scvae_fast.models.loss.scvae_loss` for its terms.

    Args:
        compat: "paper" is (‖x − x̂‖² + w Σ α (‖E − Dz‖² + λ‖z‖₁)) / (C·H·W), averaged over the batch: the paper's loss
            per value of a picture, so that it doesn't depend on the resolution. "official" is what the authors' code
            minimises, mean((x − x̂)²) + w mean(α (E − Dz)²), with λ = 0 unless it is given. In both, the image term is
            the mean squared error.
        code_weight: w. It is 1 in the paper and the authors' code; but since α sums to 1 over a whole picture, codes
            then cost almost nothing and become dense.
        lmbda: λ; None is the λ of the network for "paper" and 0 for "official".

    Raises:
        ValueError: a field is out of its range.
    """

    compat: Compat = "paper"
    code_weight: float = 1.0
    lmbda: float | None = None

    def __post_init__(self) -> None:
        _require("LossSettings", "compat", self.compat in get_args(Compat), f"one of {get_args(Compat)}", self.compat)
        _require("LossSettings", "code_weight", 0 <= self.code_weight < math.inf, "0 or more", self.code_weight)
        known = self.lmbda is None or 0 <= self.lmbda < math.inf
        _require("LossSettings", "lmbda", known, "None, or a number, 0 or more", self.lmbda)

    def of(self, x: Tensor, output: SCVAEOutput, network_lmbda: float) -> SCVAELoss:  # x: (B, C, H, W)
        """The loss of pictures, given the output of a model with that λ."""
        if self.compat == "official":
            lmbda = self.code_weight * (self.lmbda or 0.0)
            return scvae_loss(x, output, lmbda=lmbda, reduction="mean", latent_weight=self.code_weight)
        per_value = 1 / x[0].numel()
        weight = self.code_weight * per_value
        lmbda = network_lmbda if self.lmbda is None else self.lmbda
        return scvae_loss(x, output, lmbda=lmbda * weight, image_weight=per_value, latent_weight=weight)


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings:
    """Adam and its learning rate, which rises linearly in the warm-up and then falls along half a cosine.

    Defaults are the released code's, which keeps its learning rate constant.

    Args:
        learning_rate: the maximum.
        betas: Adam's.
        weight_decay: decoupled, as in AdamW.
        warm_up: share of training in which the learning rate rises from 0, 0 … 1.
        last_learning_rate: final learning rate, relative to the maximum; 1 keeps it constant.

    Raises:
        ValueError: a field is out of its range.
    """

    learning_rate: float = 4e-5
    betas: tuple[float, float] = (0.5, 0.9)
    weight_decay: float = 0.0
    warm_up: float = 0.0
    last_learning_rate: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        checks: Mapping[str, tuple[bool, str]] = {
            "learning_rate": (0 < self.learning_rate < math.inf, "a positive number"),
            "betas": (len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "warm_up": (0 <= self.warm_up < 1, "a share in [0, 1)"),
            "last_learning_rate": (0 <= self.last_learning_rate <= 1, "a share in [0, 1]"),
        }
        for name, (valid, expected) in checks.items():
            _require("OptimiserSettings", name, valid, expected, getattr(self, name))

    def factor(self, progress: float) -> float:
        """The learning rate relative to the maximum, after that share of training."""
        if progress < self.warm_up:
            # Not 0 at the first step, which would be wasted.
            return max(progress / self.warm_up, 0.01)
        fall = (progress - self.warm_up) / (1 - self.warm_up)
        last = self.last_learning_rate
        return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * fall))


def _require(owner: str, name: str, valid: bool, expected: str, value: Any) -> None:
    if not valid:
        raise ValueError(f"{owner}: {name} must be {expected}, got {value!r}")
