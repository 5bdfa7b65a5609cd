"""Noise, and pictures rebuilt from codes too sparse to hold it."""

import torch
from torch import Tensor

from scvae_fast.editing.coding import with_threshold
from scvae_fast.models import SCVAE
from scvae_fast.tiling import reconstruct_tiled

_LEVELS = 127.5  # of an 8-bit picture, for a difference of 1


def add_noise(picture: Tensor, sigma: float, *, seed: int) -> Tensor:  # (3, H, W)
    """The picture with white Gaussian noise, not clipped.

    Args:
        picture: in −1 … 1.
        sigma: deviation in levels of an 8-bit picture, 0 … 255.
        seed: of the noise, which is drawn on the CPU.

    Raises:
        ValueError: sigma is negative or not finite.
    """
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"add_noise: sigma must be a finite number, 0 or more, got {sigma}")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(picture.shape, generator=generator, dtype=picture.dtype)
    return picture + sigma / _LEVELS * noise.to(picture.device)


def recode(model: SCVAE, picture: Tensor, *, scale: float = 1.0) -> Tensor:  # (3, H, W)
    """The picture rebuilt from its codes, with `scale` times the threshold that the model was trained with.

    A higher threshold leaves fewer entries: of noise, which is spread over many atoms, less gets through; of detail as
    well. With scale 1 that is the reconstruction.

    Args:
        model: in evaluation mode.
        picture: (3, H, W), of any size.
        scale: of the threshold.

    Raises:
        ValueError: scale is negative or not finite, or picture is not (3, H, W).
    """
    return reconstruct_tiled(with_threshold(model, scale), picture).x_hat
