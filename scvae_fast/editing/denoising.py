"""Noise, and pictures rebuilt from codes too sparse to hold it."""

import torch
import torch.nn.functional as F
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


def recode(model: SCVAE, picture: Tensor, *, scale: float = 1.0, shifts: int = 1) -> Tensor:  # (3, H, W)
    """The picture rebuilt from its codes, with `scale` times the threshold that the model was trained with.

    A higher threshold leaves fewer entries: of noise, which is spread over many atoms, less gets through; of detail as
    well. With scale 1 that is the reconstruction. Averaging over shifts of the cells ("cycle spinning": Coifman and
    Donoho, "Translation-Invariant De-Noising", 1995) takes away what depends on where the cells lie.

    Args:
        model: in evaluation mode.
        picture: (3, H, W), of any size.
        scale: of the threshold.
        shifts: so many in each direction, at most a cell's pixels; the time is that of shifts² reconstructions.

    Raises:
        ValueError: scale is negative or not finite, shifts is not 1 … stride, or picture is not (3, H, W).
    """
    stride = model.config.stride
    if not 1 <= shifts <= stride:
        raise ValueError(f"recode: shifts must be 1 … {stride}, the pixels of a cell, got {shifts}")
    model = with_threshold(model, scale)
    if shifts == 1:
        return reconstruct_tiled(model, picture).x_hat
    offsets = [stride * i // shifts for i in range(shifts)]
    total = torch.zeros_like(picture, device=model.bottleneck.dictionary.device)
    for top in offsets:
        for left in offsets:
            shifted = F.pad(picture[None], (left, 0, top, 0), mode="replicate")[0]
            total += reconstruct_tiled(model, shifted).x_hat[:, top:, left:]
    return total / len(offsets) ** 2
