"""Classical denoising and in-painting, from scikit-image, on the pictures of this package."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

try:
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, inpaint_biharmonic
except ImportError as error:
    raise ImportError('scvae_fast.editing needs scikit-image: pip install "scvae_fast[train]"') from error

TV_WEIGHTS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)


def total_variation(picture: Tensor, weight: float) -> Tensor:  # (3, H, W)
    """Total variation denoising (Chambolle 2004); the weight is for levels 0 … 1."""
    return _applied(lambda levels: denoise_tv_chambolle(levels, weight=weight, channel_axis=2), picture)


def non_local_means(picture: Tensor, sigma: float) -> Tensor:  # (3, H, W)
    """Non-local means (Buades, Coll and Morel 2005) for noise of sigma 8-bit levels; the picture itself for 0."""
    if sigma == 0:
        return picture
    level = sigma / 255
    return _applied(
        lambda levels: denoise_nl_means(
            levels, patch_size=5, patch_distance=6, h=0.8 * level, sigma=level, channel_axis=2
        ),
        picture,
    )


def best_total_variation(
    noisy: Tensor, rate: Callable[[Tensor], float], weights: Sequence[float] = TV_WEIGHTS
) -> tuple[float, Tensor]:
    """The weight that `rate` rates highest, and its picture: the method at its best."""
    results = {weight: total_variation(noisy, weight) for weight in weights}
    best = max(results, key=lambda weight: rate(results[weight]))
    return best, results[best]


def biharmonic(picture: Tensor, missing: Tensor) -> Tensor:  # (3, H, W), (H, W) bool -> (3, H, W)
    """In-painting by the biharmonic equation (Damelin and Hoang 2018); known pixels are kept exactly."""
    filled = _applied(lambda levels: inpaint_biharmonic(levels, missing.cpu().numpy(), channel_axis=2), picture)
    return torch.where(missing, filled, picture)


def _applied(method: Callable[[np.ndarray], np.ndarray], picture: Tensor) -> Tensor:
    levels = ((picture.detach().cpu().double() + 1) / 2).permute(1, 2, 0).numpy()
    result = torch.from_numpy(np.ascontiguousarray(method(levels)))
    return (result.permute(2, 0, 1) * 2 - 1).to(picture)
