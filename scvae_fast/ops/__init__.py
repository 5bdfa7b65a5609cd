"""The operations: LISTA, decoding, the whole sparse-coding bottleneck, and the soft threshold."""

from scvae_fast.ops._backend import backends
from scvae_fast.ops.decode import decode
from scvae_fast.ops.lista import lista
from scvae_fast.ops.soft_threshold import soft_threshold
from scvae_fast.ops.sparse_code import sparse_code

__all__ = ["backends", "decode", "lista", "soft_threshold", "sparse_code"]
