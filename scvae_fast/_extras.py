"""Packages that not every installation has."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(user: str, package: str, name: str = "train") -> Iterator[None]:
    """Around imports: one that fails says what needs which package, and which extra of the installation brings it.

    Raises:
        ImportError: instead of the one of the import.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f'{user} needs {package}: pip install "scvae_fast[{name}]"') from error
