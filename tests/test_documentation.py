"""The site builds without a warning; every public name is in its reference, with an example that runs."""

import ast
import doctest
import importlib
import inspect
import sys
import zlib
from pathlib import Path

import pytest
from processes import run

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "scvae_fast"
# Public without a list of names: everything in them is.
WHOLE = ["scvae_fast.dictionaries", "scvae_fast.errors", "scvae_fast.training.data", "scvae_fast.training.module"]


def names_of(module, tree):
    """Public names of a module: those in `__all__`, or all that one of `WHOLE` defines."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return [name for name in defined if not name.startswith("_")] if module in WHOLE else []


def public_names():
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for name in names_of(module, ast.parse(path.read_text(encoding="utf-8"))):
            yield module, name


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(ROOT / "docs"), str(folder))
    return folder


def documented(site):
    """Dotted names in the inventory that Sphinx writes: four lines of text, then compressed lines "name role …"."""
    content = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split()[0] for line in zlib.decompress(content).decode().splitlines() if " py:" in line}


@pytest.mark.processes
def test_every_public_name_is_in_the_reference(site):
    found = documented(site)
    assert len(found) > 100
    # What several modules offer is documented at one of them.
    objects = {id(getattr(importlib.import_module(m), n)) for m, n in public_names() if f"{m}.{n}" in found}
    missing = [
        f"{module}.{name}"
        for module, name in public_names()
        if f"{module}.{name}" not in found and id(getattr(importlib.import_module(module), name)) not in objects
    ]
    assert not missing


def public_objects():
    """Public functions and classes, each once, by their dotted name."""
    found = {}
    for module, name in public_names():
        thing = getattr(importlib.import_module(module), name)
        if thing.__class__.__module__ != "typing" and (inspect.isclass(thing) or inspect.isroutine(thing)):
            found.setdefault(id(thing), (f"{module}.{name}", thing))
    return list(found.values())


@pytest.mark.slow
def test_examples_in_docstrings_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    objects = public_objects()
    assert len(objects) > 80
    without, printed = [], []
    for name, thing in objects:
        names = dict(vars(sys.modules[thing.__module__]))
        test = parser.get_doctest(inspect.getdoc(thing) or "", names, name, None, None)
        if not test.examples:
            without.append(name)
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        runner.run(test, out=printed.append)
    assert not without
    assert runner.failures == 0, "".join(printed)
