"""Squares cut from pictures and resized, as the released code of SC-VAE does for training and for evaluation."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from scvae_fast.data.pictures import OpenPicture, to_tensor

# A JPEG may be decoded at a fraction of its size, if so many times the pixels that are wanted remain each way: the
# antialiased resizing that follows then hides how the decoder shrinks.
_SPARE = 2.0


class Square(NamedTuple):
    """A part of a picture, in its pixels; nearly a square: resizing rounds the longer side of a picture."""

    left: float
    top: float
    width: float
    height: float
    mirrored: bool = False


class Crop(Protocol):
    """Draws the part of a picture that becomes a sample, `resolution` pixels wide and high."""

    @property
    def resolution(self) -> int: ...

    def square(self, size: tuple[int, int], dice: np.random.Generator) -> Square:
        """The part of a picture of `size` (width, height)."""


@dataclass(frozen=True)
class ZoomedCrop:
    """A random square of `least` … 1 of the area of the largest, mirrored or not.

    On square pictures that is torchvision's RandomResizedCrop(resolution, scale=(least, 1), ratio=(1, 1)), with which
    the released code trains on FFHQ.

    Example:
        >>> from scvae_fast.data import ZoomedCrop
        >>> ZoomedCrop(64, least=0.5).least
        0.5
    """

    resolution: int
    least: float = 0.75

    def square(self, size: tuple[int, int], dice: np.random.Generator) -> Square:
        """See `Crop`."""
        side = max(1, round(min(size) * math.sqrt(dice.uniform(self.least, 1))))
        left, top = (int(dice.integers(length - side + 1)) for length in size)
        return Square(left, top, side, side, bool(dice.integers(2)))


@dataclass(frozen=True)
class PlacedCrop:
    """The shorter side is resized to the resolution, and a square at a random place is taken, mirrored or not.

    Torchvision's Resize(resolution) and RandomCrop(resolution), with which the released code trains on ImageNet.

    Example:
        >>> from scvae_fast.data import PlacedCrop
        >>> PlacedCrop(64).resolution
        64
    """

    resolution: int

    def square(self, size: tuple[int, int], dice: np.random.Generator) -> Square:
        """See `Crop`."""
        resized = _resized(size, self.resolution)
        left, top = (int(dice.integers(length - self.resolution + 1)) for length in resized)
        return _before_resizing(size, resized, self.resolution, left, top)._replace(mirrored=bool(dice.integers(2)))


def load_square(source: Path | bytes, name: str, crop: Crop, dice: np.random.Generator) -> Tensor:
    """Read a picture and cut a square from it, resized with antialiasing.

    Args:
        source: a file, or the bytes of one.
        name: what an error calls it.
        crop: which part of it.
        dice: of what is random about that.

    Returns:
        (3, resolution, resolution), float32 in −1 … 1.

    Raises:
        PictureError: it is no picture, damaged, or cut short.
    """
    with OpenPicture(source, name) as picture:
        square = crop.square(picture.size, dice)
        image = picture.decode(min(square.width, square.height) / (_SPARE * crop.resolution))
        return to_tensor(_cut(image, picture.size, square, crop.resolution))


def load_centre(source: Path | bytes, name: str, resolution: int) -> Tensor:
    """As `load_square` of the middle, after the shorter side was resized to the resolution; nothing is random.

    Torchvision's Resize(resolution) and CenterCrop(resolution), with which the released code evaluates.
    """
    with OpenPicture(source, name) as picture:
        resized, left, top = _centre(picture.size, resolution)
        square = _before_resizing(picture.size, resized, resolution, left, top)
        return to_tensor(_cut(picture.decode(), picture.size, square, resolution))


def centre_square(picture: Tensor, resolution: int) -> Tensor:  # (3, H, W) -> (3, resolution, resolution)
    """What `load_centre` does, of a picture that is in memory already."""
    (width, height), left, top = _centre((picture.shape[2], picture.shape[1]), resolution)
    if (height, width) != picture.shape[1:]:
        picture = F.interpolate(picture[None], (height, width), mode="bilinear", antialias=True)[0]
    return picture[:, top : top + resolution, left : left + resolution].clamp(-1, 1).contiguous()


def _cut(image: Image.Image, size: tuple[int, int], square: Square, resolution: int) -> Image.Image:
    across, down = image.width / size[0], image.height / size[1]  # below 1 where the decoder shrank it
    box = (
        square.left * across,
        square.top * down,
        min((square.left + square.width) * across, image.width),
        min((square.top + square.height) * down, image.height),
    )
    cut = image.resize((resolution, resolution), Image.Resampling.BILINEAR, box=box)
    return ImageOps.mirror(cut) if square.mirrored else cut


def _resized(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Width and height after the shorter one was resized, rounded as torchvision does."""
    width, height = size
    least = min(size)
    return int(shorter * width / least), int(shorter * height / least)


def _before_resizing(
    size: tuple[int, int], resized: tuple[int, int], resolution: int, left: float, top: float
) -> Square:
    across, down = size[0] / resized[0], size[1] / resized[1]
    return Square(left * across, top * down, resolution * across, resolution * down)


def _centre(size: tuple[int, int], resolution: int) -> tuple[tuple[int, int], int, int]:
    """Width and height after resizing, and left and top of the middle square then."""
    width, height = _resized(size, resolution)
    return (width, height), round((width - resolution) / 2), round((height - resolution) / 2)
