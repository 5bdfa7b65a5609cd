"""A model with the encoder and decoder of an `SCVAE` and another bottleneck."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from scvae_fast import dictionaries
from scvae_fast.comparison.bottlenecks import Bottleneck, Passed, Posterior
from scvae_fast.comparison.methods import REGISTRY
from scvae_fast.comparison.modulation import ModulatedDecoder
from scvae_fast.comparison.settings import BottleneckSettings
from scvae_fast.models import SCVAEConfig
from scvae_fast.models.decoder import Decoder
from scvae_fast.models.encoder import Encoder
from scvae_fast.models.scvae import initialise_convolution
from scvae_fast.training.start import start_linearly


class BaselineOutput(NamedTuple):
    """What a call of a `BaselineAutoencoder` returns."""

    x_hat: Tensor  # (B, in_channels, H, W), the reconstruction
    penalty: Tensor  # (), see `Bottleneck.in_nats`
    code: Posterior | Tensor  # see `Passed`


class BaselineAutoencoder(nn.Module):
    """x̂ = G(bottleneck(E(x))), with the encoder E and decoder G that an `SCVAE` of this configuration has.

    After the same seed their weights are those of that `SCVAE` as well. The bottleneck computes in float32 whatever
    autocast says.

    Args:
        method: a name of `settings.METHODS`, but for "sc-vae".
        network: of which the fields of encoder and decoder are used, and n_atoms by `start_linearly`.
        bottlenecks: see `BottleneckSettings`.
        k_means: whether codebooks begin as k-means of the first latents.

    Raises:
        ValueError: there is no such baseline.
    """

    def __init__(
        self, method: str, network: SCVAEConfig, bottlenecks: BottleneckSettings, *, k_means: bool = False
    ) -> None:
        super().__init__()
        found = REGISTRY.get(method)
        if found is None or found.make is None:
            raise ValueError(f"BaselineAutoencoder: unknown baseline {method!r}")
        self.config = network
        self.encoder = Encoder(network.in_channels, network.n_features, **network.levels)
        decoder = ModulatedDecoder if found.modulated else Decoder
        self.decoder = decoder(network.n_features, network.in_channels, **network.levels)
        self.apply(initialise_convolution)
        if isinstance(self.decoder, ModulatedDecoder):
            self.decoder.modulate()
        self.bottleneck: Bottleneck = found.make(network.n_features, bottlenecks, k_means)

    def forward(self, x: Tensor) -> BaselineOutput:
        """Reconstruct pictures (B, in_channels, H, W) in −1 … 1; `config.stride` divides H and W.

        Raises:
            ValueError: x is of another shape or dtype.
        """
        latents_hat, penalty, code = self._code(self.encoder(x))
        return BaselineOutput(self.decoder(latents_hat), penalty, code)

    def start_linearly(self, pictures: Tensor) -> None:  # (B, in_channels, H, W)
        """Fit the first weights to pictures, as those of an `SCVAE` over the DCT dictionary are; see `start_linearly`.

        The encoder becomes that of the `SCVAE`, the bottleneck begins with what suits the latents, and the decoder is
        fitted to what it passes on.
        """
        condition = self.decoder.condition if isinstance(self.decoder, ModulatedDecoder) else None

        def code(latents: Tensor) -> Tensor:
            self.bottleneck.start(latents)
            latents_hat = self._code(latents).latents_hat
            if condition is not None:
                condition.latents = latents_hat
            return latents_hat

        training = self.training
        self.eval()
        dictionary = dictionaries.dct(self.config.n_features, self.config.n_atoms).to(pictures)
        start_linearly(self.encoder, self.decoder, pictures, dictionary=dictionary, bottleneck=code)
        if condition is not None:
            condition.latents = None
        self.train(training)

    def _code(self, latents: Tensor) -> Passed:
        with torch.autocast(latents.device.type, enabled=False):
            return self.bottleneck(latents.float())
