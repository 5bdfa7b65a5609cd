"""Times sparse_code, forward and backward, against eager PyTorch: python -m benchmarks.run.

Nothing is timed before the result is right: a case whose error against float64 is over twice that of eager PyTorch is
reported, no speed is printed for it, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import scvae_fast
from benchmarks import cases, timing
from benchmarks.cases import Case, Tensors
from scvae_fast._files import write_json

Contestant = Callable[[Tensors, int], tuple[torch.Tensor, torch.Tensor]]
RELEASED, CLEAN = "released formula", "clean eager"


def contestants() -> dict[str, Contestant]:
    """The rivals, then each backend that can be used here."""
    ours = {name: partial(fused, name) for name, reason in scvae_fast.backends().items() if reason is None}
    return {RELEASED: cases.released, CLEAN: cases.clean, **ours}


def fused(backend: str, t: Tensors, n_iter: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The operation itself."""
    return scvae_fast.sparse_code(t.x, t.W_e, t.S, t.theta, t.D, n_iter, gain=t.gain, backend=backend)


def forward_step(run: Contestant, t: Tensors, n_iter: int) -> None:
    """The results alone."""
    run(t, n_iter)


def training_step(run: Contestant, t: Tensors, n_iter: int) -> None:
    """Forward and backward, for the gradients that SC-VAE's training needs."""
    x, W_e, S, theta, D = (tensor.detach().requires_grad_() for tensor in t[:-1])
    # softshrink takes its threshold as a number: that rival is spared its gradient
    leaves = Tensors(x, W_e, S, t.theta if run is cases.clean else theta, D, t.gain)
    z, x_hat = run(leaves, n_iter)
    torch.autograd.backward([z, x_hat], [torch.ones_like(z), torch.ones_like(x_hat)])


def error(result: torch.Tensor, exact: torch.Tensor) -> float:
    """‖result − exact‖ / ‖exact‖."""
    return float((result.double() - exact).norm() / exact.norm())


def failures(t: Tensors, n_iter: int) -> list[str]:
    """Contestants whose reconstruction is less exact than twice the released formula's float32."""
    exact = cases.released(Tensors._make(tensor.double() for tensor in t), n_iter)[1]
    found = {name: error(run(t, n_iter)[1], exact) for name, run in contestants().items()}
    allowed = 2 * found[RELEASED] + torch.finfo(torch.float32).eps
    return [f"{name}: error {e:.1e}, allowed {allowed:.1e}" for name, e in found.items() if not e <= allowed]


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Samples of a case, or why it is not timed."""
    t = cases.tensors(case)
    wrong = failures(t, case.n_iter)
    if wrong:
        return {"case": case._asdict(), "wrong": wrong}
    out: dict[str, Any] = {"case": case._asdict()}
    for what in ("forward", "forward and backward"):
        step = forward_step if what == "forward" else training_step
        runs = {name: partial(step, run, t, case.n_iter) for name, run in contestants().items()}
        with torch.set_grad_enabled(what != "forward"):
            out[what] = list(timing.interleaved(runs, rounds))
    return out


def row(case: Case, what: str, samples: list[dict[str, float]]) -> str:
    """A line of the table: seconds of the released formula, and how many times as fast the others were."""
    fast = timing.speedups(samples, RELEASED)
    others = "".join(f"{fast[name]:>12.2f}x" for name in fast if name != RELEASED)
    return f"{case.name:<26}{what:<22}{timing.medians(samples)[RELEASED] * 1e3:>12.2f} ms{others}"


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("--case", action="append", metavar="NAME", help="one of --list; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of each case (default 7)")
    parser.add_argument("--threads", type=int, help="threads to use (default: torch's own choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to this file")
    chosen = parser.parse_args(words)
    known = {case.name: case for case in cases.CASES}
    for name in chosen.case or []:
        if name not in known:
            parser.error(f"--case: no case {name!r}; --list prints them")
    if chosen.rounds < 1 or (chosen.threads is not None and chosen.threads < 1):
        parser.error("--rounds and --threads must be at least 1")
    chosen.cases = [known[name] for name in chosen.case] if chosen.case else cases.CASES
    return chosen


def main(words: list[str] | None = None) -> int:
    """Runs the chosen cases; returns the exit status."""
    chosen = arguments(words)
    if chosen.list:
        print(*(case.name for case in cases.CASES), sep="\n")
        return 0
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    names = list(contestants())
    print(f"sparse_code, float32, n = 256, K = 512, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"median seconds of the {RELEASED}; how many times as fast, median of {chosen.rounds} paired rounds")
    print(f"{'':<48}{RELEASED:>15}" + "".join(f"{name:>13}" for name in names if name != RELEASED))
    results = []
    for case in chosen.cases:
        results.append(measure(case, chosen.rounds))
        for problem in results[-1].get("wrong", []):
            print(f"{case.name:<26}NOT TIMED, wrong result: {problem}")
        for what in ("forward", "forward and backward"):
            if what in results[-1]:
                print(row(case, what, results[-1][what]), flush=True)
        if chosen.json:
            write_json(chosen.json, {"environment": environment(), "results": results})
    return 1 if any("wrong" in result for result in results) else 0


def environment() -> dict[str, Any]:
    """What a figure depends on."""
    return {
        "scvae_fast": scvae_fast.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    sys.exit(main())
