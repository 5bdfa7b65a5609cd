"""The operations: LISTA, decoding, the whole sparse-coding bottleneck, the soft threshold, and what its models need."""

from scvae_fast.ops._backend import backends
from scvae_fast.ops.decode import decode
from scvae_fast.ops.group_norm_silu import group_norm_silu
from scvae_fast.ops.lista import lista
from scvae_fast.ops.soft_threshold import soft_threshold
from scvae_fast.ops.sparse_code import sparse_code

__all__ = ["backends", "decode", "group_norm_silu", "lista", "soft_threshold", "sparse_code"]
