"""The bottlenecks between encoder and decoder of the methods that SC-VAE is compared with.

Each codes every position of latents (B, n, h, w) independently. n features, K vectors in a codebook.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scvae_fast._extras import extra
from scvae_fast.comparison.settings import GaussianSettings, QuantiserSettings

with extra("scvae_fast.comparison", "vector-quantize-pytorch", "compare"):
    from vector_quantize_pytorch import ResidualVQ, VectorQuantize

# Initial standard deviation of a mean that carries no information: its square is the threshold above which Burda et
# al. call a unit active.
_FAINT = 0.1
_LOG_VARIANCES = (-20.0, 10.0)


class Posterior(NamedTuple):
    """The diagonal Gaussian of each position."""

    mean: Tensor  # (B, n, h, w)
    log_variance: Tensor  # (B, n, h, w)


class Passed(NamedTuple):
    """The output of a bottleneck."""

    latents_hat: Tensor  # (B, n, h, w), for the decoder
    penalty: Tensor  # (), see `Bottleneck.in_nats`
    code: Posterior | Tensor  # indices (B, h, w, codes) of a quantiser


class Bottleneck(nn.Module, ABC):
    """Interface of the bottlenecks.

    `in_nats` says whether the penalty is in nats per picture, for a likelihood with a σ, or a plain loss term.
    """

    in_nats: bool

    @abstractmethod
    def forward(self, latents: Tensor) -> Passed:  # (B, n, h, w)
        """Code latents."""

    @abstractmethod
    def start(self, latents: Tensor) -> None:
        """Initialise with values that suit latents (B, n, h, w), those of the first pictures."""


class GaussianBottleneck(Bottleneck):
    """q(z | x) = N(μ, diag exp(l)) for every position, μ and l linear in its latents; z = μ + exp(l/2) ε in training.

    The penalty is that of `GaussianSettings`. In evaluation z = μ. Sources: Kingma & Welling, "Auto-Encoding
    Variational Bayes" (ICLR 2014); Higgins et al., "beta-VAE" (ICLR 2017); Zhao, Song and Ermon, "InfoVAE"
    (arXiv 1706.02262).

    Args:
        n_features: n, also the number of Gaussian latents.
        settings: see `GaussianSettings`.
    """

    in_nats = True

    def __init__(self, n_features: int, settings: GaussianSettings) -> None:
        super().__init__()
        self.settings = settings
        self.to_mean = nn.Conv2d(n_features, n_features, 1)
        self.to_log_variance = nn.Conv2d(n_features, n_features, 1)

    def forward(self, latents: Tensor) -> Passed:
        """See `Bottleneck`."""
        posterior = Posterior(self.to_mean(latents), self.to_log_variance(latents).clamp(*_LOG_VARIANCES))
        z = sample(posterior) if self.training else posterior.mean
        penalty = latents.new_zeros(())
        if self.settings.kl:
            penalty = self.settings.kl * kl_to_standard_normal(posterior).sum() / len(latents)
        if self.settings.mmd:
            positions = latents[0, 0].numel()
            rows = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
            penalty = penalty + self.settings.mmd * positions * squared_mmd(rows, torch.randn_like(rows))
        return Passed(z, penalty, posterior)

    @torch.no_grad()
    def start(self, latents: Tensor) -> None:
        """Start from the best linear Gaussian code for noise of variance s² = kl σ² (1 if kl is 0) in the latents.

        Latent i is the principal component i, of variance v_i, scaled. Its posterior variance is min(1, s² / v_i),
        and its mean has the rest of the unit variance. A linear VAE converges to this (Lucas et al., "Don't Blame the
        ELBO!", NeurIPS 2019). A mean that would be zero starts small instead, so that it can learn.
        """
        rows = latents.permute(0, 2, 3, 1).flatten(0, 2).double()
        centre = rows.mean(0)
        rows = rows - centre
        values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
        values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
        noise = (self.settings.kl or 1.0) * (self.settings.sigma or self.settings.first_sigma) ** 2
        variance = (noise / values.clamp_min(noise)).clamp_max(1)
        present = values > 1e-6 * values[0]
        scale = (1 - variance).clamp_min(_FAINT**2).sqrt() / values.clamp_min(1e-12).sqrt()
        others = self.to_mean.weight[:, :, 0, 0].double()
        others = others * (_FAINT / (rows @ others.T).std(0).clamp_min(1e-12))[:, None]
        weight = torch.where(present[:, None], vectors.T * scale[:, None], others)  # (n, n)
        self.to_mean.weight.copy_(weight[:, :, None, None])
        self.to_mean.bias.copy_(-weight @ centre)  # type: ignore[union-attr]
        nn.init.zeros_(self.to_log_variance.weight)
        self.to_log_variance.bias.copy_(variance.log())  # type: ignore[union-attr]


class QuantiserBottleneck(Bottleneck):
    """Replaces every position by one of K codebook vectors, or by `codes` of them.

    Codebook vectors are running means of the latents that choose them (van den Oord et al., "Neural Discrete
    Representation Learning", 2017, appendix A), gradients go straight through to the encoder, and the penalty is the
    commitment loss β mean((z − sg[z_q])²). Built from `VectorQuantize` and `ResidualVQ` of vector-quantize-pytorch.

    Args:
        n_features: n.
        settings: see `QuantiserSettings`.
        residual: whether each code of a position quantises the residual of the codes before it (RQ-VAE: Lee et al.,
            "Autoregressive Image Generation using Residual Quantization", CVPR 2022), or an equal part of the features
            (Mo-VQGAN: Zheng et al., "MoVQ", NeurIPS 2022). They share one codebook either way.
        k_means: whether the codebook starts from k-means of the first latents in training mode.

    Raises:
        ValueError: `codes` does not divide the number of features.
    """

    in_nats = False

    def __init__(self, n_features: int, settings: QuantiserSettings, *, residual: bool, k_means: bool) -> None:
        super().__init__()
        self.settings = settings
        options = {
            "dim": n_features,
            "codebook_size": settings.codebook_size,
            "codebook_dim": settings.width,
            "decay": settings.decay,
            "commitment_weight": settings.commitment,
            "use_cosine_sim": settings.cosine,
            "threshold_ema_dead_code": settings.restart_below,
            "kmeans_init": k_means,
            "rotation_trick": False,
        }
        self.quantiser: nn.Module
        if residual:
            self.quantiser = ResidualVQ(num_quantizers=settings.codes, shared_codebook=True, **options)
            return
        if settings.codes > 1:
            if n_features % settings.codes:
                raise ValueError(f"QuantiserBottleneck: codes must divide {n_features}, got {settings.codes}")
            options["codebook_dim"] = settings.width or n_features // settings.codes
        self.quantiser = VectorQuantize(heads=settings.codes, **options)

    def forward(self, latents: Tensor) -> Passed:
        """See `Bottleneck`."""
        batch, _, height, width = latents.shape
        rows = latents.flatten(2).transpose(1, 2)  # (B, h·w, n)
        quantised, indices, losses = self.quantiser(rows)
        latents_hat = quantised.transpose(1, 2).reshape(latents.shape)
        return Passed(latents_hat, losses.mean(), indices.reshape(batch, height, width, -1))

    @property
    def codebook(self) -> Tensor:
        """(K, width), the vectors of the codebook."""
        quantiser: Any = self.quantiser
        found: Tensor = (quantiser.layers[0] if isinstance(quantiser, ResidualVQ) else quantiser).codebook
        return found

    @torch.no_grad()
    def start(self, latents: Tensor) -> None:
        """Start from k-means of these latents; a projection starts from their principal components."""
        if isinstance(project := getattr(self.quantiser, "project_in", None), nn.Linear):
            rows = latents.permute(0, 2, 3, 1).flatten(0, 2).double()
            centre = rows.mean(0)
            _, vectors = torch.linalg.eigh((rows - centre).T @ (rows - centre))
            weight = vectors.flip(1)[:, : project.out_features].T
            project.weight[: len(weight)].copy_(weight)
            project.bias[: len(weight)].copy_(-weight @ centre)
        training = self.training
        self.train()(latents)
        self.train(training)


def sample(posterior: Posterior) -> Tensor:  # -> (B, n, h, w)
    """A sample z = μ + σ ε with ε from a standard normal distribution."""
    return posterior.mean + (0.5 * posterior.log_variance).exp() * torch.randn_like(posterior.mean)


def kl_to_standard_normal(posterior: Posterior) -> Tensor:  # -> (B, n, h, w)
    """KL(N(μ, exp(l)) ‖ N(0, 1)) = (μ² + exp(l) − 1 − l) / 2 of each latent, in nats."""
    mean, log_variance = posterior
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:  # (M, d), (N, d) -> ()
    """Squared maximum mean discrepancy of two samples, with the kernel exp(−‖a − b‖² / (2d)); biased, never negative.

    Source: Gretton et al., "A Kernel Two-Sample Test", Journal of Machine Learning Research 13 (2012), equation 5. For
    two standard normal vectors the exponent is −1 on average.
    """
    return _kernel(x, x).mean() + _kernel(y, y).mean() - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:  # (M, d), (N, d) -> (M, N)
    sq_dist = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * F.linear(x, y)
    return (-sq_dist.clamp_min(0) / (2 * x.shape[1])).exp()


def nats_to_bits(nats: float) -> float:
    """Convert nats to bits."""
    return nats / math.log(2)
