from collections.abc import Iterator

import numpy as np
import pytest
from scipy.sparse import csr_array, vstack
from sklearn.cluster import KMeans
from sklearn.metrics import davies_bouldin_score, silhouette_score

from scvae_fast.errors import UsageError
from scvae_fast.tasks.clustering import KMeansSettings, fit_kmeans, scaled
from scvae_fast.tasks.clustering.kmeans import sample_rows
from scvae_fast.tasks.clustering.quality import best_of, examples, rate

CENTRES = np.array([[9, 0, 0, 0], [0, 9, 0, 0], [0, 0, 9, 0], [-9, 0, 0, 9]], dtype=np.float32)


def blobs(n: int = 600) -> np.ndarray:
    dice = np.random.default_rng(0)
    return (CENTRES[dice.integers(4, size=n)] + dice.normal(0, 0.5, (n, 4))).astype(np.float32)


def in_pieces(rows: np.ndarray, sparse: bool):  # type: ignore[no-untyped-def]
    def pieces() -> Iterator[object]:
        for first in range(0, len(rows), 70):
            yield csr_array(rows[first : first + 70]) if sparse else rows[first : first + 70]

    return pieces


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("sample", [80, 600])  # 80: all others come in Lloyd's passes
def test_a_stream_gives_what_is_clustered_in_memory(sample: int, sparse: bool) -> None:
    rows = blobs()
    (fit,) = fit_kmeans(in_pieces(rows, sparse), [4], KMeansSettings(scale="none", sample=sample, tolerance=0))
    whole = KMeans(4, n_init=4, random_state=1).fit(rows)
    order, other = (np.lexsort(np.round(each).T) for each in (fit.centres, whole.cluster_centers_))
    np.testing.assert_allclose(fit.centres[order], whole.cluster_centers_[other], atol=1e-4)
    np.testing.assert_array_equal(fit.counts[order], np.bincount(whole.labels_)[other])
    np.testing.assert_allclose(fit.means, fit.centres, atol=1e-4)  # rows were compared as they are
    assert fit.inertia == pytest.approx(whole.inertia_, rel=1e-4)


def test_scales() -> None:
    rows = np.array([[3, -4], [0, 0], [-2, 0]], dtype=np.float32)
    np.testing.assert_allclose(scaled(rows, "unit"), [[0.6, -0.8], [0, 0], [-1, 0]])
    np.testing.assert_allclose(scaled(csr_array(rows), "magnitude").toarray(), [[0.6, 0.8], [0, 0], [1, 0]])
    np.testing.assert_array_equal(scaled(rows, "none"), rows)
    with pytest.raises(ValueError, match="scale must be one of"):
        scaled(rows, "half")  # type: ignore[arg-type]


def test_the_mean_of_rows_that_were_scaled() -> None:
    rows = np.array([[2, 0], [4, 0], [0, 1], [0, 5]], dtype=np.float32)
    (fit,) = fit_kmeans(lambda: [rows], [2])
    order = np.argsort(fit.centres[:, 1])
    np.testing.assert_allclose(fit.centres[order], [[1, 0], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(fit.means[order], [[3, 0], [0, 3]])


def test_a_sample_is_uniform_and_keeps_the_order() -> None:
    rows = np.arange(1000, dtype=np.float32)[:, None]
    drawn = [sample_rows(in_pieces(rows, False), 50, seed)[0][:, 0] for seed in range(200)]
    assert all(len(np.unique(each)) == 50 and (np.diff(each) > 0).all() for each in drawn)
    # The mean of 50 of 0 … 999 has a standard deviation of 40 about 499.5; of 200 such means, 2.8.
    assert abs(np.mean(drawn) - 499.5) < 12
    everything, count = sample_rows(in_pieces(rows, True), 1000, 0)
    assert count == 1000
    np.testing.assert_array_equal(everything.toarray(), rows)


def test_quality_is_scikit_learns() -> None:
    rows, settings = blobs(300), KMeansSettings(scale="none")
    fits = fit_kmeans(in_pieces(rows, True), [1, 3, 4], settings)
    rated = rate(in_pieces(rows, True), fits, settings)
    assert rated[0] | {"inertia": 0} == {
        "clusters": 1,
        "inertia": 0,
        "silhouette": None,
        "davies_bouldin": None,
        "rated_on": 300,
    }
    assert rated[0]["inertia"] == pytest.approx(np.square(rows - rows.mean(0)).sum(), rel=1e-5)
    labels = np.square(rows[:, None] - fits[2].centres).sum(2).argmin(1)
    assert rated[2]["silhouette"] == pytest.approx(silhouette_score(rows, labels), rel=1e-4)
    assert rated[2]["davies_bouldin"] == pytest.approx(davies_bouldin_score(rows, labels), rel=1e-4)
    assert best_of(rated) == 2
    assert best_of(rated[:1]) == 0


def test_examples_are_the_nearest_and_others_at_random() -> None:
    rows = np.concatenate([blobs(200), 40 * CENTRES[:1]])  # a cluster of its own
    settings = KMeansSettings(scale="none")
    (fit,) = fit_kmeans(in_pieces(rows, False), [5], settings)
    nearest, drawn = examples(in_pieces(rows, True), fit, settings, 6)
    distances = np.square(rows[:, None] - fit.centres).sum(2)
    for cluster in range(5):
        own = np.flatnonzero(distances.argmin(1) == cluster)
        if len(own) == 1:
            assert list(nearest[cluster]) == [200, *[-1] * 5]
            assert (drawn[cluster] == -1).all()
            continue
        assert set(nearest[cluster]) == set(own[np.argsort(distances[own, cluster])[:6]])
        assert len(set(drawn[cluster]) | set(nearest[cluster])) == 12
        assert set(drawn[cluster]) <= set(own)


def test_rows_that_can_not_be_clustered() -> None:
    rows = vstack([csr_array(CENTRES)] * 3, format="csr")
    with pytest.raises(UsageError, match="5 clusters need at least as many distinct patches"):
        fit_kmeans(lambda: [rows], [2, 5])
    with pytest.raises(UsageError, match="13 clusters need as many patches, there are 12"):
        fit_kmeans(lambda: [rows], [2, 13])
    with pytest.raises(UsageError, match="nothing to cluster"):
        fit_kmeans(lambda: [], [2])
    with pytest.raises(ValueError, match="clusters must be one or more numbers"):
        fit_kmeans(lambda: [rows], [0, 2])
    with pytest.raises(ValueError, match="KMeansSettings: starts must be 1 or more, got 0"):
        KMeansSettings(starts=0)
