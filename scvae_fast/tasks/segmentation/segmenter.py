"""Segmentation of pictures by their cells, with clusters or a classifier trained on a few masks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from scvae_fast._extras import extra
from scvae_fast.data.masks import CLASS_COUNTS, IGNORED, MaskedPicture
from scvae_fast.data.stream import NamedPicture
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.tasks.clustering.kmeans import KMeansSettings, fit_kmeans
from scvae_fast.tasks.segmentation.features import SAMPLE, Describer, FeatureSettings, feature_cells

with extra("scvae_fast.tasks.segmentation", "scikit-learn"):
    from skimage.restoration import denoise_tv_chambolle
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics.pairwise import euclidean_distances

Classifier = Literal["logistic", "centres"]

# Share of a cell's pixels that must have the same class for the cell to be used in training.
_MAJORITY = 0.75


class Head(Protocol):
    """Scores of labels, from descriptions of cells."""

    n_labels: int

    def __call__(self, described: np.ndarray) -> np.ndarray:
        """Shares (M, n_labels), which sum to 1, for descriptions (M, d)."""


class Centres:
    """Label l where centre l is nearest; scores are a softmax of −d² / the mean d² from a cell to its nearest centre.

    Args:
        centres: (n_labels, d).
        described: (M, d), the descriptions whose mean distance sets the scale.
    """

    def __init__(self, centres: np.ndarray, described: np.ndarray) -> None:
        self.n_labels, self._centres = len(centres), centres
        self._scale = max(float(euclidean_distances(described, centres, squared=True).min(1).mean()), 1e-12)

    def __call__(self, described: np.ndarray) -> np.ndarray:
        """See `Head`."""
        distances = euclidean_distances(described, self._centres, squared=True) / self._scale
        shares = np.exp(distances.min(1, keepdims=True) - distances)
        return shares / shares.sum(1, keepdims=True)


class Classes:
    """Multinomial logistic regression on the descriptions of labelled cells."""

    def __init__(self, described: np.ndarray, classes: np.ndarray, n_classes: int, seed: int) -> None:
        self.n_labels = n_classes
        self._model = LogisticRegression(max_iter=2000, random_state=seed).fit(described, classes)

    def __call__(self, described: np.ndarray) -> np.ndarray:
        """See `Head`; a class without labelled cells gets 0."""
        shares = np.zeros((len(described), self.n_labels))
        shares[:, self._model.classes_] = self._model.predict_proba(described)
        return shares


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """How scores of cells become labels of pixels.

    Args:
        shifts: number of offsets of the cells in each direction, whose maps are averaged.
        smooth: weight of the total variation that smooths the scores (Chambolle 2004, scikit-image's); 0 turns it off.

    Raises:
        ValueError: one of them is out of range.

    Example:
        >>> from scvae_fast.tasks.segmentation import MapSettings
        >>> MapSettings(shifts=1).smooth
        0.0
    """

    shifts: int = 2
    smooth: float = 0.0

    def __post_init__(self) -> None:
        if self.shifts < 1:
            raise ValueError(f"MapSettings: shifts must be 1 or more, got {self.shifts}")
        if not 0 <= self.smooth < float("inf"):
            raise ValueError(f"MapSettings: smooth must be 0 or more, got {self.smooth}")


@dataclass(frozen=True)
class Segmenter:
    """Labels the pixels of pictures.

    Args:
        model: makes the cells.
        describer: describes them.
        head: turns descriptions into scores.
        maps: turns scores into maps.

    Example:
        >>> from scvae_fast import SCVAE, SCVAEConfig
        >>> from scvae_fast.data import NamedPicture, held_out_photographs
        >>> from scvae_fast.tasks.segmentation import FeatureSettings, MapSettings, fit_clusters
        >>> model = SCVAE(SCVAEConfig.preset("pictures64")).eval()
        >>> picture = held_out_photographs()[0].picture[:, :64, :64]
        >>> features, maps = FeatureSettings(words=0), MapSettings(shifts=1)
        >>> segmenter = fit_clusters(model, [NamedPicture("a", picture)], 2, features, maps)
        >>> segmenter(picture).shape
        (64, 64)
    """

    model: SCVAE
    describer: Describer
    head: Head
    maps: MapSettings

    def scores(self, picture: Tensor) -> np.ndarray:  # (3, H, W) -> (H, W, n_labels)
        """Shares of the labels at every pixel, averaged over the shifts and smoothed."""
        stride, (height, width) = self.model.config.stride, picture.shape[1:]
        offsets = sorted({stride * i // self.maps.shifts for i in range(self.maps.shifts)})
        total = np.zeros((height, width, self.head.n_labels))
        for top in offsets:
            for left in offsets:
                shifted = F.pad(picture[None], (left, 0, top, 0), mode="replicate")[0]
                feature = self.describer.settings.feature
                (cells,) = feature_cells(self.model, [NamedPicture("the picture", shifted)], feature)
                shares = self.head(self.describer(cells)).reshape(*cells.grid, -1)
                pixels = shares.repeat(stride, 0).repeat(stride, 1)
                total += pixels[top : top + height, left : left + width]
        total /= len(offsets) ** 2
        return denoise_tv_chambolle(total, self.maps.smooth, channel_axis=-1) if self.maps.smooth else total

    def __call__(self, picture: Tensor) -> np.ndarray:  # (3, H, W) -> (H, W) int64
        """The label of every pixel."""
        return self.scores(picture).argmax(2)


def fit_clusters(
    model: SCVAE, pictures: Sequence[NamedPicture], clusters: int, features: FeatureSettings, maps: MapSettings
) -> Segmenter:
    """A segmenter whose labels are clusters of the cells of pictures, without masks.

    Raises:
        UsageError: there are fewer cells, or fewer distinct cells, than clusters or words.

    Example:
        >>> from scvae_fast import SCVAE, SCVAEConfig
        >>> from scvae_fast.data import NamedPicture, held_out_photographs
        >>> from scvae_fast.tasks.segmentation import FeatureSettings, MapSettings, fit_clusters
        >>> model = SCVAE(SCVAEConfig.preset("pictures64")).eval()
        >>> picture = held_out_photographs()[0].picture[:, :64, :64]
        >>> features, maps = FeatureSettings(words=0), MapSettings(shifts=1)
        >>> segmenter = fit_clusters(model, [NamedPicture("a", picture)], 2, features, maps)
        >>> int(segmenter(picture).max()) <= 1
        True
    """
    settings = KMeansSettings(scale="none", seed=features.seed, starts=10)
    n_cells = _count_cells(model, pictures)
    _check_words(features, n_cells)
    if clusters > min(n_cells, settings.sample):
        raise UsageError(
            f"--clusters {clusters} (by default the number of classes) is larger than the number of cells that are "
            f"clustered, {min(n_cells, settings.sample)}"
        )
    cells = list(feature_cells(model, pictures, features.feature))
    describer = Describer(features, [each.rows for each in cells])
    described = np.concatenate([describer(each) for each in cells])
    try:
        (fit,) = fit_kmeans(lambda: [described], [clusters], settings)
    except UsageError as error:
        raise UsageError(
            f"--clusters {clusters} (by default the number of classes) is larger than the number of distinct "
            "descriptions of cells"
        ) from error
    return Segmenter(model, describer, Centres(fit.centres, described), maps)


def fit_classes(
    model: SCVAE,
    labelled: Sequence[MaskedPicture],
    n_classes: int,
    features: FeatureSettings,
    maps: MapSettings,
    classifier: Classifier = "logistic",
) -> Segmenter:
    """A segmenter whose labels are classes, learned from the cells of pictures with masks.

    A cell is used if three quarters of its pixels have the same class.

    Args:
        model: makes the cells.
        labelled: the pictures; the words are found in them too.
        n_classes: C, 2 … 255.
        features: how cells are described.
        maps: how scores become maps.
        classifier: "logistic" regression, or the nearest of the "centres" (means) of the classes.

    Raises:
        ValueError: classifier is neither, or n_classes is out of range.
        UsageError: there are fewer cells, or fewer distinct cells, than words, or they have fewer than two classes.

    Example:
        >>> import numpy as np
        >>> from scvae_fast import SCVAE, SCVAEConfig
        >>> from scvae_fast.data import held_out_photographs
        >>> from scvae_fast.data.masks import MaskedPicture
        >>> from scvae_fast.tasks.segmentation import FeatureSettings, MapSettings, fit_classes
        >>> model = SCVAE(SCVAEConfig.preset("pictures64")).eval()
        >>> picture = held_out_photographs()[0].picture[:, :64, :64]
        >>> mask = np.repeat([[0] * 32 + [1] * 32], 64, axis=0).astype(np.uint8)  # left half, right half
        >>> labelled = [MaskedPicture("a", picture, mask)]
        >>> fit_classes(model, labelled, 2, FeatureSettings(words=0), MapSettings(shifts=1), "centres")(picture).shape
        (64, 64)
    """
    if classifier not in get_args(Classifier):
        raise ValueError(f"fit_classes: classifier must be one of {get_args(Classifier)}, got {classifier!r}")
    if n_classes not in CLASS_COUNTS:
        raise ValueError(f"fit_classes: n_classes must be {CLASS_COUNTS[0]} … {CLASS_COUNTS[-1]}, got {n_classes}")
    pictures = [NamedPicture(each.name, each.picture) for each in labelled]
    _check_words(features, _count_cells(model, pictures))
    cells = list(feature_cells(model, pictures, features.feature))
    describer = Describer(features, [each.rows for each in cells])
    classes = np.concatenate([cell_classes(each.mask, model.config.stride, n_classes) for each in labelled])
    described = np.concatenate([describer(each) for each in cells])[classes != IGNORED]
    classes = classes[classes != IGNORED]
    found = np.unique(classes)
    if len(found) < 2:
        raise UsageError(f"the labelled pictures have cells of {len(found)} classes; 2 are needed: label more pictures")
    if classifier == "logistic":
        return Segmenter(model, describer, Classes(described, classes, n_classes, features.seed), maps)
    far = np.full((n_classes, described.shape[1]), 1e6)  # a class without cells is never the nearest
    far[found] = [described[classes == one].mean(0) for one in found]
    return Segmenter(model, describer, Centres(far, described), maps)


def _count_cells(model: SCVAE, pictures: Iterable[NamedPicture]) -> int:
    stride = model.config.stride
    return sum(-(-height // stride) * -(-width // stride) for height, width in (each.size for each in pictures))


def _check_words(features: FeatureSettings, n_cells: int) -> None:
    if features.words > min(n_cells, SAMPLE):
        raise UsageError(
            f"--words {features.words} is larger than the number of cells in which words are found, "
            f"{min(n_cells, SAMPLE)}: use fewer words, or none (--words 0)"
        )


def cell_classes(mask: np.ndarray, stride: int, n_classes: int) -> np.ndarray:  # (H, W) -> (h·w,)
    """The class of each cell; IGNORED if less than three quarters of its pixels have the same class."""
    missing = [(0, -side % stride) for side in mask.shape]
    padded = np.pad(mask, missing, mode="edge")
    blocks = padded.reshape(padded.shape[0] // stride, stride, -1, stride).swapaxes(1, 2).reshape(-1, stride**2)
    shares = np.stack([(blocks == one).mean(1) for one in range(n_classes)], 1)
    return np.where(shares.max(1) >= _MAJORITY, shares.argmax(1), IGNORED)
