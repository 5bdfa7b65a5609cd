"""The loops of docs/loops.md and their replacements: time, memory kept for the backward pass, largest difference.

`python -m benchmarks.loops` runs the page's own code and prints its table, as Markdown.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.environment import ROOT, environment, heading
from benchmarks.memory import kept_for_backward
from benchmarks.timing import calls_that_take, spread, until
from scvae_fast._markdown import markdown_table

PAGE = ROOT / "docs" / "loops.md"
_MEBIBYTE = 2**20


class Pair(NamedTuple):
    """A loop of the page and its replacement, functions of x (M, n), with all tensors that they use."""

    title: str
    x: torch.Tensor
    loop: Callable[[torch.Tensor], torch.Tensor]
    ours: Callable[[torch.Tensor], torch.Tensor]
    leaves: tuple[torch.Tensor, ...]


def pairs() -> Iterator[Pair]:
    """The pairs of the page, in order. Every section uses the names of the page's first block and its own."""
    head, *sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    shared: dict[str, Any] = {"__name__": "loops"}
    _run(head, shared)
    for section in sections:
        names = dict(shared)
        _run(section, names)
        if "loop" in names:
            yield Pair(section.partition("\n")[0], names["x"], names["loop"], names["ours"], tuple(_leaves(names)))


def _run(text: str, names: dict[str, Any]) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, str(PAGE), "exec"), names)


def _leaves(names: dict[str, Any]) -> Iterator[torch.Tensor]:
    for value in list(names.values()):
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, nn.Module):
            yield from value.parameters()


def difference(pair: Pair) -> float:
    """The largest difference: max |z_ours − z_loop| / max |z_loop|."""
    with torch.no_grad():
        found, expected = pair.ours(pair.x), pair.loop(pair.x)
    return float((found - expected).abs().max() / expected.abs().max())


def _forward(call: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return call(x)

    return run


def _both(call: Callable[[torch.Tensor], torch.Tensor], pair: Pair) -> Callable[[], object]:
    """A forward and a backward pass, with gradients of x and of all weights."""

    def run() -> object:
        z = call(pair.x)
        return torch.autograd.grad(z, pair.leaves, torch.ones_like(z), allow_unused=True)

    return run


def _faster(contestants: dict[str, Callable[[], object]], seconds: float) -> float:
    """The replacement's speed-up over the loop: the median of ratios in the same round."""
    calls = calls_that_take(2e-3, contestants)
    rounds = until(seconds, contestants, least=7, most=500, calls=calls)
    return spread(r["loop"] / r["ours"] for r in rounds).median


def table(seconds: float) -> str:
    """The table, with a row for each loop."""
    rows = []
    for pair in pairs():
        both_ways = {"loop": pair.loop, "ours": pair.ours}
        forward = _faster({name: _forward(call, pair.x) for name, call in both_ways.items()}, seconds)
        differs = difference(pair)
        for leaf in pair.leaves:
            leaf.requires_grad_()
        both = _faster({name: _both(call, pair) for name, call in both_ways.items()}, seconds)
        given = {str(i): leaf for i, leaf in enumerate(pair.leaves)}
        kept = {name: kept_for_backward(partial(call, pair.x), given).made for name, call in both_ways.items()}
        memory = [f"{kept[name] / _MEBIBYTE:.0f} MiB" for name in ("loop", "ours")]
        rows.append([pair.title, f"{forward:.1f} ×", f"{both:.1f} ×", *memory, f"{differs:.0e}"])
        for leaf in pair.leaves:
            leaf.requires_grad_(isinstance(leaf, nn.Parameter))
    columns = ["loop", "forward", "forward and backward", "the loop keeps", "we keep", "largest difference"]
    return markdown_table(columns, rows)


def main(words: list[str] | None = None) -> None:
    """Print the machine and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loops", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="seconds per comparison (default: 5)")
    options = parser.parse_args(words)
    torch.manual_seed(0)
    print(heading(environment("cpu")))
    print(table(options.seconds))


if __name__ == "__main__":
    main()
