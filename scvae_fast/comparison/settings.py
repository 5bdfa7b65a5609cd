"""The settings of a comparison, as frozen dataclasses that a YAML file fills."""

from dataclasses import dataclass, field
from typing import Any, Literal

from scvae_fast.models import SCVAEConfig
from scvae_fast.training.base import Start
from scvae_fast.training.second_stage import SecondStageSettings
from scvae_fast.training.settings import LossSettings, OptimiserSettings

METHODS = ("vae", "beta-vae", "info-vae", "vqgan", "vit-vqgan", "rq-vae", "mo-vqgan", "sc-vae")


@dataclass(frozen=True, kw_only=True)
class GaussianSettings:
    """A Gaussian latent for each of the n features of each position, with the weights of its regularisers.

    The objective of a picture x of D values is, in nats,

        ‖x − x̂‖² / (2σ²) + D/2 log(2πσ²) + kl Σ KL(q(z | x) ‖ N(0, 1)) + mmd · h·w · MMD²(q(z), N(0, I))

    where q(z) is the distribution of the latents of all positions of the batch. The loss is 2σ²/D times that, so that
    its image term is the mean squared error, as for every other method.

    Args:
        kl: 1 is the evidence lower bound (Kingma & Welling 2014), more is β-VAE's β (Higgins et al. 2017). Info-VAE's
            1 − α (Zhao et al. 2017), 0 in its MMD-VAE.
        mmd: Info-VAE's α + λ − 1; 0 turns it off.
        sigma: σ of the likelihood, in units of pictures in −1 … 1; None lets σ² be the running mean of the squared
            error, which is its maximum-likelihood value (Rybkin et al. 2021).
        first_sigma: initial σ if `sigma` is None.

    Raises:
        ValueError: a field is out of its range.
    """

    kl: float = 1.0
    mmd: float = 0.0
    sigma: float | None = None
    first_sigma: float = 0.1

    def __post_init__(self) -> None:
        _require(self, "kl", _finite(self.kl, 0), "a number, 0 or more")
        _require(self, "mmd", _finite(self.mmd, 0), "a number, 0 or more")
        _require(self, "sigma", self.sigma is None or 0 < self.sigma < float("inf"), "None, or a positive number")
        _require(self, "first_sigma", 0 < self.first_sigma < float("inf"), "a positive number")


@dataclass(frozen=True, kw_only=True)
class QuantiserSettings:
    """Vector quantisation of each position by one codebook, through vector-quantize-pytorch.

    Args:
        codebook_size: vectors in the codebook.
        codes: per position: levels of a residual quantiser, or parts that a latent is cut into.
        width: of the codebook vectors; latents are projected to it. None is the latents' own width.
        cosine: whether both are normalised first, so that the nearest vector is that with the largest cosine.
        commitment: weight of the commitment loss.
        decay: of the running means that form the codebook.
        restart_below: codebook vectors that fewer latents per batch choose, as a running mean, are replaced by a latent
            of the batch; 0 never replaces any.

    Raises:
        ValueError: a field is out of its range.
    """

    codebook_size: int = 512
    codes: int = 1
    width: int | None = None
    cosine: bool = False
    commitment: float = 0.25
    decay: float = 0.99
    restart_below: float = 0.0

    def __post_init__(self) -> None:
        _require(self, "codebook_size", self.codebook_size >= 2, "2 or more")
        _require(self, "codes", self.codes >= 1, "1 or more")
        _require(self, "width", self.width is None or self.width >= 1, "None, or 1 or more")
        _require(self, "commitment", _finite(self.commitment, 0), "a number, 0 or more")
        _require(self, "decay", 0 <= self.decay < 1, "in [0, 1)")
        _require(self, "restart_below", _finite(self.restart_below, 0), "a number, 0 or more")


@dataclass(frozen=True, kw_only=True)
class BottleneckSettings:
    """The bottleneck of each method other than SC-VAE.

    Args:
        vae: of the variational autoencoder.
        beta_vae: of β-VAE.
        info_vae: of Info-VAE; the defaults are its MMD-VAE, α = 1 and λ = 1000.
        vqgan: of VQGAN.
        vit_vqgan: of ViT-VQGAN.
        rq_vae: of RQ-VAE.
        mo_vqgan: of Mo-VQGAN.
    """

    vae: GaussianSettings = field(default_factory=GaussianSettings)
    beta_vae: GaussianSettings = field(default_factory=lambda: GaussianSettings(kl=4.0))
    info_vae: GaussianSettings = field(default_factory=lambda: GaussianSettings(kl=0.0, mmd=1000.0))
    vqgan: QuantiserSettings = field(default_factory=QuantiserSettings)
    vit_vqgan: QuantiserSettings = field(
        default_factory=lambda: QuantiserSettings(codebook_size=1024, width=32, cosine=True)
    )
    rq_vae: QuantiserSettings = field(default_factory=lambda: QuantiserSettings(codes=4, restart_below=1.0))
    mo_vqgan: QuantiserSettings = field(default_factory=lambda: QuantiserSettings(codes=4))


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """Everything that determines a comparison except the pictures and the choice of methods.

    Args:
        network: encoder and decoder of all methods, and the remaining fields for SC-VAE.
        loss: of SC-VAE.
        optimiser: of all methods, like the following settings.
        bottlenecks: of the other methods.
        second_stage: perceptual and adversarial terms; None leaves them out of all methods.
        start: initial weights of encoders and decoders, see `scvae_fast.training.start`. With "linear" all encoders
            start alike, codebooks from k-means of the first latents, Gaussian latents from principal components, and
            each decoder is fitted to the output of its bottleneck.
        steps: of the optimiser, for each method.
        clip: norm that gradients are clipped to.
        precision: Lightning's; None chooses the fastest on the device.
        checkpoint_minutes: between two checkpoints.
        value_bits: bits charged for a value of a sparse code, and for a value of an uncoded latent vector.
        seed: of the weights and of all randomness in training steps.

    Raises:
        ValueError: a field is out of its range.
    """

    network: SCVAEConfig
    loss: LossSettings = field(default_factory=LossSettings)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    bottlenecks: BottleneckSettings = field(default_factory=BottleneckSettings)
    second_stage: SecondStageSettings | None = None
    start: Start = "linear"
    steps: int = 1000
    clip: float = 1.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None = None
    checkpoint_minutes: float = 1.0
    value_bits: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self, "steps", self.steps >= 1, "1 or more")
        _require(self, "clip", 0 < self.clip < float("inf"), "a positive number")
        _require(self, "checkpoint_minutes", _finite(self.checkpoint_minutes, 0), "a number, 0 or more")
        _require(self, "value_bits", self.value_bits >= 1, "1 or more")
        _require(self, "seed", self.seed >= 0, "0 or more")
        if self.start == "linear" and self.network.norm_out:
            raise ValueError('ComparisonSettings: start="linear" needs a network with norm_out=False')


def _finite(value: float, least: float) -> bool:
    return least <= value < float("inf")


def _require(settings: Any, name: str, valid: bool, expected: str) -> None:
    if not valid:
        raise ValueError(f"{type(settings).__name__}: {name} must be {expected}, got {getattr(settings, name)!r}")
