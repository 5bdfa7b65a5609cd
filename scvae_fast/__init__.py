"""Fast learned sparse coding for PyTorch, and the sparse-coding VAE built on it.

`import scvae_fast` registers the operations. The command line imports PyTorch later, so that `scvae-fast --help` does
not wait for it.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scvae_fast import dictionaries, functional
    from scvae_fast.functional import backends, decode, ista, lasso, lista, soft_threshold, sparse_code
    from scvae_fast.models import SCVAE, SCVAEConfig, SCVAEOutput
    from scvae_fast.nn import ALISTA, LISTA, LISTACP, SLISTA, DictionaryLISTA, SparseAutoencoder, TiLISTA, load_saelens

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

if not TYPE_CHECKING:  # type checkers must still report unknown names
    _MODULES = ("dictionaries", "functional", "nn")
    _MODEL = ("SCVAE", "SCVAEConfig", "SCVAEOutput")
    _OPERATIONS = ("backends", "decode", "ista", "lasso", "lista", "soft_threshold", "sparse_code")

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return import_module(f"scvae_fast.{name}")  # the import adds it as an attribute of the package
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        storey = "models" if name in _MODEL else "functional" if name in _OPERATIONS else "nn"
        value = globals()[name] = getattr(import_module(f"scvae_fast.{storey}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


def _is_the_command() -> bool:
    """Whether this process is `scvae-fast` or `python -m scvae_fast`."""
    program = sys.argv[0] if sys.argv else ""
    # sys.argv[0] is "-m" until Python has found the module to run.
    return Path(program).stem == "scvae-fast" or (program == "-m" and "scvae_fast" in sys.orig_argv)


if not _is_the_command():  # programs saved by torch.export need the operations as soon as this package is imported
    import_module("scvae_fast.functional")
