"""A page of the documentation with the table of a comparison in it, and the figures behind it beside the page."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scvae_fast._files import write_atomically, write_json
from scvae_fast.comparison.table import abridged, markdown
from scvae_fast.errors import UsageError
from scvae_fast.plotting.figures import Figure, save

# Pages are read on screens, and their pictures stay in the repository.
_DPI = 80
BEGIN, END = "<!-- comparison -->", "<!-- /comparison -->"


def write_page(page: Path, content: Mapping[str, Any], drawn: Mapping[str, Figure]) -> None:
    """Put the table between the markers of a page; its JSON goes beside it, the figures under images/ and its name.

    Args:
        page: such as docs/comparison.md, which exists.
        content: what `table.collect` gives.
        drawn: figures by name.

    Raises:
        UsageError: the page can't be read, or lacks the markers; nothing is written then.
    """
    short = abridged(content)
    text = with_table(page, short)
    for name, figure in drawn.items():
        path = page.parent / "images" / page.stem / f"{name}.png"
        save(path, figure, dpi=_DPI)
    write_json(page.with_suffix(".json"), short)
    write_atomically(page, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def with_table(page: Path, content: Mapping[str, Any]) -> str:
    """The text of a page with the table of these results between its markers.

    Raises:
        UsageError: the page can't be read, or lacks the markers.
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
