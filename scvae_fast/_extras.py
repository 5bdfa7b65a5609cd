"""Packages that not every installation has."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version


def installed_version(package: str) -> str:
    """The version of a distribution, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


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
