"""decode as an operation of torch.library, whichever backend runs it."""

from __future__ import annotations

from scvae_fast.ops._library import Operation, Sibling
from scvae_fast.ops._widened import Widened
from scvae_fast.ops.decode import _cpu, _cuda, _eager, _triton
from scvae_fast.ops.decode._contract import ARGUMENTS, ROWS, Problem

SIBLINGS: dict[str, Sibling] = {"cpu": Widened(_cpu), "triton": _triton.SIBLING, "cuda": _cuda.SIBLING, "eager": _eager}

OPERATION = Operation("decode", ARGUMENTS, Problem, ROWS, results=1, siblings=SIBLINGS, keeps_codes=False)
