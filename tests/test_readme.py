"""Every Python block of the README and of pages with examples runs, in order, as one session would."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
ESTIMATORS, FAMILY = (README.parent / "docs" / f"{page}.md" for page in ("estimators", "family"))


PAGES = {README: 4, ESTIMATORS: 1, FAMILY: 2}


@pytest.mark.parametrize(("page", "least"), PAGES.items(), ids=lambda each: getattr(each, "stem", ""))
def test_snippets_run(tmp_path, monkeypatch, page, least):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= least
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)


def test_links_to_files_lead_somewhere():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert targets
    for target in targets:
        assert (README.parent / target).exists(), target
