"""Every Python block of the README and of pages with examples runs, in order, as one session would."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import formulas, loops
from benchmarks.memory import kept_for_backward
from benchmarks.rivals import composed

README = Path(__file__).resolve().parent.parent / "README.md"
DOCS = README.parent / "docs"
PAGES = {
    README: 4,
    DOCS / "index.md": 2,
    DOCS / "estimators.md": 1,
    DOCS / "family.md": 2,
    DOCS / "lasso.md": 2,
    DOCS / "sparse_autoencoder.md": 3,
    DOCS / "training.md": 2,
}


def blocks(page):
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("page", "least"), PAGES.items(), ids=lambda each: getattr(each, "stem", ""))
def test_snippets_run(tmp_path, monkeypatch, page, least):
    monkeypatch.chdir(tmp_path)
    found = blocks(page)
    assert len(found) >= least
    names: dict[str, object] = {"__name__": page.stem}
    for block in found:
        exec(compile(block, str(page), "exec"), names)


def test_the_readme_s_loop_and_call_agree_and_print_what_it_says(capsys):
    """The two snippets of the first screen: one result, and the density that the comment behind `print` states."""
    torch.manual_seed(0)
    names: dict[str, object] = {}
    before, after = blocks(README)[:2]
    exec(before, names)
    exec(after, names)
    said = re.findall(r"^print\(.*\)  # (.*)$", after, re.MULTILINE)
    assert said
    assert capsys.readouterr().out.splitlines() == said
    rows = names["x"][:256]
    z, x_hat = names["loop"](rows, *(names[n] for n in ("W", "S", "theta", "D")), 30)
    for ours, theirs in ((names["z"][:256], z), (names["x_hat"][:256], x_hat)):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_the_readme_s_loop_keeps_what_the_measured_one_keeps():
    """Its figures are those of the benchmarks' naive loop, so both must do the same."""
    names: dict[str, object] = {}
    for block in blocks(README)[:2]:
        exec(block, names)
    given = {n: names[n].detach().clone().requires_grad_() for n in ("W", "S", "theta", "D")}
    given["x"] = names["x"][:64].clone().requires_grad_()
    arguments = {**given, "W_e": given["W"]}
    measured = SimpleNamespace(n_iter=3, gain=None)
    kept = [
        kept_for_backward(call, given)
        for call in (
            lambda: names["loop"](*(given[n] for n in ("x", "W", "S", "theta", "D")), 3),
            lambda: composed("sparse_code", formulas.released, measured, arguments),
        )
    ]
    assert kept[0] == kept[1]


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
