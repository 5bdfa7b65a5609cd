"""Layers: LISTA in its two forms."""

from scvae_fast.nn.lista import LISTA, DictionaryLISTA

__all__ = ["LISTA", "DictionaryLISTA"]
