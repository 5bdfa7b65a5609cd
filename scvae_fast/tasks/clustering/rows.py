"""Rows of a matrix in pieces, dense or sparse, for algorithms that read them repeatedly."""

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

# How a row x is scaled before comparison: x itself, x / ‖x‖, or |x| / ‖x‖. A row of zeros stays zero.
RowScale = Literal["none", "unit", "magnitude"]

# Small pictures are joined to pieces of at least this many rows.
ROWS_AT_ONCE = 2**14

# Returns a new iterator on each call: pieces (M, d), as arrays or scipy.sparse matrices in CSR form.
Pieces = Callable[[], Iterable[Any]]


def scaled(rows: Any, scale: RowScale) -> Any:  # (M, d) -> (M, d), of the same kind
    """Rows in the scale in which they are compared.

    Raises:
        ValueError: scale is not one of `RowScale`.

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
    """Matrices stacked vertically."""
    return sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)


def dense(rows: Any) -> np.ndarray:
    """A dense array, from either kind of matrix."""
    return rows.toarray() if sparse.issparse(rows) else rows


class CodePieces:
    """The codes of a file as pieces of about `ROWS_AT_ONCE` rows, in the file's order.

    Each call starts again, and raises UsageError if codes are not finite; the message names their picture.
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
    """Pieces of rows that are distributed over several processes, consecutive in the order of the processes.

    Args:
        pieces: of this process, see `Pieces`.
        processes: all of them must call the same functions.
        count: number of rows of this process; counted if not given.
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
        """A generator of one random number per row, in order; the numbers don't depend on which process has a row."""
        bits = np.random.PCG64(seed)
        bits.advance(self.first)
        return np.random.Generator(bits)


def shared(pieces: Pieces) -> SharedPieces:
    """The pieces as `SharedPieces`; ordinary pieces belong to a single process."""
    return pieces if isinstance(pieces, SharedPieces) else SharedPieces(pieces)
