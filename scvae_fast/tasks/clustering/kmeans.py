"""K-means over rows that need not fit into memory: scikit-learn's on a sample, then Lloyd's passes over all rows."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from scvae_fast._extras import extra
from scvae_fast.errors import UsageError
from scvae_fast.tasks.clustering.rows import (
    ROWS_AT_ONCE,
    Pieces,
    RowScale,
    SharedPieces,
    scaled,
    shared,
    stacked,
)

with extra("scvae_fast.tasks.clustering", "scikit-learn"):
    from scipy import sparse
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics.pairwise import euclidean_distances


# Goes through things that take long, and may show on the way how far it has come.
Progress = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class KMeansSettings:
    """How rows are clustered.

    Args:
        scale: of rows, see `RowScale`.
        seed: of the sample and of k-means++.
        starts: k-means++ starts, of which the best counts.
        sample: so many rows, drawn uniformly, are clustered by scikit-learn; all of them where there are no more.
        passes: most of Lloyd's iterations over all rows that follow, where the sample is not all of them.
        tolerance: they end when the mean square of the centres' steps is below this share of their own.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> from scvae_fast.tasks.clustering import KMeansSettings
        >>> KMeansSettings(scale="none", seed=1).scale
        'none'
    """

    scale: RowScale = "unit"
    seed: int = 0
    starts: int = 4
    sample: int = 2**16
    passes: int = 8
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("starts", 1), ("sample", 1), ("passes", 0), ("tolerance", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"KMeansSettings: {name} must be {least} or more, got {getattr(self, name)!r}")


@dataclass(frozen=True, eq=False)
class KMeansFit:
    """What K-means found, d features a row.

    Example:
        >>> import numpy as np
        >>> from scvae_fast.tasks.clustering import fit_kmeans
        >>> rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], dtype=np.float32)
        >>> (fit,) = fit_kmeans(lambda: [rows], [2])
        >>> sorted(fit.counts.tolist())
        [1, 2]
    """

    centres: np.ndarray  # (k, d) float32, of rows as they are compared
    means: np.ndarray  # (k, d) float32, of the rows as they are
    counts: np.ndarray  # (k,) int64
    inertia: float  # sum of the squared distances of all rows from their centres


class Assigned:
    """A piece of rows and the centres nearest to them."""

    def __init__(self, rows: Any, centres: np.ndarray, scale: RowScale) -> None:
        self.rows, self.compared = rows, scaled(rows, scale)
        distances = euclidean_distances(self.compared, centres, squared=True)  # (M, k)
        self.labels = distances.argmin(1)  # (M,)
        self.distances = distances[np.arange(len(distances)), self.labels]  # (M,), squared

    def sums(self, rows: Any, k: int) -> np.ndarray:  # -> (k, d)
        """Of rows of each cluster, float64."""
        members = sparse.csr_array(
            (np.ones(len(self.labels)), (self.labels, np.arange(len(self.labels)))), shape=(k, len(self.labels))
        )
        total = members @ rows
        return total.toarray() if sparse.issparse(total) else total


def assigned(pieces: Pieces, centres: np.ndarray, scale: RowScale) -> Iterator[Assigned]:
    """All rows with their centres, at most `ROWS_AT_ONCE` at a time."""
    for piece in pieces():
        for first in range(0, piece.shape[0], ROWS_AT_ONCE):
            yield Assigned(piece[first : first + ROWS_AT_ONCE], centres, scale)


def sample_rows(pieces: Pieces, size: int, seed: int) -> tuple[Any, int]:
    """Rows drawn uniformly without replacement, in their order, and how many there are; all of them if no more.

    Every row gets a random number, and those with the smallest stay. Of `SharedPieces` the first process gets the rows,
    the others None.

    Raises:
        UsageError: there are none.
    """
    pieces = shared(pieces)
    dice, processes = pieces.dice(seed), pieces.processes
    kept: list[tuple[np.ndarray, Any]] = []
    count = n_kept = 0
    for piece in pieces():
        count += piece.shape[0]
        n_kept += piece.shape[0]
        kept.append((dice.random(piece.shape[0]), piece))
        if n_kept >= 2 * size:
            kept, n_kept = [_smallest(kept, size)], size
    if kept:
        kept = [_smallest(kept, size)]
    total = sum(processes.gather(count))
    if not total:
        raise UsageError("there is nothing to cluster: no rows")
    if not processes.alone:
        # The rows that can't stay are not sent.
        numbers = np.concatenate(processes.gather(kept[0][0] if kept else np.empty(0)))
        last = np.partition(numbers, size - 1)[size - 1] if len(numbers) > size else np.inf
        own = [(numbers[numbers <= last], rows[numbers <= last]) for numbers, rows in kept]
        kept = [each for part in processes.gather_on_first(own) for each in part]
    return (_smallest(kept, size)[1] if processes.first else None), total


def _smallest(kept: list[tuple[np.ndarray, Any]], size: int) -> tuple[np.ndarray, Any]:
    numbers, rows = np.concatenate([each for each, _ in kept]), stacked([each for _, each in kept])
    if len(numbers) <= size:
        return numbers, rows
    chosen = np.sort(np.argpartition(numbers, size - 1)[:size])
    return numbers[chosen], rows[chosen]


def fit_kmeans(
    pieces: Pieces,
    clusters: Sequence[int],
    settings: KMeansSettings | None = None,
    *,
    progress: Progress = iter,
) -> list[KMeansFit]:
    """Cluster rows, once for each number of clusters.

    Memory is that of a sample and of a piece, however many rows there are. Rows that fit into the sample are clustered
    by `sklearn.cluster.KMeans` alone. Of more rows it clusters the sample, and Lloyd's iterations over all rows start
    from there: they don't depend on the order of the rows, as mini-batches of neighbouring cells would.

    Args:
        pieces: a function that starts over, see `Pieces`; rows must be finite. Of `SharedPieces` each process gets the
            clusters of all rows, those that one process finds to within rounding.
        clusters: numbers k of clusters.
        settings: see there.
        progress: goes through the numbers of clusters, and may show how far it has come.

    Raises:
        ValueError: there is no k, or one is below 1.
        UsageError: there are fewer rows than clusters, or fewer that differ.

    Example:
        >>> import numpy as np
        >>> from scvae_fast.tasks.clustering import fit_kmeans
        >>> rows = np.random.default_rng(0).normal(size=(50, 4)).astype("float32")
        >>> [len(fit.centres) for fit in fit_kmeans(lambda: [rows], [2, 3])]
        [2, 3]
    """
    settings = settings or KMeansSettings()
    if not clusters or min(clusters) < 1:
        raise ValueError(f"fit_kmeans: clusters must be one or more numbers, each 1 or more, got {clusters}")
    pieces = shared(pieces)
    sample, count = sample_rows(pieces, settings.sample, settings.seed)
    if min(count, settings.sample) < max(clusters):
        raise UsageError(f"{max(clusters)} clusters need as many patches, there are {min(count, settings.sample)}")
    compared = scaled(sample, settings.scale) if pieces.processes.first else None
    del sample
    fits = []
    for k in progress(clusters):
        centres = pieces.processes.on_first(partial(_fit_sample, compared, k, settings))
        if count > settings.sample:
            centres = _pass_over(pieces, centres, settings)
        fits.append(_finish(pieces, centres, settings.scale))
    return fits


def _fit_sample(sample: Any, k: int, settings: KMeansSettings) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # it says one thing only: duplicates
        try:
            return KMeans(k, n_init=settings.starts, random_state=settings.seed).fit(sample).cluster_centers_
        except ConvergenceWarning as error:
            raise UsageError(f"{k} clusters need at least as many distinct patches: ask for fewer clusters") from error


def _pass_over(pieces: SharedPieces, centres: np.ndarray, settings: KMeansSettings) -> np.ndarray:
    k = len(centres)
    for _ in range(settings.passes):
        sums, counts = np.zeros(centres.shape), np.zeros(k, np.int64)
        for piece in assigned(pieces, centres, settings.scale):
            sums += piece.sums(piece.compared, k)
            counts += np.bincount(piece.labels, minlength=k)
        sums, counts = _of_all(pieces, sums), _of_all(pieces, counts)
        found = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)  # none: stays
        step = np.square(found - centres).sum() / max(np.square(centres).sum(), np.finfo(float).tiny)
        centres = found.astype(centres.dtype)
        if step < settings.tolerance:
            break
    return centres


def _finish(pieces: SharedPieces, centres: np.ndarray, scale: RowScale) -> KMeansFit:
    k, inertia = len(centres), 0.0
    sums, counts = np.zeros(centres.shape), np.zeros(k, np.int64)
    for piece in assigned(pieces, centres, scale):
        sums += piece.sums(piece.rows, k)
        counts += np.bincount(piece.labels, minlength=k)
        inertia += float(piece.distances.sum(dtype=np.float64))
    sums, counts, inertia = _of_all(pieces, sums), _of_all(pieces, counts), sum(pieces.processes.gather(inertia))
    means = sums / np.maximum(counts, 1)[:, None]
    return KMeansFit(centres.astype(np.float32), means.astype(np.float32), counts, inertia)


def _of_all(pieces: SharedPieces, mine: np.ndarray) -> np.ndarray:
    return pieces.processes.sum(torch.from_numpy(mine)).numpy()
