"""Random crops of photographs, with augmentation, each a pure function of (seed, index)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from scvae_fast.data.photographs import Photograph


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """How crops are drawn and augmented.

    Args:
        size: height and width of a crop, in pixels.
        zoom_out: largest number of photograph pixels per crop pixel, in each direction; limited by the size of the
            photograph.
        zoom_in: smallest number; below 1 enlarges.
        places: number of random places from which the one with the most contrast is taken. Large parts of photographs
            are sky or wall, from which there is little to learn.
        grey_weight: probability of drawing a grey photograph, relative to one in colour of the same size.
        recolour: probability of rotating colours and changing saturation.
        permute: probability of permuting the channels.
        negative: probability of a negative.
        gamma: the levels are raised to a power between exp(−gamma) and exp(gamma).
        contrast: (least, most) factor on the distance from the mean level.
        brightness: at most this is added to or taken from the levels, which are 0 … 1 here.

    Example:
        >>> from scvae_fast.data import CropSettings
        >>> CropSettings(size=32, permute=0.0).size
        32
    """

    size: int = 64
    zoom_out: float = 4.0
    zoom_in: float = 0.9
    places: int = 2
    grey_weight: float = 0.5
    recolour: float = 0.6
    permute: float = 0.5
    negative: float = 0.15
    gamma: float = 0.7
    contrast: tuple[float, float] = (0.5, 1.4)
    brightness: float = 0.15


class RandomCrops(Dataset[Tensor]):
    """A data set of any number of augmented crops (3, size, size) in −1 … 1.

    Crop `index` depends only on the seed and on `index`, not on earlier draws, so training can resume at any crop.

    Args:
        photographs: source of the crops; larger ones are drawn more often, by the square root of their area.
        seed: for everything random.
        length: reported number of crops.

    Raises:
        ValueError: there is no photograph, or one is smaller than 8 x 8 pixels.

    Example:
        >>> from scvae_fast.data import CropSettings, RandomCrops, held_out_photographs
        >>> crops = RandomCrops(held_out_photographs(), CropSettings(size=32), seed=0)
        >>> crops[7].shape, bool((crops[7] == crops[7]).all())
        (torch.Size([3, 32, 32]), True)
    """

    def __init__(
        self, photographs: Sequence[Photograph], settings: CropSettings, *, seed: int = 0, length: int = 2**31 - 1
    ) -> None:
        if not photographs:
            raise ValueError("RandomCrops: photographs must not be empty")
        for name, picture, _ in photographs:
            if min(picture.shape[1:]) < 8:
                raise ValueError(f"RandomCrops: {name} must be at least 8 x 8, got {tuple(picture.shape[1:])}")
        self.settings, self.seed, self.length = settings, seed, length
        self._colour = [photograph.colour for photograph in photographs]
        self._pyramids = [_pyramid(photograph.picture, settings.size) for photograph in photographs]
        self._weights = torch.tensor(
            [math.sqrt(p.picture[0].numel()) * (1.0 if p.colour else settings.grey_weight) for p in photographs]
        )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:  # -> (3, size, size)
        if not 0 <= index < self.length:
            raise IndexError(f"RandomCrops: index must be in 0 … {self.length - 1}, got {index}")
        dice = _Dice(self.seed * 1_000_003 + index)
        which = int(torch.multinomial(self._weights, 1, generator=dice.generator))
        crop = _flip(self._cut(self._pyramids[which], dice), dice)
        levels = (crop + 1) / 2
        if not self._colour[which]:
            levels = _tint(levels, dice)
        return (_jitter(_recolour(levels, self.settings, dice), self.settings, dice) * 2 - 1).contiguous()

    def _cut(self, pyramid: list[Tensor], dice: "_Dice") -> Tensor:
        """A square of random size at a random place, resampled to the crop's size."""
        size = self.settings.size
        limit = min(pyramid[0].shape[1:]) / size  # the photograph's own limit on zooming out
        most = max(min(limit, self.settings.zoom_out), self.settings.zoom_in)
        zoom = math.exp(dice.uniform(math.log(self.settings.zoom_in), math.log(most)))
        level = min(max(int(math.log2(zoom)), 0), len(pyramid) - 1)
        source = pyramid[level]
        side = max(1, min(round(size * zoom / 2**level), *source.shape[1:]))
        squares = [_square(source, side, dice) for _ in range(self.settings.places)]
        square = max(squares, key=lambda square: float(square.std(correction=0)))
        if side == size:
            return square
        resampled = F.interpolate(square[None], (size, size), mode="bilinear", antialias=True)
        return resampled[0].clamp(-1, 1)


class _Dice:
    """Draws random numbers from one generator."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, least: float = 0.0, most: float = 1.0) -> float:
        return least + (most - least) * float(torch.rand((), generator=self.generator))

    def integer(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self.generator))

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability


def _square(source: Tensor, side: int, dice: _Dice) -> Tensor:  # (C, H, W) -> (C, side, side)
    top = dice.integer(source.shape[1] - side + 1)
    left = dice.integer(source.shape[2] - side + 1)
    return source[:, top : top + side, left : left + side]


def _pyramid(picture: Tensor, size: int) -> list[Tensor]:
    """The picture and its successive halvings, so that zoomed-out crops don't resample the whole photograph."""
    levels = [picture]
    while min(levels[-1].shape[1:]) >= 2 * size:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _flip(crop: Tensor, dice: _Dice) -> Tensor:
    """A random one of the eight symmetries of the square."""
    for axis in (1, 2):
        if dice.chance(0.5):
            crop = crop.flip(axis)
    return crop.transpose(1, 2) if dice.chance(0.5) else crop


def _tint(levels: Tensor, dice: _Dice) -> Tensor:
    """Colours for a grey crop: each level becomes a mixture of a random dark and a random light colour."""
    dark, light = torch.rand(2, 3, 1, 1, generator=dice.generator)
    strength = dice.uniform(0, 0.7)
    return (1 - strength) * levels + strength * (dark + (light - dark) * levels)


def _recolour(levels: Tensor, settings: CropSettings, dice: _Dice) -> Tensor:
    if dice.chance(settings.recolour):
        turn = math.pi * dice.uniform(-1, 1) * (1.0 if dice.chance(0.5) else 0.15)
        saturation = dice.uniform(0, 1.4)
        mixing = saturation * _hue_rotation(turn) + (1 - saturation) * torch.full((3, 3), 1 / 3)
        levels = torch.einsum("ij,jhw->ihw", mixing, levels)
    if dice.chance(settings.permute):
        levels = levels[torch.randperm(3, generator=dice.generator)]
    return levels.clamp(0, 1)


def _hue_rotation(angle: float) -> Tensor:  # -> (3, 3)
    """Rotation of RGB about the grey axis (Rodrigues' formula)."""
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    return torch.eye(3) + math.sin(angle) * across + (1 - math.cos(angle)) * across @ across


def _jitter(levels: Tensor, settings: CropSettings, dice: _Dice) -> Tensor:
    """Change gamma, contrast and brightness, and sometimes invert."""
    levels = levels ** math.exp(dice.uniform(-settings.gamma, settings.gamma))
    mean = levels.mean()
    levels = (levels - mean) * dice.uniform(*settings.contrast) + mean
    levels = (levels + dice.uniform(-settings.brightness, settings.brightness)).clamp(0, 1)
    return 1 - levels if dice.chance(settings.negative) else levels
