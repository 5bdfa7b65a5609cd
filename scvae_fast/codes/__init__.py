"""Sparse codes of pictures, in memory and in files. Import `storage` and `coding` directly: they need more packages."""

from scvae_fast.codes.sparse import CodedPicture, SparseCodes

__all__ = ["CodedPicture", "SparseCodes"]
