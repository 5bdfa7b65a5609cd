"""Agreement of segmentations with masks: counts of pixels, classes for clusters, IoU, Dice, accuracy."""

from typing import Any

import numpy as np

from scvae_fast._extras import extra
from scvae_fast.data.masks import IGNORED

with extra("scvae_fast.tasks.segmentation", "SciPy"):
    from scipy.optimize import linear_sum_assignment


def confusion(mask: np.ndarray, labels: np.ndarray, n_classes: int, n_labels: int) -> np.ndarray:
    """Number of pixels of each class (rows) with each label (columns), (n_classes, n_labels) int64; not IGNORED ones.

    Raises:
        ValueError: mask and labels differ in shape.

    Example:
        >>> import numpy as np
        >>> from scvae_fast.tasks.segmentation import confusion
        >>> confusion(np.array([[0, 1, 1]], dtype=np.uint8), np.array([[0, 1, 0]], dtype=np.uint8), 2, 2)
        array([[1, 0],
               [1, 1]])
    """
    if mask.shape != labels.shape:
        raise ValueError(f"confusion: labels must be {mask.shape} like the mask, got {labels.shape}")
    counted = mask != IGNORED
    pairs = mask[counted].astype(np.int64) * n_labels + labels[counted]
    return np.bincount(pairs, minlength=n_classes * n_labels).reshape(n_classes, n_labels)


def match(counts: np.ndarray) -> np.ndarray:  # (n_classes, n_labels) -> (n_labels,)
    """A class for each label, so that the most pixels agree.

    Labels and classes are paired by the Hungarian method (Kuhn 1955). If there are more labels than classes, each
    remaining label gets the class with which it overlaps most.

    Example:
        >>> import numpy as np
        >>> from scvae_fast.tasks.segmentation import match
        >>> match(np.array([[1, 9], [8, 2]]))  # label 0 is class 1, label 1 is class 0
        array([1, 0])
    """
    classes = counts.argmax(0)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    classes[columns] = rows
    return classes


def matched(counts: np.ndarray, classes: np.ndarray) -> np.ndarray:  # -> (n_classes, n_classes)
    """Counts of pixels after label l is renamed to classes[l].

    Example:
        >>> import numpy as np
        >>> from scvae_fast.tasks.segmentation import matched
        >>> matched(np.array([[1, 9], [8, 2]]), np.array([1, 0]))
        array([[9, 1],
               [2, 8]])
    """
    named = np.zeros((len(counts), len(counts)), counts.dtype)
    np.add.at(named.T, classes, counts.T)
    return named


def rate(counts: np.ndarray) -> dict[str, Any]:  # (C, C), true classes in rows
    """IoU and Dice of each class, their means, and the share of correct pixels.

    A class that occurs neither in masks nor in segmentations has neither (None), and is not part of the means.

    Example:
        >>> import numpy as np
        >>> from scvae_fast.tasks.segmentation import rate
        >>> rate(np.array([[9, 1], [2, 8]]))["accuracy"]
        0.85
    """
    right, true, found = np.diag(counts).astype(float), counts.sum(1), counts.sum(0)
    union = true + found - right
    with np.errstate(invalid="ignore"):
        iou, dice = right / union, 2 * right / (true + found)
    there = union > 0
    return {
        "miou": float(iou[there].mean()) if there.any() else None,
        "dice": float(dice[there].mean()) if there.any() else None,
        "accuracy": float(right.sum() / counts.sum()) if counts.sum() else None,
        "iou_of_classes": [float(value) if defined else None for value, defined in zip(iou, there, strict=True)],
        "dice_of_classes": [float(value) if defined else None for value, defined in zip(dice, there, strict=True)],
    }
