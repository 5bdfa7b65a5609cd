"""Hides messages of Lightning and torch that don't concern the user."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_EXPECTED = (
    # A crop takes two milliseconds: worker processes would only compete with training for processor cores.
    ".*does not have many workers.*",
    # Lightning uses a name that torch has changed.
    r".*isinstance\(treespec, LeafSpec\).* is deprecated.*",
    # Lightning uses names that jsonargparse has changed.
    r"(?s).*(was deprecated in v4.*Instead use ``|only one JsonargparseDeprecationWarning per type)",
    # `scvae-fast train` passes its arguments itself.
    ".*LightningCLI's args parameter is intended to run from within Python.*",
)


@contextmanager
def lightning_messages_silenced() -> Iterator[None]:
    """Silence Lightning's list of accelerators, its advertisements, and warnings that are known to be harmless."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in _EXPECTED:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            logger.setLevel(level)
