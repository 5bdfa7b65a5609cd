"""Small calls of the GPU kernels, compared with the formula: `python tests/support/small_calls.py hopper cuda`.

For a process of its own, of kernels that may crash or hang, and for sanitizers, under which every row counts. Needs no
pytest. "hopper" are the kernels of `cuda` for Hopper cards. Plans are those for a card of two multiprocessors: 128 rows
are enough for these kernels there.
"""

import sys
from typing import Any, NamedTuple

import torch
from problems import (
    assert_as_exact_as_pytorch,
    assert_as_exact_in_16_bits,
    clear_of_ties,
    device_of,
    lista_problem,
    sparse_code_problem,
    to,
    unrolled_ista,
    unrolled_lista,
    unrolled_sparse_code,
)

from scvae_fast import ista, lista, sparse_code
from scvae_fast.ops.backends.cuda import device

UNROLLED = {lista: unrolled_lista, ista: unrolled_ista, sparse_code: unrolled_sparse_code}
T = 2


class Sizes(NamedTuple):
    """M, K and n of calls, and their types."""

    shapes: tuple[tuple[int, int, int], ...]
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)


# Two blocks of 64 rows are a cluster; 130 rows are two turns of it.
KERNELS = {
    "hopper": Sizes(((130, 300, 70),)),
    "cuda": Sizes(((20, 70, 33), (130, 70, 33)), (torch.float32, torch.bfloat16)),
    "triton": Sizes(((20, 70, 33),), (torch.float32, torch.bfloat16)),
}


def calls(M: int, K: int, n: int) -> list[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """Operations, their tensors in float64, and settings: plain LISTA, and two of the family."""
    each = lista_problem(M, K, start="z0")
    each["S"] = torch.stack([each["S"], 0.5 * each["S"].T])
    steps = lista_problem(M, K, start="plain")
    steps["G"] = 0.6 * torch.eye(K, dtype=torch.float64) - steps.pop("S")
    steps |= {"theta": 0.4 * steps["theta"], "step": torch.tensor([0.8, 0.9], dtype=torch.float64)}
    del steps["gain"]
    return [(sparse_code, sparse_code_problem(M, K, n), {}), (lista, each, {"positive": True}), (ista, steps, {})]


def check(kernels: str) -> None:
    """Results and all gradients of these kernels' calls.

    Raises:
        AssertionError: one errs more than the formula in the same type does, or the kernels were not reached.
    """
    backend = "triton" if kernels == "triton" else "cuda"
    with device.few_multiprocessors():
        if kernels == "hopper":
            assert_hopper_is_reached()
        for dtype in KERNELS[kernels].dtypes:
            for shape in KERNELS[kernels].shapes:
                for op, problem, settings in calls(*shape):
                    print(f"{kernels}, {dtype}: {op.__name__} of M, K, n = {shape}", flush=True)
                    compare(op, to(problem, dtype), dtype, n_iter=T, backend=backend, **settings)


def assert_hopper_is_reached() -> None:
    """Every shape meant for them must reach them."""
    index = torch.cuda.current_device() if device_of("cuda") == "cuda" else None
    for M, K, n in KERNELS["hopper"].shapes:
        plan = device.module().cuda_plan(device.card(index), M, K, n, False, 2)
        assert plan.cluster == 2, f"M, K, n = {(M, K, n)} go to blocks of {plan.rows} rows of the other kernels"


def compare(op: Any, problem: dict[str, Any], dtype: torch.dtype, **settings: Any) -> None:
    """In float32, rows in which rounding could switch a code on or off are redrawn."""
    if dtype == torch.float32:
        options = {name: value for name, value in settings.items() if name != "backend"}
        assert_as_exact_as_pytorch(op, UNROLLED[op], clear_of_ties(problem, **options), **settings)
    else:
        assert_as_exact_in_16_bits(op, UNROLLED[op], problem, **settings)


def main(names: list[str]) -> None:
    """Checks the kernels of these names."""
    if not names or not set(names) <= set(KERNELS):
        sys.exit(f"small_calls.py: say which kernels, of {', '.join(KERNELS)}, got {' '.join(names) or 'none'}")
    for name in names:
        torch.manual_seed(0)
        check(name)


if __name__ == "__main__":
    main(sys.argv[1:])
