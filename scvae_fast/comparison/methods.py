"""The methods that are compared: how each is implemented here, and how it differs from its source."""

from collections.abc import Callable
from typing import NamedTuple

from scvae_fast.comparison.bottlenecks import Bottleneck, GaussianBottleneck, QuantiserBottleneck
from scvae_fast.comparison.settings import METHODS, BottleneckSettings

# What applies to all methods: stated once, before the notes on each.
COMMON = (
    "All methods use the encoder, decoder, optimiser, clipping, data and number of steps of SC-VAE, and the mean "
    "squared error as the image term. VQGAN, ViT-VQGAN, RQ-VAE and Mo-VQGAN are normally trained with perceptual and "
    "adversarial terms too; these are left out of all methods unless the configuration has a `second_stage`."
)


class Method(NamedTuple):
    """A method: its name in figures, its source, and how it differs from it."""

    title: str
    source: str
    here: str
    make: Callable[[int, BottleneckSettings, bool], Bottleneck] | None  # n, settings, k-means; None for SC-VAE
    modulated: bool = False


def _quantiser(name: str, *, residual: bool = False) -> Callable[[int, BottleneckSettings, bool], Bottleneck]:
    return lambda n, settings, k_means: QuantiserBottleneck(
        n, getattr(settings, name), residual=residual, k_means=k_means
    )


def _gaussian(name: str) -> Callable[[int, BottleneckSettings, bool], Bottleneck]:
    return lambda n, settings, k_means: GaussianBottleneck(n, getattr(settings, name))


_ALL = {
    "vae": Method(
        "VAE",
        "Kingma & Welling, ICLR 2014",
        "the evidence lower bound with a Gaussian likelihood; σ² is the running mean of the squared error, its "
        "maximum-likelihood value (Rybkin et al., ICML 2021), unless `sigma` fixes it",
        _gaussian("vae"),
    ),
    "beta-vae": Method(
        "β-VAE",
        "Higgins et al., ICLR 2017",
        "as the VAE, with β times the KL term; for a fixed σ, β would have the same effect as a larger σ²",
        _gaussian("beta_vae"),
    ),
    "info-vae": Method(
        "Info-VAE",
        "Zhao et al., arXiv 1706.02262",
        "the MMD-VAE (α = 1): no KL term, but λ times the MMD (Gaussian kernel, biased estimate) between the prior and "
        "the latents of all positions of a batch",
        _gaussian("info_vae"),
    ),
    "vqgan": Method(
        "VQGAN",
        "Esser et al., CVPR 2021",
        "its quantiser; codebook vectors are running means instead of following a codebook loss; squared instead of "
        "absolute error; no attention unless the network has it",
        _quantiser("vqgan"),
    ),
    "vit-vqgan": Method(
        "ViT-VQGAN",
        "Yu et al., ICLR 2022",
        "its quantiser: latents are projected to a few dimensions and looked up by cosine; convolutions as in all "
        "methods, no transformer; running means instead of a codebook loss; no logit-Laplace loss; the original has "
        "8192 codebook vectors",
        _quantiser("vit_vqgan"),
    ),
    "rq-vae": Method(
        "RQ-VAE",
        "Lee et al., CVPR 2022",
        "its residual quantiser, with one codebook for all depths and restarts of unused vectors; the original has up "
        "to 16384 codebook vectors",
        _quantiser("rq_vae", residual=True),
    ),
    "mo-vqgan": Method(
        "Mo-VQGAN",
        "Zheng et al., NeurIPS 2022",
        "its multichannel quantiser (parts of the features share one codebook) and its decoder, modulated by the "
        "quantised latents and initially equal to the plain one; running means instead of a codebook loss",
        _quantiser("mo_vqgan"),
        modulated=True,
    ),
    "sc-vae": Method(
        "SC-VAE",
        "Xiao et al., arXiv 2303.16666",
        "the model of this package; its PSNR depends on the sparsity of its codes, which λ and the weight of the code "
        "terms determine",
        None,
    ),
}

REGISTRY = {name: _ALL[name] for name in METHODS}
