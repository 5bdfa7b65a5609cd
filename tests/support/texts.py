"""Helpers to read the output of commands."""

import re
from pathlib import Path


def words(path: Path) -> str:
    """The text of a file with runs of spaces reduced to one, because Markdown tables are aligned by spaces."""
    return re.sub(" +", " ", path.read_text(encoding="utf-8"))
