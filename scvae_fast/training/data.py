"""Lightning data modules: FFHQ, ImageNet, a folder of pictures, tar shards, the embedded photographs.

The training data is an endless stream of numbered samples. In each step, W processes with batches of B take the next
B·W samples. So, for the same B·W, results depend neither on W nor on the number of worker processes (except with tar
shards). A checkpoint stores only the number of samples seen, and training resumed within an epoch sees exactly the
batches that it would have seen. Build the trainer with `use_distributed_sampler=False`: the modules divide the
samples themselves.
"""

import hashlib
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scvae_fast.data.crops import CropSettings, RandomCrops
from scvae_fast.data.files import Files, list_ffhq, list_folder, list_imagenet
from scvae_fast.data.loading import FixedBatches, StreamBatches, picture_loader
from scvae_fast.data.photographs import Credit, held_out_photographs, photograph_credits, training_photographs
from scvae_fast.data.sampling import FixedPictures, TrainingPictures
from scvae_fast.data.square_crops import Crop, PlacedCrop, ZoomedCrop, centre_square
from scvae_fast.data.unreadable import UnreadableFiles
from scvae_fast.errors import UsageError
from scvae_fast.training.progress import batches_seen

# As in the released code. "zoomed", for FFHQ: a random square with 75 … 100 % of the area of the largest one, resized.
# "placed", for ImageNet: a random square, after the shorter side is resized to the resolution.
CropKind = Literal["zoomed", "placed"]

# More worker processes than this seldom help one GPU.
_MOST_WORKERS = 8


class Found(NamedTuple):
    """The data of a module: training pictures, number of samples per epoch, and validation pictures, if any.

    `training` returns the training pictures for a given number of worker processes.

    Example:
        >>> from scvae_fast.training.data import Photographs
        >>> Photographs(resolution=32, samples=100).find().epoch
        100
    """

    training: Callable[[int], Dataset[Tensor]]
    epoch: int
    validation: Dataset[Tensor] | None


class PictureData(LightningDataModule, ABC):
    """Base class of the data modules, which yield batches (B, 3, resolution, resolution) in −1 … 1.

    Training batches are endless; validation has a fixed order. A file that can't be read is named on stderr and
    replaced by the next readable one.

    Args:
        resolution: height and width of the samples.
        batch_size: per process.
        num_workers: processes that decode pictures, per training process; by default its share of the processors, at
            most 8, or 0 if the system has no semaphores.
        seed: for the order and the crops.
        most_broken: number of files that may be unreadable; one more ends the training with an error.

    Example:
        >>> from scvae_fast.training.data import Photographs
        >>> data = Photographs(resolution=32, batch_size=4)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader())).shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self,
        resolution: int = 256,
        batch_size: int = 8,
        num_workers: int | None = None,
        seed: int = 0,
        most_broken: int = 100,
    ) -> None:
        super().__init__()
        lowest = {"resolution": 1, "batch_size": 1, "num_workers": 0, "seed": 0, "most_broken": 0}
        given = (resolution, batch_size, num_workers or 0, seed, most_broken)
        for (name, least), value in zip(lowest.items(), given, strict=True):
            if value < least:
                raise ValueError(f"{type(self).__name__}: {name} must be at least {least}, got {value}")
        self.resolution, self.batch_size, self.num_workers, self.seed = resolution, batch_size, num_workers, seed
        self.broken = UnreadableFiles(most_broken)
        self._before = {"samples": 0, "batches": 0}
        self._found: Found | None = None

    def setup(self, stage: str | None = None) -> None:
        """Find the pictures.

        Raises:
            UsageError: there are no pictures, or this system can't run the requested workers.
        """
        self._workers()
        if self._pictures().validation is None:
            # Lightning skips validation if the hook is not overridden; it would warn of an empty loader.
            self.val_dataloader = super().val_dataloader  # type: ignore[method-assign]
        if stage == "fit":
            self._before = {"samples": 0, "batches": 0}  # Lightning loads a checkpoint after this

    @abstractmethod
    def find(self) -> Found:
        """Find the pictures; each module implements this.

        Raises:
            UsageError: there are no pictures.
        """

    def searched_folders(self) -> list[str]:
        """Folders in which every picture, at any depth, belongs to the data."""
        return []

    def credits(self) -> dict[str, Credit]:
        """Author and licence of the pictures, by name, as far as the module knows them."""
        return {}

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Endless batches, starting with the first sample not seen yet; `len` is the number of batches in an epoch."""
        found, workers = self._pictures(), self._workers()
        batches = StreamBatches(found.epoch, self.batch_size, first=self._samples, **self._process())
        return picture_loader(found.training(workers), batches, num_workers=workers)

    def val_dataloader(self) -> DataLoader[Tensor] | list[DataLoader[Tensor]]:
        """Batches with each picture once, in equal numbers per process; an empty list if there are no pictures."""
        pictures = self._pictures().validation
        if pictures is None:
            return []
        count: int = len(pictures)  # type: ignore[arg-type]
        batches = FixedBatches(count, self.batch_size, **self._process())
        if not len(batches):
            processes = self._process()["world_size"]
            raise UsageError(f"{count} validation pictures are too few for {processes} processes")
        return picture_loader(pictures, batches, num_workers=self._workers())

    def first_samples(self, count: int) -> Tensor:  # -> (count, 3, resolution, resolution)
        """The first samples of training, the same in every process; for shards, the first ones of this process."""
        pictures = self._pictures().training(0)
        if isinstance(pictures, RandomCrops | TrainingPictures):
            return torch.stack([pictures[number] for number in range(count)])
        batches = itertools.islice(self.train_dataloader(), -(-count // self.batch_size))
        return torch.cat(list(batches))[:count]

    def first_validated(self, count: int) -> Tensor | None:  # -> (count, 3, resolution, resolution)
        """The first validation pictures, fewer than `count` if there are fewer; None if there are none."""
        pictures = self._pictures().validation
        if pictures is None:
            return None
        batches = FixedBatches(min(count, len(pictures)), count)  # type: ignore[arg-type]
        return next(iter(picture_loader(pictures, batches)))

    def state_dict(self) -> dict[str, Any]:
        """The number of samples that all processes have seen, and Lightning's count of batches at that point."""
        return {"samples": self._samples(), "batches": self._batches_done()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state; batch size and number of processes may have changed."""
        self._before = {name: int(state_dict[name]) for name in ("samples", "batches")}

    def _pictures(self) -> Found:
        if self._found is None:
            self._found = self.find()
        return self._found

    def _samples(self) -> int:
        since = self._batches_done() - self._before["batches"]
        return self._before["samples"] + since * self.batch_size * self._process()["world_size"]

    def _batches_done(self) -> int:
        return 0 if self.trainer is None else batches_seen(self.trainer)

    def _process(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def _workers(self) -> int:
        if not self.broken.is_shared:
            if self.num_workers:
                reason = "this system has no semaphores, which worker processes need"
                raise UsageError(f"{type(self).__name__}: num_workers must be 0, got {self.num_workers}: {reason}")
            return 0
        if self.num_workers is not None:
            return self.num_workers
        here = 1 if self.trainer is None else self.trainer.num_devices
        # Only the processors that this process may use, if the system can tell.
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(_MOST_WORKERS, count // here))


class _FileData(PictureData):
    """Pictures in files."""

    def _files(self, training: Files, validation: Files | None, crop: CropKind) -> Found:
        pictures = TrainingPictures(training, _crop(crop, self.resolution), seed=self.seed, broken=self.broken)
        held_out = None if validation is None else FixedPictures(validation, self.resolution, broken=self.broken)
        return Found(lambda workers: pictures, len(training), held_out)


class FFHQ(_FileData):
    """FFHQ: 60,000 training pictures and 10,000 validation pictures, divided by their numbers.

    Training crops are random squares with 75 … 100 % of a picture's area, mirrored at random.

    Args:
        root: the folder with 00000.png … 69999.png, directly or in folders of a thousand, or one that contains
            images1024x1024 or thumbnails128x128.
        others: see `PictureData`.

    Example:
        >>> from scvae_fast.training.data import FFHQ
        >>> FFHQ("data/ffhq", resolution=256, batch_size=16).batch_size
        16
    """

    def __init__(self, root: str, **others: Any) -> None:
        super().__init__(**others)
        self.root = root

    def find(self) -> Found:
        """See `PictureData`."""
        return self._files(list_ffhq(self.root, "train"), list_ffhq(self.root, "val"), "zoomed")


class ImageNet(_FileData):
    """ImageNet, in folders train/CLASS/ and val/CLASS/.

    Training crops are random squares as wide as the shorter side, mirrored at random.

    Args:
        root: the folder that contains train/ and val/.
        others: see `PictureData`.

    Example:
        >>> from scvae_fast.training.data import ImageNet
        >>> ImageNet("data/imagenet", batch_size=16).batch_size
        16
    """

    def __init__(self, root: str, **others: Any) -> None:
        super().__init__(**others)
        self.root = root

    def find(self) -> Found:
        """See `PictureData`."""
        return self._files(list_imagenet(self.root, "train"), list_imagenet(self.root, "val"), "placed")


class PictureFolder(_FileData):
    """Any folder of pictures of any sizes.

    Args:
        root: the folder.
        val_root: folder of validation pictures; without one, a share of `root` is held out for validation.
        held_out: that share; which pictures are held out depends only on their names.
        recursive: whether to include subfolders.
        crop: "zoomed" (a random square with 75 … 100 % of the area of the largest one) or "placed" (one as wide as the
            shorter side).
        others: see `PictureData`.

    Example:
        >>> from scvae_fast.training.data import PictureFolder
        >>> PictureFolder("pictures", held_out=0.1, resolution=64).resolution
        64
    """

    def __init__(
        self,
        root: str,
        val_root: str | None = None,
        held_out: float = 0.05,
        recursive: bool = True,
        crop: CropKind = "zoomed",
        **others: Any,
    ) -> None:
        super().__init__(**others)
        if not 0 <= held_out < 1:
            raise ValueError(f"PictureFolder: held_out must be at least 0 and below 1, got {held_out}")
        self.root, self.val_root, self.held_out, self.recursive, self.crop = root, val_root, held_out, recursive, crop

    def searched_folders(self) -> list[str]:
        """See `PictureData`."""
        folders = [self.root] if self.val_root is None else [self.root, self.val_root]
        return folders if self.recursive else []

    def find(self) -> Found:
        """See `PictureData`."""
        files = list_folder(self.root, recursive=self.recursive)
        if self.val_root is not None:
            return self._files(files, list_folder(self.val_root, recursive=self.recursive), self.crop)
        if not self.held_out:
            return self._files(files, None, self.crop)
        count = max(1, round(self.held_out * len(files)))
        if count == len(files):
            raise UsageError(f"{self.root}: no pictures to train on, if {count} of {len(files)} are held out")
        digests = [hashlib.blake2b(name).digest() for name in files.names]
        chosen = np.zeros(len(files), dtype=bool)
        chosen[sorted(range(len(files)), key=digests.__getitem__)[:count]] = True
        return self._files(files.subset(~chosen), files.subset(chosen), self.crop)


class Shards(PictureData):
    """Pictures in WebDataset's tar shards, for data sets that don't fit on one machine.

    Every worker process reads shards from front to back, so the order depends on the number of worker processes, the
    number of training processes, and the batch size. A training resumed with the same values of all three sees exactly
    the batches that it would have seen; resuming reads the earlier pictures of the epoch again, without decoding them.

    Args:
        train: training shards: a pattern "data/train-{000..127}.tar", a command "pipe:…", a folder, or a list of these.
        val: validation shards. Every worker process reads all of them.
        samples: pictures per epoch; counted from the headers of local tar files, required for pipes.
        val_samples: pictures in `val`, like `samples`.
        crop: see `PictureFolder`.
        buffer: number of encoded pictures that a worker process shuffles together.
        others: see `PictureData`.

    Example:
        >>> from scvae_fast.training.data import Shards
        >>> Shards("shards/{000..127}.tar", samples=100_000, resolution=256).resolution
        256
    """

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        samples: int | None = None,
        val_samples: int | None = None,
        crop: CropKind = "zoomed",
        buffer: int = 500,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        for name, value in (("samples", samples), ("val_samples", val_samples), ("buffer", buffer)):
            if value is not None and value < 1:
                raise ValueError(f"Shards: {name} must be at least 1, got {value}")
        self.train_shards, self.val_shards, self.samples, self.val_samples = train, val, samples, val_samples
        self.crop, self.buffer = crop, buffer

    def find(self) -> Found:
        """See `PictureData`."""
        from scvae_fast.data.shards import ShardsInOrder  # needs webdataset

        training, samples = _counted("train", self.train_shards, "samples", self.samples)
        if self.val_shards is None:
            return Found(partial(self._stream, training, samples), samples, None)
        validation, count = _counted("val", self.val_shards, "val_samples", self.val_samples)
        held_out = ShardsInOrder(validation, self.resolution, samples=count, broken=self.broken)
        return Found(partial(self._stream, training, samples), samples, held_out)

    def _stream(self, urls: list[str], samples: int, workers: int) -> Dataset[Tensor]:
        from scvae_fast.data.shards import ShardPictures

        return ShardPictures(
            urls,
            _crop(self.crop, self.resolution),
            samples=samples,
            seed=self.seed,
            broken=self.broken,
            batch_size=self.batch_size,
            streams=max(1, workers),
            buffer=self.buffer,
            **self._process(),
        )


class Photographs(PictureData):
    """The photographs in scikit-image and scikit-learn: strongly augmented random crops of nineteen of them.

    Validation uses the other two, cut into squares.

    Args:
        crops: how training crops are drawn and changed; their size is `resolution`.
        samples: crops in an epoch.
        num_workers: see `PictureData`; 0 by default, because a crop takes little time.
        others: see `PictureData`.

    Example:
        >>> from scvae_fast.training.data import Photographs
        >>> data = Photographs(resolution=64, samples=200)
        >>> data.setup("fit")
        >>> next(iter(data.val_dataloader())).shape[1:]
        torch.Size([3, 64, 64])
    """

    def __init__(
        self, crops: CropSettings | None = None, samples: int = 1000, num_workers: int | None = 0, **others: Any
    ) -> None:
        super().__init__(num_workers=num_workers, **others)
        if samples < 1:
            raise ValueError(f"Photographs: samples must be at least 1, got {samples}")
        self.crops, self.samples = replace(crops or CropSettings(), size=self.resolution), samples

    def find(self) -> Found:
        """See `PictureData`."""
        crops = RandomCrops(training_photographs(), self.crops, seed=self.seed)
        squares = [part for held_out in held_out_photographs() for part in _grid(held_out.picture, self.resolution)]
        return Found(lambda workers: crops, self.samples, _InMemory(squares))

    def credits(self) -> dict[str, Credit]:
        """See `PictureData`."""
        return photograph_credits()


class _InMemory(Dataset[Tensor]):
    def __init__(self, pictures: list[Tensor]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.pictures[index]


def _crop(kind: CropKind, resolution: int) -> Crop:
    return ZoomedCrop(resolution) if kind == "zoomed" else PlacedCrop(resolution)


def _counted(name: str, shards: str | list[str], argument: str, samples: int | None) -> tuple[list[str], int]:
    from scvae_fast.data.shards import count_pictures, expand_shards

    urls = expand_shards(shards)
    if samples is None:
        samples = count_pictures(urls)
    if samples is None:
        raise UsageError(f"Shards: {argument} must give the number of pictures in {name}: pipes can't be counted")
    if not samples:
        raise UsageError(f"Shards: no pictures in {name} = {shards}")
    return urls, samples


def _grid(picture: Tensor, side: int) -> list[Tensor]:  # (3, H, W) -> (3, side, side) each
    """As many adjacent squares as fit, centred; if none fits, the middle square of the resized picture."""
    height, width = picture.shape[1:]
    if min(height, width) < side:
        return [centre_square(picture, side)]
    tops = range(height % side // 2, height - side + 1, side)
    lefts = range(width % side // 2, width - side + 1, side)
    return [picture[:, top : top + side, left : left + side].clone() for top in tops for left in lefts]
