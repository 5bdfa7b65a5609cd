import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from scvae_fast.tasks.retrieval import average_precision, nearest, rate_retrieval

DICE = np.random.default_rng(0)
GALLERY = DICE.standard_normal((40, 6))
QUERIES = DICE.standard_normal((7, 6))
GALLERY_LABELS, QUERY_LABELS = DICE.integers(0, 3, 40), DICE.integers(0, 3, 7)


def cosines(queries: np.ndarray) -> np.ndarray:
    return cosine_similarity(queries - GALLERY.mean(0), GALLERY - GALLERY.mean(0))


def test_neighbours_are_the_most_similar() -> None:
    found, expected = nearest(QUERIES, GALLERY, 5), cosines(QUERIES)
    np.testing.assert_array_equal(found.indices, np.argsort(-expected, axis=1)[:, :5])
    np.testing.assert_allclose(found.similarities, -np.sort(-expected, axis=1)[:, :5], rtol=1e-6)


def test_a_query_is_no_neighbour_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scvae_fast.tasks.retrieval._AT_ONCE", 3 * 40)  # three queries at a time
    expected = cosines(GALLERY)
    np.fill_diagonal(expected, -2)
    found = nearest(GALLERY, GALLERY, 39, own=np.arange(40))
    np.testing.assert_array_equal(found.indices, np.argsort(-expected, axis=1)[:, :39])


def test_pictures_that_are_there_several_times() -> None:
    gallery = np.repeat(GALLERY[:3], 4, axis=0)
    found = nearest(gallery, gallery, 2, own=np.arange(12))
    assert (found.indices != np.arange(12)[:, None]).all()
    assert (found.indices // 4 == np.arange(12)[:, None] // 4).all()


def test_average_precision_is_scikit_learns() -> None:
    relevant = DICE.random((5, 12)) < 0.3
    relevant[0] = False
    found = average_precision(relevant)
    assert np.isnan(found[0])
    falling = -np.arange(12.0)
    expected = [average_precision_score(row, falling) for row in relevant[1:]]
    np.testing.assert_allclose(found[1:], expected)


def test_a_rating_by_hand_and_by_scikit_learn() -> None:
    rating = rate_retrieval(QUERIES, GALLERY, QUERY_LABELS, GALLERY_LABELS, (1, 4))
    similar, same = cosines(QUERIES), QUERY_LABELS[:, None] == GALLERY_LABELS
    best = np.argsort(-similar, axis=1)
    for k in (1, 4):
        assert rating.precision[k] == pytest.approx(np.take_along_axis(same, best[:, :k], 1).mean())
    expected = [average_precision_score(*pair) for pair in zip(same, similar, strict=True)]
    assert rating.mean_average_precision == pytest.approx(np.mean(expected))
    assert rating.n_queries == 7


def test_queries_without_a_class_in_the_gallery_are_not_counted() -> None:
    labels = np.where(np.arange(7) < 5, QUERY_LABELS, 9)
    rating = rate_retrieval(QUERIES, GALLERY, labels, GALLERY_LABELS, (2,))
    assert rating == rate_retrieval(QUERIES[:5], GALLERY, QUERY_LABELS[:5], GALLERY_LABELS, (2,))
    with pytest.raises(ValueError, match="no query has a picture of its class"):
        rate_retrieval(QUERIES, GALLERY, np.full(7, 9), GALLERY_LABELS, (2,))


def test_inputs_that_can_not_be_searched() -> None:
    with pytest.raises(ValueError, match=r"k must be 1 … 40, got 41"):
        nearest(QUERIES, GALLERY, 41)
    with pytest.raises(ValueError, match=r"k must be 1 … 39, got 40"):
        nearest(GALLERY, GALLERY, 40, own=np.arange(40))
    with pytest.raises(ValueError, match=r"must be \(Q, d\) and \(N, d\)"):
        nearest(QUERIES[:, :3], GALLERY, 2)
    with pytest.raises(ValueError, match=r"own must be \(7,\)"):
        nearest(QUERIES, GALLERY, 2, own=np.arange(3))
    with pytest.raises(ValueError, match="ks must be numbers of 1 … 40"):
        rate_retrieval(QUERIES, GALLERY, QUERY_LABELS, GALLERY_LABELS, (0,))
