"""Pictures by number: the endless stream of training samples, and the fixed order of validation."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from scvae_fast.data.pictures import PictureError
from scvae_fast.data.square_crops import Crop, load_centre, load_square
from scvae_fast.data.unreadable import UnreadableFiles
from scvae_fast.errors import UsageError

# What randomness depends on besides the seed and a number: the order of an epoch, or the crop of a sample.
_ORDER, _SAMPLE = 0, 1


class Source(Protocol):
    """Picture files to choose from, for instance `Files`."""

    def __len__(self) -> int: ...

    def source(self, index: int) -> Path: ...


def sample_dice(seed: int, number: int) -> np.random.Generator:
    """The random generator of one sample of a stream."""
    return np.random.default_rng((seed, _SAMPLE, number))


class TrainingPictures(Dataset[Tensor]):
    """An endless stream of numbered samples (3, resolution, resolution) in −1 … 1, from N pictures.

    Sample s depends only on the seed and on s: it belongs to epoch s // N, which has its own permutation, and its crop
    is drawn from (seed, s). So training can resume at any sample. A picture that can't be read is replaced by the next
    readable one in the order.

    Args:
        pictures: N pictures.
        crop: the part of a picture that becomes the sample.
        seed: for everything random; not negative.
        broken: counts the pictures that can't be read.

    Example:
        >>> import torch
        >>> from scvae_fast.data import PlacedCrop, TrainingPictures, UnreadableFiles, list_folder, save_picture
        >>> save_picture("folder/a.png", torch.rand(3, 80, 100))
        >>> samples = TrainingPictures(list_folder("folder"), PlacedCrop(64), seed=0, broken=UnreadableFiles(0))
        >>> samples[1000].shape
        torch.Size([3, 64, 64])
    """

    def __init__(self, pictures: Source, crop: Crop, *, seed: int, broken: UnreadableFiles) -> None:
        self.pictures, self.crop, self.seed, self.broken = pictures, crop, seed, broken
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """N, the number of samples in an epoch."""
        return len(self.pictures)

    def __getitem__(self, number: int) -> Tensor:  # -> (3, resolution, resolution)
        if number < 0:
            raise IndexError(f"TrainingPictures: number must not be negative, got {number}")
        epoch, position = divmod(number, len(self))
        order = self.order(epoch)

        def read(position: int) -> Tensor:
            path = self.pictures.source(int(order[position]))
            return load_square(path, str(path), self.crop, sample_dice(self.seed, number))

        return _first_readable(read, position, len(self), self.broken)

    def order(self, epoch: int) -> np.ndarray:  # -> (N,)
        """The order of the pictures in an epoch."""
        if epoch not in self._orders:
            # A batch may need the end of one epoch and the beginning of the next.
            self._orders = {other: order for other, order in self._orders.items() if other == epoch - 1}
            self._orders[epoch] = np.random.default_rng((self.seed, _ORDER, epoch)).permutation(len(self))
        return self._orders[epoch]


class FixedPictures(Dataset[Tensor]):
    """The middle squares (3, resolution, resolution) in −1 … 1 of pictures, in order.

    A picture that can't be read is replaced by the next readable one, so that batches keep their size.

    Args:
        pictures: the pictures.
        resolution: to which the shorter side is resized.
        broken: counts the pictures that can't be read.

    Example:
        >>> import torch
        >>> from scvae_fast.data import FixedPictures, UnreadableFiles, list_folder, save_picture
        >>> save_picture("folder/a.png", torch.rand(3, 80, 100))
        >>> FixedPictures(list_folder("folder"), 64, broken=UnreadableFiles(0))[0].shape
        torch.Size([3, 64, 64])
    """

    def __init__(self, pictures: Source, resolution: int, *, broken: UnreadableFiles) -> None:
        self.pictures, self.resolution, self.broken = pictures, resolution, broken

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:  # -> (3, resolution, resolution)
        if not 0 <= index < len(self):
            raise IndexError(f"FixedPictures: index must be in 0 … {len(self) - 1}, got {index}")

        def read(index: int) -> Tensor:
            path = self.pictures.source(index)
            return load_centre(path, str(path), self.resolution)

        return _first_readable(read, index, len(self), self.broken)


def _first_readable(read: Callable[[int], Tensor], first: int, count: int, broken: UnreadableFiles) -> Tensor:
    """Read `first`, or the next readable one of `count` in cyclic order."""
    for step in range(count):
        try:
            return read((first + step) % count)
        except PictureError as error:
            broken.add(error)
    raise UsageError(f"none of the {count} pictures can be read")
