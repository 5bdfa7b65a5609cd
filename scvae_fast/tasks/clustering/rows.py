"""Rows of a matrix in pieces, dense or sparse, as clustering reads them again and again."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, get_args

import numpy as np

from scvae_fast._extras import extra
from scvae_fast._shares import Processes
from scvae_fast.codes import SparseCodes
from scvae_fast.codes.coding import check_finite
from scvae_fast.codes.storage import CodeFile

with extra("scvae_fast.tasks.clustering", "scikit-learn"):
    from scipy import sparse
    from sklearn.preprocessing import normalize

# What becomes of a row x before it is compared: x itself, x / ‖x‖, or |x| / ‖x‖. A row of zeros stays one.
RowScale = Literal["none", "unit", "magnitude"]

# Pieces of a pass: small pictures are put together until there are so many rows.
ROWS_AT_ONCE = 2**14

# Starts over each time that it is called: pieces (M, d), as arrays or scipy.sparse matrices in CSR form.
Pieces = Callable[[], Iterable[Any]]


def scaled(rows: Any, scale: RowScale) -> Any:  # (M, d) -> (M, d), of the same kind
    """Rows as they are compared.

    Raises:
        ValueError: scale is none of `RowScale`.

    Example:
        >>> import numpy as np
        >>> from scvae_fast.tasks.clustering import scaled
        >>> scaled(np.array([[3.0, -4.0]]), "magnitude")
        array([[0.6, 0.8]])
    """
    if scale not in get_args(RowScale):
        raise ValueError(f"scaled: scale must be one of {get_args(RowScale)}, got {scale!r}")
    if scale == "none":
        return rows
    return normalize(abs(rows) if scale == "magnitude" else rows)


def stacked(parts: list[Any]) -> Any:
    """Matrices below each other."""
    return sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)


def dense(rows: Any) -> np.ndarray:
    """An array, of either kind of matrix."""
    return rows.toarray() if sparse.issparse(rows) else rows


class CodePieces:
    """The codes of a file as pieces of about `ROWS_AT_ONCE` rows, in the file's order.

    A call starts over, and raises UsageError at codes that are not finite; it names their picture.
    """

    def __init__(self, file: CodeFile) -> None:
        self._file = file

    def __call__(self) -> Iterator[Any]:
        waiting: list[SparseCodes] = []
        for coded in self._file:
            check_finite(coded.name, coded.codes)
            waiting.append(coded.codes)
            if sum(len(codes.counts) for codes in waiting) >= ROWS_AT_ONCE:
                yield stacked([codes.csr() for codes in waiting])
                waiting = []
        if waiting:
            yield stacked([codes.csr() for codes in waiting])


class SharedPieces:
    """Pieces of rows that several processes hold together, each its own, neighbours in the order of the processes.

    Args:
        pieces: of this process, see `Pieces`.
        processes: all call the same functions with theirs.
        count: how many rows this process has; by default they are counted.
    """

    def __init__(self, pieces: Pieces, processes: Processes | None = None, count: int | None = None) -> None:
        self._pieces, self.processes = pieces, processes or Processes()
        self.first = 0  # the number of this process's first row
        if not self.processes.alone:
            count = sum(piece.shape[0] for piece in pieces()) if count is None else count
            self.first = sum(self.processes.gather(count)[: self.processes.share.part - 1])

    def __call__(self) -> Iterable[Any]:
        return self._pieces()

    def dice(self, seed: int) -> np.random.Generator:
        """What gives a random number for each row in its order, the same whichever process has the row."""
        bits = np.random.PCG64(seed)
        bits.advance(self.first)
        return np.random.Generator(bits)


def shared(pieces: Pieces) -> SharedPieces:
    """The same, with the processes that they belong to; without any, those of one process."""
    return pieces if isinstance(pieces, SharedPieces) else SharedPieces(pieces)
