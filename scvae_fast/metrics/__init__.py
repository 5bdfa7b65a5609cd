"""Metrics of reconstructions and of codes."""

from scvae_fast.metrics.baseline import block_means
from scvae_fast.metrics.codes import CodeSparsity, CodeStatistics
from scvae_fast.metrics.pictures import PictureQuality

__all__ = ["CodeSparsity", "CodeStatistics", "PictureQuality", "block_means"]
