"""Writes the table and figures of a comparison into a page of the documentation."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scvae_fast._files import write_atomically, write_json
from scvae_fast.comparison.table import abridged, markdown
from scvae_fast.errors import UsageError
from scvae_fast.plotting.figures import Figure, save

# Pages are read on screens, and their figures are committed to the repository.
_DPI = 80
BEGIN, END = "<!-- comparison -->", "<!-- /comparison -->"


def write_page(page: Path, content: Mapping[str, Any], drawn: Mapping[str, Figure]) -> None:
    """Put the table between the markers of a page, its JSON next to the page, and the figures under images/PAGE/.

    Args:
        page: an existing page, such as docs/comparison.md.
        content: the result of `table.collect`.
        drawn: figures by name.

    Raises:
        UsageError: the page can't be read or lacks the markers; nothing is written.
    """
    short = abridged(content)
    text = with_table(page, short)
    for name, figure in drawn.items():
        path = page.parent / "images" / page.stem / f"{name}.png"
        save(path, figure, dpi=_DPI)
    write_json(page.with_suffix(".json"), short)
    write_atomically(page, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def with_table(page: Path, content: Mapping[str, Any]) -> str:
    """The text of a page, with the table of these results between its markers.

    Raises:
        UsageError: the page can't be read or lacks the markers.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the page {page} can't be read: {error}") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"the page {page} must have the lines {BEGIN} and {END}, between which the table goes")
    return f"{before}{BEGIN}\n\n{markdown(content)}\n\n{END}{after}"


def stored(page: Path) -> dict[str, Any]:
    """The results behind a page.

    Raises:
        OSError: there are none.
    """
    return dict(json.loads(page.with_suffix(".json").read_text(encoding="utf-8")))
