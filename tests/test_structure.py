"""The storeys of the package, read from its imports: a file imports from below, and no two files import each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import scvae_fast

ROOT = Path(scvae_fast.__file__).parent
# From the top. The files of one entry may import each other; entries of one line may not.
STOREYS = [
    ["cli"],
    ["commands"],
    ["app"],
    ["comparison"],
    ["training", "evaluation"],
    ["plotting"],
    ["tasks"],
    ["codes", "metrics"],
    ["models"],
    ["estimators", "data"],
    ["nn"],
    ["functional"],
    ["ops"],
    ["dictionaries"],
    ["_devices", "_extras", "_files", "_limits", "_markdown", "_settings", "_shares", "_torchvision"],
    ["errors"],
]
HEIGHTS = {name: height for height, names in enumerate(reversed(STOREYS)) for name in names}
OUTSIDE = {"scvae_fast", "scvae_fast.__main__", "scvae_fast.configs"}  # they offer the others, or hold no code


def modules() -> dict[str, Path]:
    named = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in named.items()}


MODULES = modules()
IMPORTING = sorted(MODULES.keys() - OUTSIDE)


def imported(name: str) -> Iterator[str]:
    """What a module imports, anywhere in it: modules of the package, and the first names of others."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name if each.name in MODULES else each.name.split(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            inner = [f"{node.module}.{each.name}" for each in node.names]
            yield from (each if each in MODULES else str(node.module) for each in inner)


def entry(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("name", IMPORTING)
def test_imports_go_down(name: str) -> None:
    for other in MODULES.keys() & set(imported(name)) - OUTSIDE:
        assert entry(other) == entry(name) or HEIGHTS[entry(other)] < HEIGHTS[entry(name)], other


def test_no_two_files_import_each_other() -> None:
    edges = {name: set(imported(name)) for name in MODULES}
    assert not [(a, b) for a in MODULES for b in edges[a] & MODULES.keys() if a < b and a in edges[b]]


@pytest.mark.parametrize("name", IMPORTING)
def test_matplotlib_is_imported_in_plotting_alone(name: str) -> None:
    assert entry(name) == "plotting" or not {each.split(".")[0] for each in imported(name)} & {"matplotlib"}


@pytest.mark.parametrize("name", [name for name in IMPORTING if entry(name) == "tasks"])
def test_tasks_neither_print_nor_parse(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert not {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & {"print"}
    assert not set(imported(name)) & {"argparse", "sys"}
