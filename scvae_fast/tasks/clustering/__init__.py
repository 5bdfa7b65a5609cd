"""K-means on the codes of cells: streaming fits, saved clusterings and their quality; `scvae-fast cluster`."""

from scvae_fast.tasks.clustering.kmeans import KMeansFit, KMeansSettings, fit_kmeans
from scvae_fast.tasks.clustering.rows import RowScale, scaled
from scvae_fast.tasks.clustering.saved import Clustering

__all__ = ["Clustering", "KMeansFit", "KMeansSettings", "RowScale", "fit_kmeans", "scaled"]
