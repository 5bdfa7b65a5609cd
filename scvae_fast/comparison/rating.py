"""How well a trained method reconstructs unseen pictures, and what its codes carry."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from scvae_fast.comparison.autoencoder import BaselineAutoencoder
from scvae_fast.comparison.bottlenecks import GaussianBottleneck, Posterior, QuantiserBottleneck, sample
from scvae_fast.comparison.diagnosis import AtomDiagnosis, Diagnosis, IndexDiagnosis, PosteriorDiagnosis
from scvae_fast.comparison.settings import ComparisonSettings
from scvae_fast.errors import UsageError
from scvae_fast.evaluation.meters import Meters
from scvae_fast.evaluation.rebuilding import Rebuilt
from scvae_fast.evaluation.settings import EvaluationSettings
from scvae_fast.metrics import PictureQuality
from scvae_fast.models import SCVAE

METRICS = ("psnr", "ssim", "lpips-alex", "lpips-vgg", "fid")
# Number of reconstructions that are kept for figures, evenly spaced.
DRAWN = 4

Model = BaselineAutoencoder | SCVAE


class Rating(NamedTuple):
    """The results for a method, JSON-serialisable, and pictures to draw."""

    record: dict[str, Any]
    originals: Tensor  # (DRAWN, 3, H, W) uint8
    rebuilt: Tensor  # (DRAWN, 3, H, W) uint8


@torch.no_grad()
def rate(
    model: Model,
    batches: Iterable[Tensor],
    settings: ComparisonSettings,
    *,
    weights: Path | None = None,
    download: bool = False,
) -> Rating:
    """Evaluate a model on pictures, in float32.

    Args:
        model: on the device that computes.
        batches: (B, 3, H, W) each, in −1 … 1.
        settings: of the comparison.
        weights: folder with the weights of the metrics' networks.
        download: whether to fetch those that are missing.

    Raises:
        UsageError: there are no pictures, or a reconstruction is not finite.
    """
    model.eval()
    device = next(model.parameters()).device
    meters = Meters(EvaluationSettings(metrics=METRICS, device=str(device), weights=weights, download=download))
    diagnosis, sampled = diagnosis_of(model, settings), PictureQuality(rate_structure=False)
    rebuilt: list[Tensor] = []
    originals: list[Tensor] = []
    for batch in batches:
        x = batch.to(device)
        x_hat, code = through(model, x)
        if not x_hat.isfinite().all():
            raise UsageError("a reconstruction contains NaN or infinity: the weights of the model are broken")
        diagnosis.update(code)
        meters.update(Rebuilt([""] * len(x), x, x_hat.clamp(-1, 1), False))
        if isinstance(code, Posterior):
            torch.manual_seed(settings.seed + diagnosis.pictures)
            sampled.update_batch(cast(BaselineAutoencoder, model).decoder(sample(code)), x)
        originals.append(_levels(x))
        rebuilt.append(_levels(x_hat))
    if not diagnosis.pictures:
        raise UsageError("there are no pictures to rate the methods on")
    size = originals[0].shape[2:]
    record = _record(meters, diagnosis, sampled, size)
    record["raw_bits_per_picture"] = _raw_bits(model, size.numel(), settings.value_bits)
    return Rating(record, *_spread(originals, rebuilt))


def _record(meters: Meters, diagnosis: Diagnosis, sampled: PictureQuality, size: torch.Size) -> dict[str, Any]:
    figures = meters.figures()
    return {
        "pictures": diagnosis.pictures,
        "size": list(size),
        "psnr": figures["psnr"]["pooled"],
        "psnr_mean": figures["psnr"]["mean"],
        "psnr_of_samples": sampled.psnr() if sampled.n_pictures else None,
        **{name: figures[name]["value" if name == "fid" else "mean"] for name in METRICS[1:] if name in figures},
        "warnings": {name: figures[name]["warnings"] for name in figures if figures[name].get("warnings")},
        "unavailable": meters.unavailable,
        "bits_per_picture": diagnosis.bits_per_picture,
        "bits_per_pixel": diagnosis.bits_per_picture / size.numel(),
        "diagnosis": diagnosis.figures(),
    }


def through(model: Model, x: Tensor) -> tuple[Tensor, Posterior | Tensor]:
    """Reconstructions (B, 3, H, W) of pictures, and their codes: (B, h, w, K) of an `SCVAE`, otherwise see `Passed`."""
    if isinstance(model, SCVAE):
        encoding = model.encode(x)
        return model.decode(encoding.latents_hat), encoding.codes
    output = model(x)
    return output.x_hat, output.code


def diagnosis_of(model: Model, settings: ComparisonSettings) -> Diagnosis:
    """The diagnosis for a model's kind of codes."""
    if isinstance(model, SCVAE):
        return AtomDiagnosis(model.config.n_atoms, settings.value_bits)
    bottleneck = model.bottleneck
    if isinstance(bottleneck, GaussianBottleneck):
        return PosteriorDiagnosis(model.config.n_features)
    assert isinstance(bottleneck, QuantiserBottleneck)
    return IndexDiagnosis(bottleneck.settings.codebook_size, bottleneck.settings.codes)


def _raw_bits(model: Model, pixels: int, value_bits: int) -> int | None:
    """Bits of the latents stored without coding; None for indices, whose size is already exact."""
    if not isinstance(model, SCVAE) and isinstance(model.bottleneck, QuantiserBottleneck):
        return None
    return pixels // model.config.stride**2 * model.config.n_features * value_bits


def _levels(x: Tensor) -> Tensor:  # (B, 3, H, W) in −1 … 1 -> uint8
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def _spread(*lists: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    first, second = (torch.cat(list(each)) for each in lists)
    chosen = torch.linspace(0, len(first) - 1, min(DRAWN, len(first))).round().long()
    return first[chosen], second[chosen]
