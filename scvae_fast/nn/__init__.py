"""Layers: LISTA in its two forms, and the networks that followed it."""

from scvae_fast.nn.dictionary_lista import DictionaryLISTA
from scvae_fast.nn.lista import LISTA
from scvae_fast.nn.unrolled import ALISTA, LISTACP, SLISTA, TiLISTA

__all__ = ["ALISTA", "LISTA", "LISTACP", "SLISTA", "DictionaryLISTA", "TiLISTA"]
