"""Every Python block of the README and of pages with examples runs, in order, as one session would."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks import loops

README = Path(__file__).resolve().parent.parent / "README.md"
DOCS = README.parent / "docs"
PAGES = {
    README: 4,
    DOCS / "index.md": 2,
    DOCS / "estimators.md": 1,
    DOCS / "family.md": 2,
    DOCS / "lasso.md": 2,
    DOCS / "sparse_autoencoder.md": 3,
}


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


def test_loops_have_replacements_with_the_same_numbers_and_gradients():
    torch.manual_seed(0)
    found = list(loops.pairs())
    assert [pair.title for pair in found] == [
        "Shared weights",
        "A Linear module for each layer",
        "A step and a threshold for each layer",
        "Non-negative FISTA",
        "Coupled weights",
    ]
    for pair in found:
        x = pair.x[:40].clone().requires_grad_()
        ours, theirs = pair.ours(x), pair.loop(x)
        assert 0.01 < (theirs != 0).float().mean() < 0.5
        for a, b in ((ours, theirs), (*torch.autograd.grad(ours.sum(), x), *torch.autograd.grad(theirs.sum(), x))):
            assert (a - b).norm() <= 1e-4 * b.norm(), pair.title
