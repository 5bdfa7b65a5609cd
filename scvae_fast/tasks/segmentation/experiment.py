"""Comparison of segmentation methods: each is fitted, applied and scored in the same way."""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from scvae_fast.data.masks import CLASS_COUNTS, MaskedPicture, MaskedPictures
from scvae_fast.data.stream import NamedPicture
from scvae_fast.models import SCVAE
from scvae_fast.tasks.segmentation.features import Feature, FeatureSettings
from scvae_fast.tasks.segmentation.scores import confusion, match, matched, rate
from scvae_fast.tasks.segmentation.segmenter import Classifier, MapSettings, Segmenter, fit_classes, fit_clusters


@dataclass(frozen=True, kw_only=True)
class Method:
    """A segmentation method.

    Args:
        features: how cells are described.
        maps: how scores of cells become labels of pixels.
        clusters: their number, without masks to learn from; None is the number of classes.
        classifier: which classifier learns from masks.
    """

    features: FeatureSettings
    maps: MapSettings
    clusters: int | None = None
    classifier: Classifier = "logistic"

    def of(self, feature: Feature, seed: int, *, plain: bool) -> "Method":
        """The same method with another feature and seed; plain: single cells, without words, window or smoothing."""
        features = replace(self.features, feature=feature, seed=seed)
        if not plain:
            return replace(self, features=features)
        return replace(self, features=replace(features, words=0, pool=0.0), maps=MapSettings(shifts=1, smooth=0.0))


class Task(NamedTuple):
    """Pictures to segment, and the pictures to learn from."""

    pictures: MaskedPictures
    scored: Sequence[int]  # indices of the pictures to score
    labelled: Sequence[MaskedPicture]  # pictures whose masks are learned from; if empty, clusters are used
    fitted: Sequence[int]  # indices of the pictures to cluster


class Segmented(NamedTuple):
    """A picture, and the predicted class of each pixel."""

    picture: MaskedPicture
    classes: np.ndarray  # (H, W) uint8


def run(
    model: SCVAE,
    task: Task,
    method: Method,
    keep: Callable[[Segmented], object] | None = None,
    *,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> dict[str, Any]:
    """Fit a method, segment the scored pictures one by one, and rate the result.

    Clusters are matched to classes with the masks of all scored pictures together, see `match`: the rating is that of
    the best match, as is usual for unsupervised segmentation.

    Args:
        model: in evaluation mode.
        task: see `Task`.
        method: see `Method`.
        keep: called with each picture and its predicted classes. Clusters are matched last: until then they are kept in
            a temporary file, and pictures are read again.
        progress: wraps the iteration over the pictures, and may show the progress.

    Returns:
        The result of `rate`, and "classes_of_clusters".

    Raises:
        ValueError: the number of classes is not 2 … 255.
        UsageError: there are fewer cells than words or clusters, or the labelled cells have fewer than two classes.
    """
    n_classes = len(task.pictures.classes)
    if n_classes not in CLASS_COUNTS:
        raise ValueError(f"run: pictures must have {CLASS_COUNTS[0]} … {CLASS_COUNTS[-1]} classes, got {n_classes}")
    segmenter = _fit(model, task, method)
    n_labels, learned = segmenter.head.n_labels, bool(task.labelled)
    counts = np.zeros((n_classes, n_labels), np.int64)
    with tempfile.TemporaryFile() as unnamed:
        for index in progress(task.scored):
            picture = task.pictures[index]
            labels = segmenter(picture.picture)
            counts += confusion(picture.mask, labels, n_classes, n_labels)
            if keep and learned:
                keep(Segmented(picture, labels.astype(np.uint8)))
            elif keep:
                np.save(unnamed, labels.astype(np.min_scalar_type(n_labels)))
        names = np.arange(n_classes) if learned else match(counts)
        if keep and not learned:
            unnamed.seek(0)
            for index in task.scored:
                keep(Segmented(task.pictures[index], names[np.load(unnamed)].astype(np.uint8)))
    return rate(matched(counts, names)) | {"classes_of_clusters": None if learned else names.tolist()}


def _fit(model: SCVAE, task: Task, method: Method) -> Segmenter:
    n_classes = len(task.pictures.classes)
    if task.labelled:
        return fit_classes(model, task.labelled, n_classes, method.features, method.maps, method.classifier)
    pictures = [task.pictures[index] for index in task.fitted]
    named = [NamedPicture(each.name, each.picture) for each in pictures]
    return fit_clusters(model, named, method.clusters or n_classes, method.features, method.maps)
