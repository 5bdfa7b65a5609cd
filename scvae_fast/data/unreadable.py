"""Files that can't be read: each is named once, and all worker processes share the count."""

import hashlib
import multiprocessing
import os
import sys
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np

from scvae_fast.data.pictures import PictureError
from scvae_fast.errors import UsageError


class UnreadableFiles:
    """Names unreadable files on stderr, and raises an error if there are too many.

    Worker processes of a data loader that got the same object share the count; each process of a distributed training
    run has its own.

    Args:
        most: number of files that may be broken.

    Example:
        >>> from scvae_fast.data import PictureError, UnreadableFiles
        >>> UnreadableFiles(most=1).add(PictureError("a.png", "it is cut short"))
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._shared: Any = None
        self._alone = np.zeros(most + 1, dtype=np.uint64)
        # Some containers lack semaphores; there, worker processes can't run, so no sharing is needed.
        with suppress(OSError, ImportError):
            # What the spawn context makes can be passed to spawned and forked workers.
            self._shared = multiprocessing.get_context("spawn").Array("Q", most + 1)

    @property
    def is_shared(self) -> bool:
        """Whether worker processes share the count; always so where they can run at all."""
        return self._shared is not None

    def __len__(self) -> int:
        return int(np.count_nonzero(self._view()))

    def add(self, error: PictureError) -> None:
        """Record that a file can't be read; the error has its name and the reason.

        Raises:
            UsageError: it is one file too many.
        """
        digest = np.frombuffer(hashlib.blake2b(os.fsencode(error.name), digest_size=8).digest(), dtype=np.uint64)[0]
        with nullcontext() if self._shared is None else self._shared.get_lock():
            digests, count = self._view(), len(self)
            if count <= self.most and digest not in digests:
                digests[count] = digest
                count += 1
                print(f"skipped: {error}", file=sys.stderr, flush=True)
        if count > self.most:
            raise too_many(self.most, error)

    def _view(self) -> np.ndarray:
        if self._shared is None:
            return self._alone
        return np.frombuffer(memoryview(self._shared.get_obj()), dtype=np.uint64)


def too_many(most: int, last: PictureError | str) -> UsageError:
    """The error for one broken file more than allowed."""
    return UsageError(f"more files can't be read than most_broken = {most} allows, the last: {last}")
