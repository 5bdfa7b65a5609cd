"""Square crops of pictures, resized, as in SC-VAE's released code for training and evaluation."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from scvae_fast.data.pictures import OpenPicture, to_tensor

# A JPEG may be decoded at a fraction of its size if this factor of the wanted pixels remains in each direction: the
# antialiased resizing that follows then hides the decoder's shrinking.
_SPARE = 2.0


class Square(NamedTuple):
    """A part of a picture, in pixels; only nearly square, because resizing rounds the longer side of a picture."""

    left: float
    top: float
    width: float
    height: float
    mirrored: bool = False


class Crop(Protocol):
    """Draws the part of a picture that becomes a sample of `resolution` x `resolution` pixels."""

    @property
    def resolution(self) -> int: ...

    def square(self, size: tuple[int, int], dice: np.random.Generator) -> Square:
        """A part of a picture of `size` (width, height)."""


@dataclass(frozen=True)
class ZoomedCrop:
    """A random square of `least` … 1 times the area of the largest one, mirrored at random.

    On square pictures this equals torchvision's RandomResizedCrop(resolution, scale=(least, 1), ratio=(1, 1)), which
    the released code uses to train on FFHQ.

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
    """A square at a random place after resizing the shorter side to the resolution, mirrored at random.

    Torchvision's Resize(resolution) and RandomCrop(resolution), which the released code uses to train on ImageNet.

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
    """Read a picture and crop a square from it, resized with antialiasing.

    Args:
        source: a file, or its bytes.
        name: for errors.
        crop: which part to take.
        dice: random generator of the crop.

    Returns:
        (3, resolution, resolution), float32 in −1 … 1.

    Raises:
        PictureError: it is not a picture, damaged, or cut short.
    """
    with OpenPicture(source, name) as picture:
        square = crop.square(picture.size, dice)
        image = picture.decode(min(square.width, square.height) / (_SPARE * crop.resolution))
        return to_tensor(_cut(image, picture.size, square, crop.resolution))


def load_centre(source: Path | bytes, name: str, resolution: int) -> Tensor:
    """Like `load_square`, for the middle square after resizing the shorter side to the resolution; not random.

    Torchvision's Resize(resolution) and CenterCrop(resolution), which the released code uses for evaluation.
    """
    with OpenPicture(source, name) as picture:
        resized, left, top = _centre(picture.size, resolution)
        square = _before_resizing(picture.size, resized, resolution, left, top)
        return to_tensor(_cut(picture.decode(), picture.size, square, resolution))


def centre_square(picture: Tensor, resolution: int) -> Tensor:  # (3, H, W) -> (3, resolution, resolution)
    """Like `load_centre`, for a picture in memory."""
    (width, height), left, top = _centre((picture.shape[2], picture.shape[1]), resolution)
    if (height, width) != picture.shape[1:]:
        picture = F.interpolate(picture[None], (height, width), mode="bilinear", antialias=True)[0]
    return picture[:, top : top + resolution, left : left + resolution].clamp(-1, 1).contiguous()


def _cut(image: Image.Image, size: tuple[int, int], square: Square, resolution: int) -> Image.Image:
    across, down = image.width / size[0], image.height / size[1]  # below 1 if the decoder shrank it
    box = (
        square.left * across,
        square.top * down,
        min((square.left + square.width) * across, image.width),
        min((square.top + square.height) * down, image.height),
    )
    cut = image.resize((resolution, resolution), Image.Resampling.BILINEAR, box=box)
    return ImageOps.mirror(cut) if square.mirrored else cut


def _resized(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Width and height after resizing the shorter one, rounded as torchvision does."""
    width, height = size
    least = min(size)
    return int(shorter * width / least), int(shorter * height / least)


def _before_resizing(
    size: tuple[int, int], resized: tuple[int, int], resolution: int, left: float, top: float
) -> Square:
    across, down = size[0] / resized[0], size[1] / resized[1]
    return Square(left * across, top * down, resolution * across, resolution * down)


def _centre(size: tuple[int, int], resolution: int) -> tuple[tuple[int, int], int, int]:
    """Width and height after resizing, and left and top of the middle square in that."""
    width, height = _resized(size, resolution)
    return (width, height), round((width - resolution) / 2), round((height - resolution) / 2)
