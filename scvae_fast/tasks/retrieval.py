"""Nearest neighbours of pictures by descriptor, and how often they share a class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scvae_fast._extras import extra

with extra("scvae_fast.tasks", "scikit-learn"):
    from sklearn.neighbors import NearestNeighbors

# Number of distances in memory at a time; in float64 they take 64 MiB.
_AT_ONCE = 8_000_000


class Neighbours(NamedTuple):
    """The k gallery pictures most similar to each of Q queries, the most similar first."""

    indices: np.ndarray  # (Q, k) int, rows of the gallery
    similarities: np.ndarray  # (Q, k), cosines, −1 … 1


@dataclass(frozen=True)
class RetrievalRating:
    """Quality of rankings, averaged over the queries.

    Args:
        precision: for each k, the share of the first k neighbours that have the query's class.
        mean_average_precision: mean of the precisions at the ranks of all pictures with the query's class.
        n_queries: number of queries whose class occurs in the gallery; others are not counted.
    """

    precision: dict[int, float]
    mean_average_precision: float
    n_queries: int


def nearest(queries: np.ndarray, gallery: np.ndarray, k: int, *, own: np.ndarray | None = None) -> Neighbours:
    """The nearest neighbours by cosine similarity, after subtracting the gallery's mean.

    Args:
        queries: (Q, d).
        gallery: (N, d).
        k: number of neighbours.
        own: (Q,) int, the gallery row that is the query itself, which is excluded; None if there is none.

    Raises:
        ValueError: queries and gallery are not such matrices, or the gallery has fewer than k others.
    """
    _check(queries, gallery, own)
    if not 1 <= k <= len(gallery) - (own is not None):
        raise ValueError(f"nearest: k must be 1 … {len(gallery) - (own is not None)}, got {k}")
    found = list(_ranked(queries, gallery, k, own))
    return Neighbours(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def rate_retrieval(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_labels: np.ndarray,
    gallery_labels: np.ndarray,
    ks: Sequence[int],
    *,
    own: np.ndarray | None = None,
) -> RetrievalRating:
    """Rank the whole gallery for each query, like `nearest`, and rate the rankings.

    Args:
        queries: (Q, d).
        gallery: (N, d).
        query_labels: (Q,) classes.
        gallery_labels: (N,) classes.
        ks: values of k for the precisions.
        own: see `nearest`.

    Raises:
        ValueError: as `nearest`, for the largest of ks; or no query's class occurs in the gallery.
    """
    _check(queries, gallery, own)
    most = len(gallery) - (own is not None)
    if not ks or not 1 <= min(ks) <= max(ks) <= most:
        raise ValueError(f"rate_retrieval: ks must be numbers of 1 … {most}, got {tuple(ks)}")
    first, relevant = 0, []
    average = []
    for indices, _ in _ranked(queries, gallery, most, own):
        same = gallery_labels[indices] == query_labels[first : first + len(indices), None]
        first += len(indices)
        same = same[same.any(axis=1)]
        average.append(average_precision(same))
        relevant.append(same[:, : max(ks)])
    hits = np.concatenate(relevant)
    if not len(hits):
        raise ValueError("rate_retrieval: no query has a picture of its class in the gallery")
    precision = {k: float(hits[:, :k].mean()) for k in ks}
    return RetrievalRating(precision, float(np.concatenate(average).mean()), len(hits))


def average_precision(relevant: np.ndarray) -> np.ndarray:  # (Q, N) bool -> (Q,)
    """Mean of the precisions at the ranks of relevant items, for each ranking; NaN if there are none.

    That is the step-wise integral of precision over recall, like scikit-learn's `average_precision_score`.
    """
    ranks = np.arange(1, relevant.shape[1] + 1)
    precision = np.cumsum(relevant, axis=1) / ranks
    count = relevant.sum(axis=1)
    return np.divide((precision * relevant).sum(axis=1), count, out=np.full(len(relevant), np.nan), where=count > 0)


def _check(queries: np.ndarray, gallery: np.ndarray, own: np.ndarray | None) -> None:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1] or 0 in queries.shape:
        raise ValueError(
            f"retrieval: queries and gallery must be (Q, d) and (N, d), got {queries.shape} and {gallery.shape}"
        )
    if own is not None and own.shape != (len(queries),):
        raise ValueError(f"retrieval: own must be ({len(queries)},), got {own.shape}")


def _ranked(queries: np.ndarray, gallery: np.ndarray, k: int, own: np.ndarray | None) -> Iterator[Neighbours]:
    """The first k of each ranking, for a block of queries at a time."""
    mean = gallery.mean(axis=0, dtype=np.float64)
    search = NearestNeighbors(metric="cosine", algorithm="brute").fit(gallery - mean)
    step = max(1, _AT_ONCE // len(gallery))
    for first in range(0, len(queries), step):
        some = queries[first : first + step]
        distances, indices = search.kneighbors(some - mean, k + (own is not None))
        if own is not None:
            others = indices != own[first : first + step, None]
            # If more than k pictures are identical to the query, the query itself may not be among the first.
            others[others.all(axis=1), -1] = False
            distances, indices = (each[others].reshape(len(some), k) for each in (distances, indices))
        yield Neighbours(indices, 1 - distances)
