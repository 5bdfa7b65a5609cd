"""sparse_code as an operation of torch.library, whichever backend runs it."""

from __future__ import annotations

from scvae_fast.ops._library import Operation, Sibling
from scvae_fast.ops._widened import Widened
from scvae_fast.ops.sparse_code import _cpu, _cuda, _eager, _triton
from scvae_fast.ops.sparse_code._contract import ARGUMENTS, ROWS, Problem

SIBLINGS: dict[str, Sibling] = {"cpu": Widened(_cpu), "triton": _triton.SIBLING, "cuda": _cuda.SIBLING, "eager": _eager}

OPERATION = Operation("sparse_code", ARGUMENTS, Problem, ROWS, results=2, siblings=SIBLINGS, keeps_codes=True)
