"""Times sparse_code on a GPU against eager PyTorch, a CUDA graph of it, and torch.compile: python -m benchmarks.gpu.

Nothing is timed before its result is right: the error against float64 stands beside every time, and a backend whose
error is over twice that of eager PyTorch in the same dtype gets no time; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

import scvae_fast
from benchmarks import cases, gate, program, run, timing
from benchmarks.cases import Tensors
from benchmarks.kept import kept_for_backward
from scvae_fast._files import write_json

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
EAGER, COMPILED = "eager", "compiled"
SAMPLE_SECONDS = 0.02  # that a sample of the fastest contestant takes
BYTES_KEPT = "MiB kept for backward"
IN_A_GRAPH = ", CUDA graph"
# Both ways of the Triton kernels beside their own choice, up to as many rows as could leave a card half idle.
WAYS = {"triton, one launch": False, "triton, by iteration": True}
ROWS_OF_BOTH_WAYS = 20_000


class Setting(NamedTuple):
    """One problem of the run: n = 256, K = 512, the released code's start, 5 % final density."""

    dtype: str
    rows: int
    n_iter: int
    direction: str  # of run.FORWARD, run.BOTH

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.dtype:<9} M={self.rows:<8} T={self.n_iter:<3} {self.direction}"


def tensors(setting: Setting, device: str) -> Tensors:
    """Arguments of sparse_code on the device."""
    drawn = cases.tensors(cases.Case(setting.rows, setting.n_iter, 0.05, official=True))
    return Tensors._make(None if t is None else t.to(device, DTYPES[setting.dtype]) for t in drawn)


def contestants(setting: Setting, t: Tensors, device: str, compile_: bool) -> dict[str, run.Contestant]:
    """The formula, eager and compiled, and the backends that run on a GPU; forward, CUDA graphs of them as well."""
    ours = [name for name in ("triton", "cuda") if scvae_fast.backends().get(name, "unknown") is None]
    entered: dict[str, run.Contestant] = {EAGER: cases.released}
    entered |= {name: partial(run.fused, name) for name in ours}
    if device == "cuda" and setting.direction == run.FORWARD:
        entered |= {name + IN_A_GRAPH: graphed(one, t, setting.n_iter) for name, one in list(entered.items())}
    if compile_:
        torch.compiler.reset()  # else the shapes of one setting count as recompilations of another
        entered[COMPILED] = torch.compile(cases.released, mode="max-autotune")
    if setting.rows <= ROWS_OF_BOTH_WAYS:
        entered |= {name: partial(run.fused, "triton") for name in WAYS}
    return entered


def graphed(one: run.Contestant, t: Tensors, n_iter: int) -> run.Contestant:
    """A contestant's call with these arguments, captured; each call of it is a replay."""
    with torch.no_grad():
        one(t, n_iter)  # kernels are compiled and libraries started outside of the capture
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = one(t, n_iter)

    def replay(*_: object) -> tuple[torch.Tensor, torch.Tensor]:
        graph.replay()
        return results

    return replay


def in_its_way(name: str, step: Callable[..., Any], *arguments: Any) -> Any:
    """The step, by the way that a contestant's name stands for."""
    from scvae_fast.ops._triton import launch

    with launch.forced(WAYS[name]) if name in WAYS else contextlib.nullcontext():
        return step(*arguments)


def kept_mebibytes(contestant: run.Contestant, t: Tensors, n_iter: int) -> float:
    """What autograd keeps for the backward pass besides the arguments."""
    leaves = t._replace(x=t.x.detach().requires_grad_(), S=t.S.detach().requires_grad_())
    inputs = {name: tensor for name, tensor in leaves._asdict().items() if tensor is not None}
    return kept_for_backward(lambda: contestant(leaves, n_iter), inputs, data="x").made / 2**20


def figures(samples: list[float], error: float) -> dict[str, float]:
    """A contestant's line."""
    low, middle, high = (
        statistics.quantiles(samples, n=10, method="inclusive")[1::3] if len(samples) > 1 else samples * 3
    )
    return {"p20": low, "p50": middle, "p80": high, "error": error}


def measure(setting: Setting, device: str, rounds: int, compile_: bool) -> dict[str, Any]:
    """Every contestant's figures in milliseconds, and samples in seconds; "wrong" instead where a result is."""
    t = tensors(setting, device)
    exact = cases.released(t.double(), setting.n_iter)[1]
    step = run.forward_step if setting.direction == run.FORWARD else run.training_step
    entered = contestants(setting, t, device, compile_)
    errors = {
        name: gate.error(in_its_way(name, one, t, setting.n_iter)[1].double(), exact) for name, one in entered.items()
    }
    allowed = gate.allowed(errors, EAGER, DTYPES[setting.dtype])
    out: dict[str, Any] = {**setting._asdict(), "wrong": [n for n, e in errors.items() if not e <= allowed], "ms": {}}
    right = {name: one for name, one in entered.items() if name not in out["wrong"]}
    with torch.set_grad_enabled(setting.direction != run.FORWARD):
        runs = {name: partial(in_its_way, name, step, one, t, setting.n_iter) for name, one in right.items()}
        calls = timing.calls_that_take(SAMPLE_SECONDS, runs, device)
        samples = list(timing.interleaved(runs, rounds, calls=calls, device=device))
    for name, one in right.items():
        found = figures([sample[name] * 1e3 for sample in samples], errors[name])
        if setting.direction != run.FORWARD and name != COMPILED:
            found[BYTES_KEPT] = kept_mebibytes(one, t, setting.n_iter)
        if device == "cuda" and not name.endswith(IN_A_GRAPH):  # a replay allocates nothing
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            runs[name]()
            found["MiB added at the peak"] = (torch.cuda.max_memory_allocated() - before) / 2**20
        out["ms"][name] = found
    out["errors"], out["samples"] = errors, samples
    return out


def matmul_rate(dtype: torch.dtype, device: str, size: int = 8192) -> float:
    """Floating-point operations a second of a large product of random matrices: the ceiling of all contestants."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    samples = list(timing.interleaved({"product": lambda: a @ b}, 5, calls=8, device=device))
    return 2 * size**3 / timing.medians(samples)["product"]


def line(result: dict[str, Any], ceilings: dict[str, float]) -> str:
    """A setting as the table has it: milliseconds, times eager, times compiled, share of the ceiling, errors."""
    words = [f"{Setting(*(result[field] for field in Setting._fields)).name:<52}"]
    found = result["ms"]
    for name, figure in found.items():
        fast = "".join(
            f" {found[r]['p50'] / figure['p50']:.2f}x" for r in (EAGER, COMPILED) if r in found and r != name
        )
        words.append(f"{name} {figure['p50']:.3f} ms{fast} (error {figure['error']:.1e})")
    if result["direction"] == run.FORWARD and result["dtype"] in ceilings:
        work = 2 * result["rows"] * (result["n_iter"] * 512**2 + 2 * 256 * 512)
        shares = (f"{n} {work / f['p50'] * 1e3 / ceilings[result['dtype']]:.0%}" for n, f in found.items())
        words.append("of a large product's rate: " + ", ".join(shares))
    words += [f"{name}: NOT TIMED, wrong result, error {result['errors'][name]:.1e}" for name in result["wrong"]]
    return "\n    ".join(words)


def environment(device: str) -> dict[str, Any]:
    """What a figure depends on."""
    found = program.environment()
    if device != "cpu":
        import triton

        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
        found |= {"gpu": torch.cuda.get_device_name(), "driver": driver[0], "triton": triton.__version__}
        found["autotune"] = os.environ.get("SCVAE_FAST_AUTOTUNE", "0")
    return found


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 2048, 65_536], help="vectors M")
    parser.add_argument("--n-iter", type=int, nargs="+", default=[5, 30], help="iterations T")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=11, help="samples of each contestant (default 11)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu, interpreted: a trial run alone")
    parser.add_argument(
        "--compile-rows",
        type=int,
        nargs="*",
        default=[65_536],
        help="the M at which torch.compile takes part: it tunes for up to a minute at each",
    )
    program.add_json_option(parser)
    chosen = parser.parse_args(words)
    if min(*chosen.rows, *chosen.n_iter, chosen.rounds) < 1:
        parser.error("--rows, --n-iter and --rounds must be at least 1")
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device")
    program.require(parser, "triton")
    return chosen


def main(words: list[str] | None = None) -> int:
    """Prints a line a setting; returns the exit status."""
    chosen = arguments(words)
    found = environment(chosen.device)
    ceilings = {} if chosen.device == "cpu" else {d: matmul_rate(DTYPES[d], "cuda") for d in chosen.dtypes}
    print(found.get("gpu", "interpreted"), {name: f"{rate / 1e12:.0f} TFLOP/s" for name, rate in ceilings.items()})
    results = []
    for setting in itertools.starmap(
        Setting, itertools.product(chosen.dtypes, chosen.rows, chosen.n_iter, (run.FORWARD, run.BOTH))
    ):
        results.append(measure(setting, chosen.device, chosen.rounds, setting.rows in chosen.compile_rows))
        print(line(results[-1], ceilings), flush=True)
        if chosen.json:
            write_json(chosen.json, {"environment": found, "products a second": ceilings, "results": results})
    return 1 if any(result["wrong"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
