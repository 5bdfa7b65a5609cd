"""Tables in Markdown."""

from collections.abc import Collection, Sequence


def markdown_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,), aligned: bool = True
) -> str:
    """Format rows of text as a table.

    Args:
        head: column titles.
        rows: as long as the head.
        left: numbers of the left-aligned columns; the others are right-aligned.
        aligned: whether columns also line up in the raw text, for terminals.
    """
    lines = [[" ".join(cell.replace("|", "\\|").split()) for cell in line] for line in (head, *rows)]
    widths = [max(4, *(len(line[i]) for line in lines)) if aligned else 0 for i in range(len(head))]
    dashes = ["-" * (max(width, 4) - 1) for width in widths]
    rule = [f":{dash}" if i in left else f"{dash}:" for i, dash in enumerate(dashes)]

    def text(line: Sequence[str]) -> str:
        cells = [cell.ljust(widths[i]) if i in left else cell.rjust(widths[i]) for i, cell in enumerate(line)]
        return f"| {' | '.join(cells)} |"

    return "\n".join(map(text, (lines[0], rule, *lines[1:])))
