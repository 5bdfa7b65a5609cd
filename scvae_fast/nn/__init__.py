"""Layers: LISTA in its two forms, the unrolled networks based on it, and the sparse autoencoder."""

from scvae_fast.nn.dictionary_lista import DictionaryLISTA
from scvae_fast.nn.lista import LISTA
from scvae_fast.nn.saelens import load_saelens
from scvae_fast.nn.sparse_autoencoder import SparseAutoencoder
from scvae_fast.nn.unrolled import ALISTA, LISTACP, SLISTA, TiLISTA

__all__ = [
    "ALISTA",
    "LISTA",
    "LISTACP",
    "SLISTA",
    "DictionaryLISTA",
    "SparseAutoencoder",
    "TiLISTA",
    "load_saelens",
]
