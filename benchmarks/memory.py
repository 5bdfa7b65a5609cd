"""The memory of LISTA: python -m benchmarks.memory.

What autograd keeps from a forward pass, parameters and the input apart, and how much resident memory a forward and
backward pass adds at its peak (its results and gradients included), each in a fresh process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks import cases, program, resident
from benchmarks.cases import Case
from benchmarks.kept import Kept, kept_for_backward
from benchmarks.run import BOTH, training_step
from benchmarks.sweep_cases import OURS, Drive, contestants
from scvae_fast._files import write_json

MIB = 2**20
# Tensors of 64 KiB and more are then mapped, and given back, one by one.
EXACT = {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}


def subjects() -> list[tuple[str, str]]:
    """(operation, contestant) of every line of the table."""
    return [(op, name) for op in ("lista", "sparse_code") for name in contestants(op)]


def arguments_of(op: str, rows: int, n_iter: int) -> Any:
    """A Drive for lista, Tensors for sparse_code: SC-VAE's problem, 5 % of the final codes not zero."""
    t = cases.tensors(Case(rows, n_iter, 0.05, official=False))
    return t if op == "sparse_code" else Drive(t.x @ t.W_e.T, t.S, t.theta)


def kept(op: str, name: str, rows: int, n_iter: int) -> Kept:
    """What autograd keeps from a forward pass with gradients for all arguments."""
    t = arguments_of(op, rows, n_iter)
    leaves = {field: tensor.requires_grad_() for field, tensor in t._asdict().items() if tensor is not None}
    call = partial(contestants(op)[name], t._replace(**leaves), n_iter)
    return kept_for_backward(call, leaves, data=t._fields[0])


def peak_here(op: str, name: str, rows: int, n_iter: int) -> int:
    """Bytes that a forward and backward pass adds to this process at its peak; it should be a fresh one."""
    step: Callable[..., None] = partial(training_step, contestants(op)[name])
    step(arguments_of(op, 64, n_iter), n_iter)  # threads and libraries take their memory on the first call
    return resident.added_at_peak(partial(step, arguments_of(op, rows, n_iter), n_iter))


def peak_in_fresh_process(op: str, name: str, rows: int, n_iter: int, threads: int) -> int:
    """The same, measured in a process of its own."""
    words = ["--peak-of", op, name, "--rows", str(rows), "--n-iter", str(n_iter), "--threads", str(threads)]
    return int(program.start("benchmarks.memory", words, EXACT, capture=True).stdout)


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=__doc__)
    parser.add_argument("--rows", type=int, default=4096, metavar="M", help="vectors (default 4096)")
    parser.add_argument("--n-iter", nargs="+", type=int, default=[5, 30, 60], metavar="T", help="default 5 30 60")
    parser.add_argument("--threads", type=int, help="threads to use (default: torch's own choice)")
    parser.add_argument(
        "--peak-of", nargs=2, metavar=("OP", "NAME"), help="print the bytes that one adds to this process, nothing else"
    )
    program.add_json_option(parser)
    chosen = parser.parse_args(words)
    if chosen.rows < 1 or min(chosen.n_iter) < 0 or (chosen.threads is not None and chosen.threads < 1):
        parser.error("--rows and --threads must be at least 1, --n-iter at least 0")
    if chosen.peak_of is not None and (tuple(chosen.peak_of) not in subjects() or len(chosen.n_iter) != 1):
        parser.error(f"--peak-of takes one --n-iter, and an operation and a contestant of {subjects()}")
    program.require(parser, OURS)
    return chosen


def main(words: list[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    chosen = arguments(words)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    if chosen.peak_of is not None:
        op, name = chosen.peak_of
        print(peak_here(op, name, chosen.rows, chosen.n_iter[0]))
        return 0
    print(program.heading(f"n = 256, K = 512, M = {chosen.rows}"))
    print(f"MiB kept for the backward pass: made by the call, its input, parameters; and added at the peak of {BOTH}\n")
    print(f"{'':<36}{'T':>4}{'made':>10}{'input':>10}{'parameters':>12}{'at peak':>10}")
    results = []
    for op, name in subjects():
        for n_iter in chosen.n_iter:
            held = kept(op, name, chosen.rows, n_iter)
            peak = peak_in_fresh_process(op, name, chosen.rows, n_iter, torch.get_num_threads())
            made, given, parameters = (size / MIB for size in held)
            row = f"{made:>10.1f}{given:>10.1f}{parameters:>12.1f}{peak / MIB:>10.1f}"
            print(f"{f'{op}, {name}':<36}{n_iter:>4}{row}", flush=True)
            results.append({"op": op, "contestant": name, "T": n_iter, "kept": held._asdict(), "added at peak": peak})
    if chosen.json:
        write_json(chosen.json, {"environment": program.environment(), "rows": chosen.rows, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
