"""How Sphinx builds the documentation: `make docs`. Docstrings are plain text in Google's layout."""

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import scvae_fast

project = "scvae_fast"
copyright = "2026, the scvae_fast authors"
release = scvae_fast.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_use_ivar = True

html_theme = "furo"
html_title = "scvae_fast"
html_show_sourcelink = False
html_copy_source = False

# A code span, and a section's entry after napoleon: ":param b: ".
_SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_FIELD = re.compile(r"^ *(?::[a-z]+[^:\n]*:|\.\. [a-z]+::.*)", re.MULTILINE)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_|])", r"\\\1", text)


def _prose(text: str) -> str:
    """Convert code spans to reStructuredText, and escape everything else."""
    result, end = "", 0
    for span in _SPAN.finditer(text):
        before, after = text[end : span.start()], text[span.end() : span.end() + 1]
        joined = "\\ " if before[-1:].isalnum() else ""
        result += f"{_escaped(before)}{joined}``{span[2]}``" + ("\\ " if after.isalnum() else "")
        end = span.end()
    return result + _escaped(text[end:])


def _marked_up(text: str) -> str:
    """Convert a paragraph, except its field names."""
    result, end = "", 0
    for field in _FIELD.finditer(text):
        result += _prose(text[end : field.start()]) + field[0]
        end = field.end()
    return result + _prose(text[end:])


def docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """After napoleon: indented text under prose is a formula or code, >>> an example, everything else prose."""
    blocks = re.split(r"\n\s*\n", "\n".join(lines))
    marked, above = [], ""
    for block in blocks:
        if block.startswith((">>> ", "    >>> ")):
            marked.append(block)
            continue
        if block.startswith("    ") and not above.lstrip().startswith((":", "..")):
            marked.append(block if marked and marked[-1].startswith("    ") else f"::\n\n{block}")
            continue
        marked.append(_marked_up(block))
        above = block
    lines[:] = "\n\n".join(marked).split("\n")


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Skip fields of named tuples, which have no text."""
    return True if type(obj).__name__ == "_tuplegetter" else None


# Files of the repository that pages link to, and the pages in docs/project that include them.
_PROJECT = {
    "../CONTRIBUTING.md": "contributing",
    "../SECURITY.md": "security",
    "../benchmarks/README.md": "benchmarks",
    "../csrc/cpu/README.md": "cpu_kernels",
    "../csrc/cuda/README.md": "cuda_kernels",
}


def page(app: Sphinx, docname: str, content: list[str]) -> None:
    """Point links to files of the repository to their pages; links to folders, which have none, become plain text."""
    here = Path(app.srcdir, docname).parent
    for path, name in _PROJECT.items():
        content[0] = content[0].replace(f"]({path}", f"](project/{name}.md")

    def link(found: re.Match[str]) -> str:
        return found[1] if (here / found[2]).is_dir() else found[0]

    content[0] = re.sub(r"\[([^\]]+)\]\((\.\./[^)#]*)\)", link, content[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", page)
    app.connect("autodoc-process-docstring", docstring, priority=600)  # napoleon's is 500
    app.connect("autodoc-skip-member", skip)
