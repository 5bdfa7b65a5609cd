"""A terminal without what Lightning and torch say about each other."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_EXPECTED = (
    # A crop takes two milliseconds: worker processes would only take processor cores away from the training.
    ".*does not have many workers.*",
    # Lightning uses what torch has renamed.
    r".*isinstance\(treespec, LeafSpec\).* is deprecated.*",
    # Lightning calls methods that jsonargparse has renamed.
    r"(?s).*(was deprecated in v4.*Instead use ``|only one JsonargparseDeprecationWarning per type)",
    # `scvae-fast train` hands its arguments over itself.
    ".*LightningCLI's args parameter is intended to run from within Python.*",
)


@contextmanager
def lightning_messages_silenced() -> Iterator[None]:
    """Silences Lightning's list of accelerators and its advertisements, and warnings that are known to be harmless."""
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
