"""How well a model codes whole photographs, beside the baseline of block means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scvae_fast.codes.tiling import TiledReconstruction, reconstruct_tiled
from scvae_fast.data import Photograph
from scvae_fast.metrics import CodeStatistics, PictureQuality, block_means
from scvae_fast.models import SCVAE

BLOCK_SIZES = (8, 4)


@dataclass(frozen=True)
class Evaluation:
    """What a model made of some photographs, and how good that is."""

    photographs: list[Photograph]
    rebuilt: list[TiledReconstruction]
    figures: dict[str, Any]
    usage: Tensor  # (K,) int64, how many codes use each atom


def evaluate(model: SCVAE, photographs: Sequence[Photograph]) -> Evaluation:
    """Rebuild photographs, whole, and rate the result.

    `figures` has `psnr` (of the pooled squared error, dB), `ssim` (mean), `density` and `atoms_in_use` of the codes,
    `block_means` with PSNR and SSIM of block means instead, and `pictures` with the same for each photograph.
    """
    quality, codes = PictureQuality(), CodeStatistics(model.config.n_atoms)
    rebuilt, pictures = [], {}
    for photograph in photographs:
        result = reconstruct_tiled(model, photograph.picture)
        own_codes = CodeStatistics(model.config.n_atoms)
        own_codes.add(result.usage, result.active.numel())
        codes.add(own_codes.usage, own_codes.n_codes)
        own_quality = quality.update(result.x_hat, photograph.picture)
        pictures[photograph.name] = {**own_quality, "density": own_codes.density}
        rebuilt.append(result)
    figures = {
        "psnr": quality.psnr(),
        "ssim": quality.ssim(),
        "density": codes.density,
        "atoms_in_use": codes.atoms_in_use,
        "block_means": {f"{size}x{size}": _rate_block_means(photographs, size) for size in BLOCK_SIZES},
        "pictures": pictures,
    }
    return Evaluation(list(photographs), rebuilt, figures, codes.usage)


def _rate_block_means(photographs: Sequence[Photograph], size: int) -> dict[str, float]:
    quality = PictureQuality()
    for _, picture, _ in photographs:
        quality.update(block_means(picture, size), picture)
    return {"psnr": quality.psnr(), "ssim": quality.ssim()}
