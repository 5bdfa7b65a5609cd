"""Errors of sparse_code against float64: python -m benchmarks.accuracy.

For every backend that takes the device and dtype, the relative error ‖result − exact‖ / ‖exact‖ of the codes, the
reconstruction and every gradient; exact is the specification in float64, of the same rounded arguments. In float32,
rows are left out where a rounding could switch a code on or off: one such code outweighs all roundings of a gradient.
In 16 bits, where codes are rounded after every iteration, there would be none left.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from typing import Any

import torch

import scvae_fast
from benchmarks import cases, gate, gpu, program, run
from benchmarks.cases import Case, Tensors
from scvae_fast._files import write_json
from scvae_fast.ops import _backend

EXACT = "eager"
MARGIN = 1e-5  # from its threshold, of a float32 drive that no rounding carries across


def outcome(backend: str, t: Tensors, n_iter: int) -> dict[str, torch.Tensor]:
    """Codes, reconstruction, and the gradients of a fixed random combination of them, under the tensors' names."""
    leaves = Tensors._make(None if tensor is None else tensor.detach().requires_grad_() for tensor in t)
    results = run.fused(backend, leaves, n_iter)
    drawn = torch.Generator().manual_seed(1)
    weights = [torch.randn(r.shape, generator=drawn).bfloat16().to(r) for r in results]  # exact in every dtype
    torch.autograd.backward(results, weights)
    gradients = {f"∂{name}": leaf.grad for name, leaf in leaves._asdict().items() if leaf is not None}
    return {"codes": results[0].detach(), "x̂": results[1].detach(), **gradients}


def takers(device: str, dtype: torch.dtype) -> list[str]:
    """The backends that run there."""
    return [name for name in scvae_fast.backends() if _backend.declines(name, torch.device(device), dtype) is None]


def near_a_tie(t: Tensors, n_iter: int) -> torch.Tensor:
    """(M,): whether any drive of a row comes within MARGIN of the threshold; t is in float64."""
    b = t.x @ t.W_e.T
    near = torch.zeros(len(b), dtype=torch.bool, device=b.device)
    start = b if t.gain is None else b * t.gain
    for u in itertools.chain([start], (b + z @ t.S.T for z in itertools.islice(cases.iterates(t, n_iter), n_iter))):
        near |= ((u.abs() - t.theta).abs() < MARGIN).any(dim=1)
    return near


def problem(device: str, dtype: torch.dtype, rows: int, n_iter: int) -> Tensors:
    """At most so many rows; n = 256, K = 512, the released code's start, 5 % final density."""
    drawn = cases.tensors(Case(rows, n_iter, 0.05, official=True))
    t = Tensors._make(None if tensor is None else tensor.to(device, dtype) for tensor in drawn)
    return t._replace(x=t.x[~near_a_tie(t.double(), n_iter)]) if dtype == torch.float32 else t


def errors(t: Tensors, n_iter: int) -> dict[str, dict[str, float]]:
    """For every backend the error of each result and gradient."""
    exact = outcome(EXACT, t.double(), n_iter)
    found = {}
    for backend in takers(t.x.device.type, t.x.dtype):
        ours = outcome(backend, t, n_iter)
        found[backend] = {name: gate.error(ours[name], reference) for name, reference in exact.items()}
    return found


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.accuracy", description=__doc__)
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if cuda else "cpu")
    parser.add_argument("--dtypes", nargs="+", choices=gpu.DTYPES, default=["float32"])
    parser.add_argument("--n-iter", type=int, nargs="+", default=[5, 16, 30], metavar="T", help="default 5 16 30")
    parser.add_argument("--rows", type=int, default=4096, metavar="M", help="vectors (default 4096)")
    program.add_json_option(parser)
    chosen = parser.parse_args(words)
    if chosen.rows < 1 or min(chosen.n_iter) < 0:
        parser.error("--rows must be at least 1, --n-iter at least 0")
    if chosen.device == "cuda" and not cuda:
        parser.error("torch finds no CUDA device")
    return chosen


def main(words: list[str] | None = None) -> int:
    """Prints a line for each dtype, number of iterations and backend; returns the exit status."""
    chosen = arguments(words)
    found = gpu.environment(chosen.device)
    interpreted = ", Triton interpreted" if "triton" in takers("cpu", torch.float32) else ""
    where = found.get("gpu", f"CPU{interpreted}")
    print(f"sparse_code, n = 256, K = 512, {where}, torch {torch.__version__}: error against float64")
    results: list[dict[str, Any]] = []
    for dtype, n_iter in itertools.product(chosen.dtypes, chosen.n_iter):
        t = problem(chosen.device, gpu.DTYPES[dtype], chosen.rows, n_iter)
        for backend, error in errors(t, n_iter).items():
            if not results:
                print(f"{'':<36}" + "".join(f"{name:>10}" for name in error))
            line = "".join(f"{value:>10.1e}" for value in error.values())
            print(f"{dtype:<10}M={len(t.x):<8}T={n_iter:<4}{backend:<10}{line}", flush=True)
            results.append({"dtype": dtype, "M": len(t.x), "T": n_iter, "backend": backend, "errors": error})
    if chosen.json:
        write_json(chosen.json, {"environment": found, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
