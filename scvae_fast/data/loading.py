"""Batches of sample numbers, and loaders with worker processes that decode the samples."""

import itertools
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from scvae_fast.errors import UsageError


class StreamBatches(Sampler[list[int]]):
    """Sample numbers in consecutive batches, without end, for one of several processes.

    Batch b of all W processes together holds samples first + b·B·W … first + (b + 1)·B·W − 1, of which process r takes
    every W-th, starting with the r-th. So W processes see the same samples as one process with batches of B·W.

    Args:
        epoch: samples in an epoch; the length is the number of batches in it, at least 1. Epochs need not start at a
            batch boundary.
        batch_size: B.
        rank: r.
        world_size: W.
        first: returns the first sample number, each time iteration starts.

    Example:
        >>> from itertools import islice
        >>> from scvae_fast.data import StreamBatches
        >>> list(islice(StreamBatches(100, batch_size=2, rank=1, world_size=2), 2))
        [[1, 3], [5, 7]]
    """

    def __init__(
        self, epoch: int, batch_size: int, *, rank: int = 0, world_size: int = 1, first: Callable[[], int] = lambda: 0
    ) -> None:
        self.batch_size, self.rank, self.world_size, self.first = batch_size, rank, world_size, first
        self.together = batch_size * world_size  # samples in a batch of all processes
        self._length = max(1, epoch // self.together)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        for begin in itertools.count(self.first(), self.together):
            yield list(range(begin + self.rank, begin + self.together, self.world_size))


class FixedBatches(Sampler[list[int]]):
    """Indices in batches, once and in order, for one of several processes.

    A single process gets all of `count`. Several processes get every W-th each; the last count mod W are left out.

    Args:
        count: number of indices.
        batch_size: per process; the last batch may be smaller.
        rank: number of the process.
        world_size: number of processes.

    Example:
        >>> from scvae_fast.data import FixedBatches
        >>> list(FixedBatches(5, batch_size=2))
        [[0, 1], [2, 3], [4]]
    """

    def __init__(self, count: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self._indices = range(rank, count // world_size * world_size, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for begin in range(0, len(self._indices), self.batch_size):
            yield list(self._indices[begin : begin + self.batch_size])


class PictureLoader(DataLoader[Tensor]):
    """A data loader that raises a worker's `UsageError` as it is, without the worker's traceback.

    Created by `picture_loader`.
    """

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        return map(_unwrap, super().__iter__())


class TrainingLoader(PictureLoader):
    """Endless batches; a new iteration at the current position continues the old one and keeps its prefetched batches.

    Lightning starts a new iteration at every epoch. `len` is the number of batches in an epoch.
    """

    _ahead: Iterator[Any] | None = None
    _next = 0

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        batches = self.batch_sampler
        assert isinstance(batches, StreamBatches)
        first = batches.first()
        # Shutting down the workers takes the iterator from the loader.
        stopped = self.num_workers > 0 and self._iterator is None
        if self._ahead is None or stopped or first != self._next:
            self._ahead, self._next = DataLoader.__iter__(self), first
        return self._batches(self._ahead, batches.together)

    def _batches(self, ahead: Iterator[Any], together: int) -> Iterator[Tensor]:
        for batch in ahead:
            self._next += together
            yield _unwrap(batch)

    def state_dict(self) -> dict[str, Any]:
        """Empty: the owner of the sample number keeps the position. The method tells Lightning that resuming works."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""


def picture_loader(
    pictures: Dataset[Tensor],
    batches: StreamBatches | FixedBatches,
    *,
    num_workers: int = 0,
    start_method: str | None = None,
) -> PictureLoader:
    """A loader of numbered pictures; a `TrainingLoader` for endless batches.

    Args:
        pictures: a data set that returns pictures (3, H, W) by number.
        batches: the numbers of each batch.
        num_workers: processes that decode; they are kept between epochs. With 0 this process decodes.
        start_method: how they are started; None is the system's default.

    Example:
        >>> from scvae_fast.data import CropSettings, FixedBatches, RandomCrops, held_out_photographs, picture_loader
        >>> crops = RandomCrops(held_out_photographs(), CropSettings(size=32), length=3)
        >>> [batch.shape for batch in picture_loader(crops, FixedBatches(3, batch_size=2))]
        [torch.Size([2, 3, 32, 32]), torch.Size([1, 3, 32, 32])]
    """
    kind = TrainingLoader if isinstance(batches, StreamBatches) else PictureLoader
    return kind(
        _Guarded(pictures),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_ctrl_c_to_the_main_process if num_workers else None,
        multiprocessing_context=start_method if num_workers else None,
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # otherwise each epoch would draw from the training's generator
    )


class _Failure(NamedTuple):
    """Replaces a batch."""

    message: str


class _Guarded(Dataset[Any]):
    """Wraps a data set: returns a failure if it raises a `UsageError`."""

    def __init__(self, pictures: Dataset[Tensor]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)  # type: ignore[arg-type]

    def __getitems__(self, numbers: list[int]) -> list[Tensor] | _Failure:
        try:
            if hasattr(self.pictures, "__getitems__"):
                return list(self.pictures.__getitems__(numbers))
            return [self.pictures[number] for number in numbers]
        except UsageError as error:
            return _Failure(str(error))


def _collate(batch: list[Tensor] | _Failure) -> Any:
    return batch if isinstance(batch, _Failure) else default_collate(batch)


def _unwrap(batch: Any) -> Tensor:
    if isinstance(batch, _Failure):
        raise UsageError(batch.message)
    assert isinstance(batch, Tensor)
    return batch


def _leave_ctrl_c_to_the_main_process(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
