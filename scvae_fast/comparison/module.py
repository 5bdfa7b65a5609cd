"""The training of a baseline as a Lightning module."""

from typing import Any

import torch
from torch import Tensor, nn

from scvae_fast.comparison.autoencoder import BaselineAutoencoder
from scvae_fast.comparison.bottlenecks import GaussianBottleneck
from scvae_fast.comparison.settings import ComparisonSettings
from scvae_fast.training.base import AutoencoderModule, Objective
from scvae_fast.training.module import SCVAEModule

# Decay of the running mean σ².
_DECAY = 0.99


class SharedVariance(nn.Module):
    """σ² of a Gaussian likelihood, shared by all values of all pictures.

    Its maximum-likelihood value is the mean squared error, here as a running mean (Rybkin, Daniilidis and Levine,
    "Simple and Effective VAE Training with Calibrated Decoders", ICML 2021, use that of each batch).

    Args:
        sigma: a fixed σ; None follows the error.
        first_sigma: initial σ if it is not fixed.
    """

    variance: Tensor

    def __init__(self, sigma: float | None, first_sigma: float) -> None:
        super().__init__()
        self.fixed = sigma is not None
        self.register_buffer("variance", torch.tensor((first_sigma if sigma is None else sigma) ** 2))

    def forward(self, mse: Tensor) -> Tensor:  # () -> ()
        """σ²; in training mode, the error is included first."""
        if self.training and not self.fixed:
            self.variance.lerp_(mse.detach().to(self.variance), 1 - _DECAY)
        return self.variance.clone()


class BaselineModule(AutoencoderModule):
    """Trains a `BaselineAutoencoder` on the mean squared error and the penalty of its bottleneck.

    A penalty in nats per picture of D values is weighted by 2σ²/D. The loss is then 2σ²/D times the negative evidence
    lower bound (or its replacement), up to terms without a gradient. See `GaussianSettings`.

    Args:
        method: a name in `settings.METHODS` other than "sc-vae".
        settings: see `ComparisonSettings`.

    Raises:
        ValueError: method is not the name of a baseline, or the start does not suit the network.
        UsageError: the weights of the perceptual term can't be found.
    """

    model: BaselineAutoencoder

    def __init__(self, method: str, settings: ComparisonSettings) -> None:
        model = BaselineAutoencoder(method, settings.network, settings.bottlenecks, k_means=settings.start == "linear")
        super().__init__(
            model,
            settings.network,
            settings.optimiser,
            second_stage=settings.second_stage,
            start=settings.start,
            channels_last=None,
            compile=None,
            seed=settings.seed,
        )
        self.likelihood: SharedVariance | None = None
        if isinstance(model.bottleneck, GaussianBottleneck):
            gaussian = model.bottleneck.settings
            self.likelihood = SharedVariance(gaussian.sigma, gaussian.first_sigma)

    def start_linearly(self, pictures: Tensor) -> None:
        """See `BaselineAutoencoder.start_linearly`."""
        self.model.start_linearly(pictures)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the network's configuration, like `SCVAEModule`."""
        checkpoint["network"] = self.model.config.to_dict()

    def objective(self, batch: Tensor) -> Objective:
        """The loss of a batch; `sigma` is logged if there is one."""
        output = self.model(batch)
        image = (batch - output.x_hat).square().mean()
        figures = {"loss/image": image}
        penalty = output.penalty
        if self.likelihood is not None:
            variance = self.likelihood(image)
            figures |= {"sigma": variance.sqrt(), "nats": penalty.detach()}
            penalty = 2 * variance / batch[0].numel() * penalty
        total = image + penalty
        return Objective(total, {"loss/total": total, "loss/penalty": penalty, **figures}, output.x_hat, {})


def make_module(method: str, settings: ComparisonSettings) -> AutoencoderModule:
    """The module that trains a method of `METHODS`, with weights drawn from `settings.seed`.

    Raises:
        ValueError, UsageError: as `BaselineModule` and `SCVAEModule`.
    """
    torch.manual_seed(settings.seed)
    if method != "sc-vae":
        return BaselineModule(method, settings)
    return SCVAEModule(
        settings.network,
        settings.loss,
        settings.optimiser,
        settings.second_stage,
        start=settings.start,
        seed=settings.seed,
    )
