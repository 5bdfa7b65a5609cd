"""Fast learned sparse coding for PyTorch, and the sparse-coding VAE built on it."""

from importlib.metadata import version

from scvae_fast.nn import LISTA, DictionaryLISTA
from scvae_fast.ops import backends
from scvae_fast.ops.decode import decode
from scvae_fast.ops.lista import lista
from scvae_fast.ops.soft_threshold import soft_threshold
from scvae_fast.ops.sparse_code import sparse_code

__version__ = version("scvae-fast")

__all__ = ["LISTA", "DictionaryLISTA", "backends", "decode", "lista", "soft_threshold", "sparse_code"]
