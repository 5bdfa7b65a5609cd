"""Fast learned sparse coding for PyTorch, and the sparse-coding VAE built on it."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from scvae_fast import dictionaries, functional
from scvae_fast.functional import backends, decode, ista, lasso, lista, soft_threshold, sparse_code
from scvae_fast.nn import ALISTA, LISTA, LISTACP, SLISTA, DictionaryLISTA, SparseAutoencoder, TiLISTA, load_saelens

if TYPE_CHECKING:
    from scvae_fast.models import SCVAE, SCVAEConfig, SCVAEOutput

__version__ = version("scvae-fast")

__all__ = [
    "ALISTA",
    "LISTA",
    "LISTACP",
    "SCVAE",
    "SLISTA",
    "DictionaryLISTA",
    "SCVAEConfig",
    "SCVAEOutput",
    "SparseAutoencoder",
    "TiLISTA",
    "backends",
    "decode",
    "dictionaries",
    "functional",
    "ista",
    "lasso",
    "lista",
    "load_saelens",
    "soft_threshold",
    "sparse_code",
]


def __getattr__(name: str) -> Any:
    # The model brings huggingface_hub along: who only wants the layers need not wait for it.
    if name in ("SCVAE", "SCVAEConfig", "SCVAEOutput"):
        from scvae_fast import models

        return getattr(models, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
