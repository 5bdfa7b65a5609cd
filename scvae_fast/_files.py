"""Files that appear whole, or not at all."""

import itertools
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scvae_fast.errors import UsageError


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Have `write` make a file under a temporary name in the same folder, then move it to `path`.

    Whoever looks at `path`, even after a crash, finds the old file or the new one. Missing folders are made.

    Args:
        path: where the file is to be; what is there is replaced.
        write: gets the temporary path, which has the suffix of `path`, and writes the whole file.

    Raises:
        OSError: the folder can't be written to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own gives the file the permissions that the user's umask asks for.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        temporary = Path(folder, path.name)
        write(temporary)
        os.replace(temporary, path)


def cache_folder() -> Path:
    """Where what was found out about this machine is kept: SCVAE_FAST_CACHE, or scvae_fast under XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SCVAE_FAST_CACHE") or Path(base, "scvae_fast"))


def claim_folder(folder: Path, *, empty: bool = False) -> None:
    """Find out whether a folder can be written to before hours of work.

    Args:
        folder: made if it doesn't exist.
        empty: whether it must hold nothing, so that nothing is overwritten or mixed up with the results.

    Raises:
        UsageError: it can't be written to, or it must be empty and is not.
    """
    try:
        if empty and folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty: choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder} can't be written to: {error}") from error


def untaken(path: Path, is_taken: Callable[[Path], bool]) -> Path:
    """`name.png` for that path, or the first of `name-2.png`, `name-3.png` … that is not taken."""
    numbered = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in itertools.count(2))
    return next(candidate for candidate in itertools.chain([path], numbered) if not is_taken(candidate))


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write content as JSON that people can read too, whole or not at all.

    Raises:
        OSError: the folder can't be written to.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
