"""Sparse codes of pictures: in memory, and in files. `storage` and `coding` are imported for what they need."""

from scvae_fast.codes.sparse import CodedPicture, SparseCodes

__all__ = ["CodedPicture", "SparseCodes"]
