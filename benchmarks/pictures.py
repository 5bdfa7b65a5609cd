"""Pictures for measurements: crops of the embedded photographs, or noise with their spectrum if they are missing."""

from __future__ import annotations

import functools
from importlib.util import find_spec

import torch

PHOTOGRAPHS, NOISE = "photographs", "noise"
_NEEDED = ("PIL", "skimage", "sklearn")


def kind() -> str:
    """PHOTOGRAPHS, or NOISE if the packages with the photographs are missing."""
    return PHOTOGRAPHS if all(map(find_spec, _NEEDED)) else NOISE


def crops(size: int, first: int, count: int, seed: int) -> torch.Tensor:
    """(count, 3, size, size) in −1 … 1: the crops from number `first` on, determined by the seed."""
    return torch.stack([_crop(size, seed, index) for index in range(first, first + count)])


def _crop(size: int, seed: int, index: int) -> torch.Tensor:
    if kind() == PHOTOGRAPHS:
        return _random_crops(size, seed)[index]
    drawn = torch.Generator().manual_seed(1_000_003 * seed + index)
    across, down = torch.fft.rfftfreq(size), torch.fft.fftfreq(size)[:, None]
    spectrum = torch.fft.rfft2(torch.randn(3, size, size, generator=drawn))
    # The amplitudes of a photograph fall as 1 / frequency.
    picture = torch.fft.irfft2(spectrum / (across.square() + down.square()).sqrt().clamp_min(1 / size), s=(size, size))
    return (picture / (3 * picture.std())).clamp(-1, 1)


@functools.lru_cache(maxsize=4)
def _random_crops(size: int, seed: int) -> torch.utils.data.Dataset[torch.Tensor]:
    from scvae_fast.data import CropSettings, RandomCrops, training_photographs

    return RandomCrops(training_photographs(), CropSettings(size=size), seed=seed)
