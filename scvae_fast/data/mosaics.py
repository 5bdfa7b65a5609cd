"""Mosaics of photographic textures with the exact class of every pixel: ground truth without downloads."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from scvae_fast._extras import extra
from scvae_fast.data.masks import MaskedPicture
from scvae_fast.data.photographs import load_photograph

with extra("scvae_fast.data.mosaics", "SciPy"):
    from scipy.ndimage import gaussian_filter

TEXTURES = ("brick", "grass", "gravel", "moon", "hubble_deep_field")
_AREA, _HALF = 512, 256  # side of the square used from each texture, and width of each half of it
_CONTRAST = 0.25
_LEAST = 0.03  # smallest share of a mosaic's pixels per texture
_BEND, _BEND_LENGTH = 8.0, 20.0  # amplitude and length in pixels of the bends of borders


@dataclass(frozen=True, kw_only=True)
class Mosaics:
    """Pictures of Voronoi regions with bent borders and an ellipse, each filled with one of five textures, all present.

    Textures are the upper left 512 x 512 pixels of grey photographs in scikit-image. Training pictures use the left
    half of that, validation pictures the right half. Each half of each texture is shifted and scaled to mean 0 and
    standard deviation 0.25, then clipped to −1 … 1, so that brightness and contrast alone don't distinguish textures.

    Args:
        split: "train" or "val".
        count: number of pictures.
        seed: mosaic i is a function of split, seed and i.
        side: of the square pictures, at most 256.
        regions: per picture, at least five, in addition to the ellipse.

    Raises:
        ValueError: one of them is out of range.
    """

    split: Literal["train", "val"] = "val"
    count: int = 16
    seed: int = 0
    side: int = 240
    regions: int = 7

    def __post_init__(self) -> None:
        if self.split not in ("train", "val"):
            raise ValueError(f"Mosaics: split must be train or val, got {self.split!r}")
        for name, least, most in (("count", 1, None), ("side", 16, _HALF), ("regions", len(TEXTURES), None)):
            value = getattr(self, name)
            if value < least or (most is not None and value > most):
                raise ValueError(f"Mosaics: {name} must be {least} {f'… {most}' if most else 'or more'}, got {value!r}")

    @property
    def classes(self) -> Sequence[str]:
        """Names of the textures."""
        return TEXTURES

    def __len__(self) -> int:
        """Number of pictures."""
        return self.count

    def __getitem__(self, index: int) -> MaskedPicture:
        """Mosaic `index`, 0 … count − 1."""
        if not 0 <= index < self.count:
            raise IndexError(f"Mosaics: index must be below {self.count}, got {index}")
        dice = np.random.default_rng((self.seed, self.split == "train", index))
        mask = self._shapes(dice)
        while np.bincount(mask.flatten(), minlength=len(TEXTURES)).min() < _LEAST * mask.size:
            mask = self._shapes(dice)
        grey = np.empty(mask.shape, np.float32)
        for number, texture in enumerate(self._textures):
            top, left = (int(dice.integers(length - self.side + 1)) for length in texture.shape)
            part = texture[top : top + self.side, left : left + self.side]
            grey[mask == number] = part[mask == number]
        picture = torch.from_numpy(grey).expand(3, -1, -1).contiguous()
        return MaskedPicture(f"{self.split}-{index:04}.png", picture, mask)

    @cached_property
    def _textures(self) -> list[np.ndarray]:
        halves = []
        for name in TEXTURES:
            area = load_photograph(name).picture[:, :_AREA, :_AREA].mean(0).numpy()
            half = area[:, :_HALF] if self.split == "train" else area[:, _HALF:]
            halves.append(np.clip((half - half.mean()) / half.std() * _CONTRAST, -1, 1).astype(np.float32))
        return halves

    def _shapes(self, dice: np.random.Generator) -> np.ndarray:  # -> (side, side) uint8
        down, across = (axis + _bends(dice, self.side) for axis in np.mgrid[: self.side, : self.side])
        centres = dice.uniform(0, self.side, (self.regions, 2))
        nearest = np.argmin([(down - y) ** 2 + (across - x) ** 2 for y, x in centres], axis=0)
        others = dice.integers(len(TEXTURES), size=self.regions + 1 - len(TEXTURES))
        textures = np.concatenate([dice.permutation(len(TEXTURES)), others])
        y, x = dice.uniform(0.2, 0.8, 2) * self.side
        height, width = dice.uniform(0.1, 0.2, 2) * self.side
        inside = ((down - y) / height) ** 2 + ((across - x) / width) ** 2 < 1
        return np.where(inside, textures[-1], textures[nearest]).astype(np.uint8)


def _bends(dice: np.random.Generator, side: int) -> np.ndarray:
    noise = gaussian_filter(dice.standard_normal((side, side)), _BEND_LENGTH, mode="wrap")
    return (noise - noise.mean()) * (_BEND / noise.std())
