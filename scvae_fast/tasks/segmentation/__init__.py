"""Segmentation by the codes of cells, unsupervised or with a few masks; `scvae-fast segment`."""

from scvae_fast.tasks.segmentation.features import FEATURES, Feature, FeatureSettings
from scvae_fast.tasks.segmentation.scores import confusion, match, matched, rate
from scvae_fast.tasks.segmentation.segmenter import (
    Classifier,
    MapSettings,
    Segmenter,
    fit_classes,
    fit_clusters,
)

__all__ = [
    "FEATURES",
    "Classifier",
    "Feature",
    "FeatureSettings",
    "MapSettings",
    "Segmenter",
    "confusion",
    "fit_classes",
    "fit_clusters",
    "match",
    "matched",
    "rate",
]
