"""How tests read what commands write."""

import re
from pathlib import Path


def words(path: Path) -> str:
    """The text of a file, with one space for every run of them: tables in Markdown line up by spaces."""
    return re.sub(" +", " ", path.read_text(encoding="utf-8"))
