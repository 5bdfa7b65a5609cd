from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from scvae_fast.tasks.segmentation import confusion, match, matched, rate

MASK = np.array([[0, 0, 1], [1, 1, 255]], dtype=np.uint8)
LABELS = np.array([[0, 1, 1], [1, 0, 2]])


def test_counts_by_hand() -> None:
    counts = confusion(MASK, LABELS, 2, 3)
    np.testing.assert_array_equal(counts, [[1, 1, 0], [1, 2, 0]])
    scores = rate(counts[:, :2])
    assert scores["iou_of_classes"] == [1 / 3, 2 / 4]
    assert scores["dice_of_classes"] == [2 / 4, 4 / 6]
    assert scores["miou"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert scores["dice"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores["accuracy"] == 3 / 5
    with pytest.raises(ValueError, match=r"labels must be \(2, 3\)"):
        confusion(MASK, LABELS[:1], 2, 3)


def test_scores_are_scikit_learns() -> None:
    dice = np.random.default_rng(0)
    mask, labels = (dice.integers(4, size=(20, 30)) for _ in range(2))
    labels = np.where(dice.random(mask.shape) < 0.6, mask, labels)
    scores = rate(confusion(mask.astype(np.uint8), labels, 4, 4))
    truth, found = mask.flatten(), labels.flatten()
    np.testing.assert_allclose(scores["iou_of_classes"], jaccard_score(truth, found, average=None))
    np.testing.assert_allclose(scores["dice_of_classes"], f1_score(truth, found, average=None))
    assert scores["miou"] == pytest.approx(jaccard_score(truth, found, average="macro"))
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, found))


def test_absent_classes_are_not_rated() -> None:
    scores = rate(np.array([[3, 0, 1], [0, 0, 0], [0, 0, 0]]))
    assert scores["iou_of_classes"] == [0.75, None, 0.0]
    assert (scores["miou"], scores["accuracy"]) == (0.375, 0.75)
    assert rate(np.zeros((2, 2), int)) | {"iou_of_classes": 0, "dice_of_classes": 0} == dict.fromkeys(
        ("miou", "dice", "accuracy")
    ) | {"iou_of_classes": 0, "dice_of_classes": 0}


@pytest.mark.parametrize("seed", range(10))
def test_the_best_of_all_permutations(seed: int) -> None:
    counts = np.random.default_rng(seed).integers(100, size=(5, 5))
    right = [sum(counts[one, order[one]] for one in range(5)) for order in permutations(range(5))]
    named = matched(counts, match(counts))
    assert np.trace(named) == max(right)
    np.testing.assert_array_equal(named.sum(1), counts.sum(1))


def test_more_clusters_than_classes_and_fewer() -> None:
    counts = np.array([[9, 8, 0, 3], [0, 1, 5, 0]])
    np.testing.assert_array_equal(match(counts), [0, 0, 1, 0])  # 1 and 3 are left over
    np.testing.assert_array_equal(matched(counts, match(counts)), [[20, 0], [1, 5]])
    few = np.array([[1, 0], [7, 2], [0, 8]])
    np.testing.assert_array_equal(match(few), [1, 2])
    np.testing.assert_array_equal(matched(few, match(few)), [[0, 1, 0], [0, 7, 2], [0, 0, 8]])
