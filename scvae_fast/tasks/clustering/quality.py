"""Quality of a clustering, and example rows of its clusters."""

from typing import Any

import numpy as np

from scvae_fast._extras import extra
from scvae_fast._shares import Processes
from scvae_fast.tasks.clustering.kmeans import KMeansFit, KMeansSettings, assigned, sample_rows
from scvae_fast.tasks.clustering.rows import Pieces, dense, scaled, shared

with extra("scvae_fast.tasks.clustering", "scikit-learn"):
    from sklearn.metrics import davies_bouldin_score, silhouette_score

# Largest sample for silhouettes, which need all pairwise distances.
SAMPLE = 4096


def rate(pieces: Pieces, fits: list[KMeansFit], settings: KMeansSettings) -> list[dict[str, Any]]:
    """For each clustering: k, inertia (of all rows), mean silhouette and Davies-Bouldin index (of a sample of rows).

    The last two compare rows as they were clustered. They are None if the sample has only one cluster, or only clusters
    of one row, because they are not defined then.
    """
    pieces = shared(pieces)
    sample, _ = sample_rows(pieces, SAMPLE, settings.seed + 1)
    return pieces.processes.on_first(lambda: _rate(sample, fits, settings))


def _rate(sample: Any, fits: list[KMeansFit], settings: KMeansSettings) -> list[dict[str, Any]]:
    compared = dense(scaled(sample, settings.scale))
    found = []
    for fit in fits:
        labels = np.concatenate([piece.labels for piece in assigned(lambda: [sample], fit.centres, settings.scale)])
        defined = 2 <= len(np.unique(labels)) < len(labels)
        found.append(
            {
                "clusters": len(fit.centres),
                "inertia": fit.inertia,
                "silhouette": float(silhouette_score(compared, labels)) if defined else None,
                "davies_bouldin": float(davies_bouldin_score(compared, labels)) if defined else None,
                "rated_on": len(labels),
            }
        )
    return found


def best_of(rated: list[dict[str, Any]]) -> int:
    """Index of the clustering with the largest silhouette; the first one if none is defined."""
    return max(range(len(rated)), key=lambda i: -np.inf if rated[i]["silhouette"] is None else rated[i]["silhouette"])


def examples(pieces: Pieces, fit: KMeansFit, settings: KMeansSettings, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers for each cluster: the rows nearest to its centre, in ascending distance, and random rows.

    Args:
        pieces: the rows.
        fit: the clusters of these rows.
        settings: the settings of the fit.
        n: number of rows of each kind.

    Returns:
        Two arrays (k, n) int64; −1 if a cluster has fewer rows. No row occurs twice.
    """
    pieces = shared(pieces)
    k, dice, first = len(fit.centres), pieces.dice(settings.seed), pieces.first
    by_distance, by_chance = _Smallest(k, n), _Smallest(k, 2 * n)  # up to n of them may also be among the nearest
    for piece in assigned(pieces, fit.centres, settings.scale):
        numbers = np.arange(first, first + len(piece.labels))
        by_distance.add(piece.labels, piece.distances, numbers)
        by_chance.add(piece.labels, dice.random(len(numbers)), numbers)
        first += len(numbers)
    by_distance.gather(pieces.processes)
    by_chance.gather(pieces.processes)
    nearest, drawn = by_distance.rows, np.full((k, n), -1)
    for cluster in range(k):
        others = by_chance.rows[cluster]
        others = others[(others >= 0) & ~np.isin(others, nearest[cluster])][:n]
        drawn[cluster, : len(others)] = others
    return nearest, drawn


class _Smallest:
    """The rows with the n smallest keys of each cluster, in the order of their keys."""

    def __init__(self, k: int, n: int) -> None:
        self.keys, self.rows = np.full((k, n), np.inf), np.full((k, n), -1)

    def add(self, labels: np.ndarray, keys: np.ndarray, numbers: np.ndarray) -> None:
        n = self.keys.shape[1]
        for cluster in np.unique(labels):
            own = labels == cluster
            all_keys = np.concatenate([self.keys[cluster], keys[own]])
            order = np.argsort(all_keys, kind="stable")[:n]
            self.keys[cluster] = all_keys[order]
            self.rows[cluster] = np.concatenate([self.rows[cluster], numbers[own]])[order]

    def gather(self, processes: Processes) -> None:
        """Combine those of all processes, on every process."""
        found = processes.gather((self.keys, self.rows))
        keys, rows = (np.concatenate(each, axis=1) for each in zip(*found, strict=True))
        order = np.argsort(keys, axis=1, kind="stable")[:, : self.keys.shape[1]]
        self.keys, self.rows = np.take_along_axis(keys, order, 1), np.take_along_axis(rows, order, 1)
