"""File names for pictures, independent of which process writes which picture."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np


class Targets:
    """A path for each of many pictures, all different.

    The first picture whose name leads to a path gets it. Later ones get the first of `name-2.png`, `name-3.png` … to
    which no picture's name leads. Memory holds eight bytes per picture and the paths that several names share.

    Args:
        names: returns a new iterator over the names of all pictures, in order.
        target: turns a name into its path.
    """

    def __init__(self, names: Callable[[], Iterable[str]], target: Callable[[str], Path]) -> None:
        self._target = target
        digests = np.fromiter((_digest(target(name)) for name in names()), np.uint64)
        digests.sort()
        self._wanted, self._several = digests, np.unique(digests[1:][digests[1:] == digests[:-1]])
        self._given: dict[str, int] = {}

    def __call__(self, name: str) -> Path:
        """The path of the next picture; must be called for all pictures in order."""
        path = self._target(name)
        if not _among(self._several, _digest(path)):
            return path
        n = self._given.get(_folded(path), 0) + 1
        candidate = path
        while n > 1:
            candidate = path.with_name(f"{path.stem}-{n}{path.suffix}")
            if not _among(self._wanted, _digest(candidate)):
                break
            n += 1
        self._given[_folded(path)] = n
        return candidate


def _folded(path: Path) -> str:
    return str(path).casefold()  # some file systems ignore case


def _digest(path: Path) -> int:
    encoded = _folded(path).encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def _among(ordered: np.ndarray, digest: int) -> bool:
    place = int(np.searchsorted(ordered, np.uint64(digest)))
    return place < len(ordered) and int(ordered[place]) == digest
