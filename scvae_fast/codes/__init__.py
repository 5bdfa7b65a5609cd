"""Sparse codes of pictures, in memory and in files. `storage` and `coding` have more dependencies: import them."""

from scvae_fast.codes.sparse import CodedPicture, SparseCodes

__all__ = ["CodedPicture", "SparseCodes"]
