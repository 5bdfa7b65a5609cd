"""K-means for more rows than fit into memory: scikit-learn's on a sample, then Lloyd's iterations over all rows."""

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


# Wraps an iterable of slow steps, and may show the progress.
Progress = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class KMeansSettings:
    """How rows are clustered.

    Args:
        scale: scaling of rows, see `RowScale`.
        seed: of the sample and of k-means++.
        starts: number of k-means++ starts, of which the best is kept.
        sample: number of rows, drawn uniformly, that scikit-learn clusters; all rows if there are no more.
        passes: largest number of Lloyd's iterations over all rows that follow if the sample doesn't hold all.
        tolerance: they stop when the mean squared step of the centres falls below this share of their mean square.

    Raises:
        ValueError: a number is out of range.

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
    """The result of K-means, with d features per row.

    Example:
        >>> import numpy as np
        >>> from scvae_fast.tasks.clustering import fit_kmeans
        >>> rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], dtype=np.float32)
        >>> (fit,) = fit_kmeans(lambda: [rows], [2])
        >>> sorted(fit.counts.tolist())
        [1, 2]
    """

    centres: np.ndarray  # (k, d) float32, in the scale in which rows are compared
    means: np.ndarray  # (k, d) float32, of the unscaled rows
    counts: np.ndarray  # (k,) int64
    inertia: float  # sum of the squared distances of all rows from their centres


class Assigned:
    """Some rows and their nearest centres."""

    def __init__(self, rows: Any, centres: np.ndarray, scale: RowScale) -> None:
        self.rows, self.compared = rows, scaled(rows, scale)
        distances = euclidean_distances(self.compared, centres, squared=True)  # (M, k)
        self.labels = distances.argmin(1)  # (M,)
        self.distances = distances[np.arange(len(distances)), self.labels]  # (M,), squared

    def sums(self, rows: Any, k: int) -> np.ndarray:  # -> (k, d)
        """Sums of the rows of each cluster, in float64."""
        members = sparse.csr_array(
            (np.ones(len(self.labels)), (self.labels, np.arange(len(self.labels)))), shape=(k, len(self.labels))
        )
        total = members @ rows
        return total.toarray() if sparse.issparse(total) else total


def assigned(pieces: Pieces, centres: np.ndarray, scale: RowScale) -> Iterator[Assigned]:
    """All rows with their nearest centres, at most `ROWS_AT_ONCE` at a time."""
    for piece in pieces():
        for first in range(0, piece.shape[0], ROWS_AT_ONCE):
            yield Assigned(piece[first : first + ROWS_AT_ONCE], centres, scale)


def sample_rows(pieces: Pieces, size: int, seed: int) -> tuple[Any, int]:
    """Rows drawn uniformly without replacement, in order, and the number of all rows; at most all of them.

    Every row gets a random number, and those with the smallest are kept. For `SharedPieces` the first process gets the
    rows, the others None.

    Raises:
        UsageError: there are no rows.
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
        # Rows that can't be kept are not sent.
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

    Memory is bounded by a sample and one piece, for any number of rows. Rows that fit into the sample are clustered by
    `sklearn.cluster.KMeans` alone. Otherwise it clusters the sample, and Lloyd's iterations over all rows follow:
    unlike mini-batches of neighbouring cells, they don't depend on the order of the rows.

    Args:
        pieces: returns a new iterator on each call, see `Pieces`; rows must be finite. For `SharedPieces` each process
            gets the clusters of all rows, the same up to rounding as those of a single process.
        clusters: numbers k of clusters.
        settings: see `KMeansSettings`.
        progress: wraps the iteration over the numbers of clusters, and may show the progress.

    Raises:
        ValueError: clusters is empty, or a k is below 1.
        UsageError: there are fewer rows, or fewer distinct rows, than clusters.

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
        warnings.simplefilter("error", ConvergenceWarning)  # its only reason is duplicate rows
        try:
            return KMeans(k, n_init=settings.starts, random_state=settings.seed).fit(sample).cluster_centers_
        except ConvergenceWarning as error:
            raise UsageError(f"{k} clusters need at least as many distinct patches: choose fewer clusters") from error


def _pass_over(pieces: SharedPieces, centres: np.ndarray, settings: KMeansSettings) -> np.ndarray:
    k = len(centres)
    for _ in range(settings.passes):
        sums, counts = np.zeros(centres.shape), np.zeros(k, np.int64)
        for piece in assigned(pieces, centres, settings.scale):
            sums += piece.sums(piece.compared, k)
            counts += np.bincount(piece.labels, minlength=k)
        sums, counts = _of_all(pieces, sums), _of_all(pieces, counts)
        found = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)  # empty: keep
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
