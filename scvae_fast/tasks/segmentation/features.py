"""Descriptions of cells: their rows, or histograms of words around them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from scvae_fast._extras import extra
from scvae_fast.data.stream import NamedPicture
from scvae_fast.errors import UsageError
from scvae_fast.models import SCVAE
from scvae_fast.tasks.cells import PictureCells, cells_of
from scvae_fast.tasks.clustering.kmeans import KMeansSettings, assigned, fit_kmeans, sample_rows
from scvae_fast.tasks.clustering.rows import RowScale, dense, scaled

with extra("scvae_fast.tasks.segmentation", "SciPy"):
    from scipy.ndimage import gaussian_filter

# `CellKind`, and "centred": the pixels of a cell minus their mean.
Feature = Literal["codes", "latents", "pixels", "centred", "colour"]
FEATURES: tuple[Feature, ...] = get_args(Feature)

SAMPLE = 2**14  # largest number of cells in which words are found


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """How cells are described.

    Args:
        feature: what the rows hold.
        words: number of clusters of the rows that serve as words. Rows are scaled to unit length first, except colours,
            which would all become the same for grey pictures. A cell is described by the histogram of words around it,
            with square roots (Hellinger). 0 uses the rows themselves.
        pool: standard deviation, in cells, of the Gaussian window around a cell; 0 uses only the cell.
        seed: for the words.

    Raises:
        ValueError: one of them is out of range.

    Example:
        >>> from scvae_fast.tasks.segmentation import FeatureSettings
        >>> FeatureSettings(feature="pixels", words=64).words
        64
    """

    feature: Feature = "codes"
    words: int = 256
    pool: float = 1.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.feature not in FEATURES:
            raise ValueError(f"FeatureSettings: feature must be one of {FEATURES}, got {self.feature!r}")
        for name in ("words", "pool", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"FeatureSettings: {name} must be 0 or more, got {getattr(self, name)!r}")


def feature_cells(model: SCVAE, pictures: Iterable[NamedPicture], feature: Feature) -> Iterator[PictureCells]:
    """Like `cells_of`, for a feature."""
    for cells in cells_of(model, pictures, "pixels" if feature == "centred" else feature):
        if feature == "centred":
            channels = cells.rows.reshape(len(cells.rows), 3, -1)
            cells = cells._replace(rows=(channels - channels.mean(2, keepdims=True)).reshape(cells.rows.shape))
        yield cells


class Describer:
    """Describes cells, with words found in given rows.

    Local histograms of vector-quantised patches are textons: M. Varma and A. Zisserman, "A statistical approach to
    texture classification from single images", IJCV 2005.

    Args:
        settings: see `FeatureSettings`.
        rows: matrices of rows in which words are found; a sample of them is used.

    Raises:
        UsageError: there are fewer distinct rows than words.
    """

    def __init__(self, settings: FeatureSettings, rows: list[Any]) -> None:
        self.settings = settings
        self._words: np.ndarray | None = None
        self._scale: RowScale = "none" if settings.feature == "colour" else "unit"
        if settings.words:
            found = KMeansSettings(scale=self._scale, seed=settings.seed, starts=1, sample=SAMPLE, passes=0)
            sample, _ = sample_rows(lambda: rows, SAMPLE, settings.seed)
            try:
                (fit,) = fit_kmeans(lambda: [sample], [settings.words], found)
            except UsageError as error:
                raise UsageError(
                    f"--words {settings.words} is larger than the number of distinct cells: use fewer words, or none "
                    "(--words 0)"
                ) from error
            self._words = fit.centres

    def __call__(self, cells: PictureCells) -> np.ndarray:  # -> (h·w, d)
        """The descriptions of a picture's cells."""
        if self._words is None:
            rows = dense(cells.rows) if not self.settings.pool else dense(scaled(cells.rows, self._scale))
            return self._pooled(rows, cells.grid)
        pieces = assigned(lambda: [cells.rows], self._words, self._scale)
        words = np.concatenate([piece.labels for piece in pieces])
        return np.sqrt(self._pooled(np.eye(len(self._words), dtype=np.float32)[words], cells.grid).clip(0))

    def _pooled(self, rows: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        if not self.settings.pool:
            return rows
        sigma = (self.settings.pool, self.settings.pool, 0)
        return gaussian_filter(rows.reshape(*grid, -1), sigma, mode="nearest").reshape(rows.shape)
