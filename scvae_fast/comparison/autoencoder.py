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

    With the same seed, they have the same weights as in that `SCVAE`. The bottleneck always computes in float32, even
    under autocast.

    Args:
        method: a name in `settings.METHODS` other than "sc-vae".
        network: configuration; uses its encoder and decoder fields, and `start_linearly` also uses n_atoms.
        bottlenecks: see `BottleneckSettings`.
        k_means: whether codebooks start from k-means of the first latents.

    Raises:
        ValueError: method is not the name of a baseline.
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
            ValueError: x has another shape or dtype.
        """
        latents_hat, penalty, code = self._code(self.encoder(x))
        return BaselineOutput(self.decoder(latents_hat), penalty, code)

    def start_linearly(self, pictures: Tensor) -> None:  # (B, in_channels, H, W)
        """Fit the initial weights to pictures, like those of an `SCVAE` with the DCT dictionary; see `start_linearly`.

        The encoder equals that of the `SCVAE`, the bottleneck starts with values that suit the latents, and the
        decoder is fitted to the bottleneck's output.
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
