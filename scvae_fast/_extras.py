"""Optional dependencies."""

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
    """Wrap imports: if one fails, the error names the user, the missing package and the extra that installs it.

    Raises:
        ImportError: an import inside the context fails.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f'{user} needs {package}: pip install "scvae_fast[{name}]"') from error
