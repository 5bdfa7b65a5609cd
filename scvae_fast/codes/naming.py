"""Files for pictures by their names, the same whichever process writes which of them."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np


class Targets:
    """A path for each of many pictures, none of them twice.

    The first picture whose name leads to a path gets it, a later one `name-2.png`, `name-3.png` …, the first that no
    picture's name leads to. In memory are eight bytes a picture, and the paths that several names lead to.

    Args:
        names: starts over: the names of all pictures in their order.
        target: from a name to its path.
    """

    def __init__(self, names: Callable[[], Iterable[str]], target: Callable[[str], Path]) -> None:
        self._target = target
        digests = np.fromiter((_digest(target(name)) for name in names()), np.uint64)
        digests.sort()
        self._wanted, self._several = digests, np.unique(digests[1:][digests[1:] == digests[:-1]])
        self._given: dict[Path, int] = {}
        self._taken: set[Path] = set()

    def __call__(self, name: str) -> Path:
        """The path of the next picture; to be called for all of them in their order."""
        path = self._target(name)
        if not _among(self._several, _digest(path)):
            return path
        n = self._given.get(path, 0) + 1
        candidate = path
        while n > 1:
            candidate = path.with_name(f"{path.stem}-{n}{path.suffix}")
            if candidate not in self._taken and not _among(self._wanted, _digest(candidate)):
                break
            n += 1
        self._given[path] = n
        self._taken.add(candidate)
        return candidate


def _digest(path: Path) -> int:
    return int.from_bytes(hashlib.blake2b(str(path).encode(errors="surrogateescape"), digest_size=8).digest(), "little")


def _among(ordered: np.ndarray, digest: int) -> bool:
    place = int(np.searchsorted(ordered, np.uint64(digest)))
    return place < len(ordered) and int(ordered[place]) == digest
