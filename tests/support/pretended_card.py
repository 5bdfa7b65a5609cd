"""A plugin of pytest, for processes that act as if there were a card, and launch nothing: `pytest -p pretended_card`.

Two uses, on a machine without a card; the environment names the files.

With COLLECTED, `--collect-only` writes there, of every test, whether it is skipped and whether it is marked `gpu`; with
CARD=none too, as this machine has it, for comparison.

With COMPILED, tests compare nothing, and every launch of a Triton kernel is only noted: what is written there is, by
kernel, how many distinct kinds Triton would compile, as its own code tells them apart. Tests that need more of a card
than this end early, so there may be a few more.

    COMPILED=counts.json PYTHONPATH=.:tests/support python -m pytest -q -p pretended_card -m gpu -k triton tests/ops
"""

import json
import os
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from _pytest.skipping import evaluate_skip_marks

from scvae_fast.ops import backends

COLLECTED, COMPILED = os.environ.get("COLLECTED"), os.environ.get("COMPILED")
compiled: dict[str, set[str]] = defaultdict(set)


def _declines(device: torch.device, dtype: torch.dtype) -> str | None:
    narrow = dtype in (torch.float32, torch.bfloat16, torch.float16)
    return None if narrow and (COMPILED or device.type == "cuda") else "it runs on a card, in float32 and less"


def _pretend() -> None:
    """That the kernels for GPUs can be used; tensors stay where they are."""
    torch.cuda.is_available, torch.cuda.current_device = lambda: True, lambda: 0
    to = torch.Tensor.to
    torch.Tensor.to = lambda t, *words, **more: to(t, *("cpu" if w == "cuda" else w for w in words), **more)
    torch.Tensor.cuda = lambda t: t
    for name in ("triton", "cuda"):
        backends.BACKENDS[name] = backends.BACKENDS[name]._replace(unusable=lambda: None, declines=_declines)


def _note_launches() -> None:
    """Of an H200; results are what memory held, so nothing is compared."""
    import problems
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import JITFunction, create_function_from_signature

    from scvae_fast.ops.backends.triton import launch
    from scvae_fast.ops.backends.triton.tiles import Card

    target = make_backend(GPUTarget("cuda", 90, 32))
    card = Card((9, 0), shared_bytes=232_448, multiprocessors=132, cache_bytes=50 << 20, name="H200")

    def run(kernel: Any, *words: Any, grid: Any, warmup: bool, **more: Any) -> SimpleNamespace:
        bind = create_function_from_signature(kernel.signature, kernel.params, target)
        _, specialisation, options = bind(*words, **more)
        compiled[kernel.fn.__name__].add(f"{specialisation} {options}")
        return SimpleNamespace(metadata=SimpleNamespace(shared=0))

    JITFunction.run = run
    launch.card = lambda index: card
    problems.distance = lambda a, b: 0.0
    torch.testing.assert_close = lambda *words, **more: None
    torch.equal = lambda *words: True


if os.environ.get("CARD") != "none":
    _pretend()
if COMPILED:
    _note_launches()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Writes what was collected."""
    if COLLECTED:
        found = {
            item.nodeid: (evaluate_skip_marks(item) is not None, item.get_closest_marker("gpu") is not None)
            for item in session.items
        }
        with open(COLLECTED, "w", encoding="utf-8") as file:
            json.dump(found, file)


def pytest_sessionfinish() -> None:
    """Writes what would have been compiled."""
    if COMPILED:
        with open(COMPILED, "w", encoding="utf-8") as file:
            json.dump({name: len(kinds) for name, kinds in sorted(compiled.items())}, file)
