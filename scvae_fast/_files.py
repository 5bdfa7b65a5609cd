"""Files that appear whole, or not at all."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


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


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Make the folder, if it doesn't exist, and a file in it that is gone again.

    Raises:
        OSError: the folder can't be written to.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write content as JSON that people can read too, whole or not at all.

    Raises:
        OSError: the folder can't be written to.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
