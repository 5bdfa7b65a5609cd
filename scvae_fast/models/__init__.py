"""SC-VAE and its parts."""

from scvae_fast.models.config import SCVAEConfig
from scvae_fast.models.decoder import Decoder
from scvae_fast.models.encoder import Encoder
from scvae_fast.models.official import load_official, to_official
from scvae_fast.models.scvae import SCVAE, SCVAEEncoding, SCVAEOutput

__all__ = ["SCVAE", "Decoder", "Encoder", "SCVAEConfig", "SCVAEEncoding", "SCVAEOutput", "load_official", "to_official"]
