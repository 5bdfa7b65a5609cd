"""Times sparse_code, forward and backward, against eager PyTorch: python -m benchmarks.run.

Nothing is timed before the result is right: a case whose error against float64 is over twice that of eager PyTorch is
reported, no speed is printed for it, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch

import scvae_fast
from benchmarks import cases, gate, program, timing
from benchmarks.cases import Case, Tensors
from scvae_fast._files import write_json

# Takes the arguments of an operation and T; gives the operation's results.
Contestant = Callable[[Tensors, int], tuple[torch.Tensor, torch.Tensor]]
RELEASED, CLEAN = "released formula", "clean eager"
FORWARD, BOTH = "forward", "forward and backward"


def contestants() -> dict[str, Contestant]:
    """The rivals, then each backend that can be used here."""
    ours = {name: partial(fused, name) for name, reason in scvae_fast.backends().items() if reason is None}
    return {RELEASED: cases.released, CLEAN: cases.clean, **ours}


def fused(backend: str, t: Tensors, n_iter: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The operation itself."""
    gain = 1.0 if t.gain is None else t.gain
    return scvae_fast.sparse_code(t.x, t.W_e, t.S, t.theta, t.D, n_iter, gain=gain, backend=backend)


def forward_step(run: Callable[[Any, int], object], arguments: Any, n_iter: int) -> None:
    """The results alone."""
    run(arguments, n_iter)


def training_step(run: Callable[[Any, int], tuple[torch.Tensor, ...]], arguments: Any, n_iter: int) -> None:
    """Forward and backward, for the gradients that SC-VAE's training needs: those of all arguments but the gain.

    softshrink takes its threshold as a number: that rival is spared the threshold's gradient.
    """
    given = {name: tensor for name, tensor in arguments._asdict().items() if tensor is not None and name != "gain"}
    leaves = arguments._replace(**{name: tensor.detach().requires_grad_() for name, tensor in given.items()})
    results = run(leaves, n_iter)
    torch.autograd.backward(results, [torch.ones_like(result) for result in results])


def failures(t: Tensors, n_iter: int, names: Iterable[str] | None = None) -> list[str]:
    """Contestants whose reconstruction is less exact than twice the released formula's float32."""
    exact = cases.released(t.double(), n_iter)[1]
    results = {name: run(t, n_iter)[1] for name, run in entered(names).items()}
    return gate.failures(results, exact, reference=RELEASED)


def entered(names: Iterable[str] | None) -> dict[str, Contestant]:
    """The contestants of these names; all of them for None."""
    known = contestants()
    return known if names is None else {name: known[name] for name in names}


def measure(
    case: Case, rounds: int, directions: Sequence[str] = (FORWARD, BOTH), names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Samples of a case, or why it is not timed."""
    t = cases.tensors(case)
    wrong = failures(t, case.n_iter, names)
    if wrong:
        return {"case": case._asdict(), "wrong": wrong}
    out: dict[str, Any] = {"case": case._asdict()}
    for what in directions:
        step = forward_step if what == FORWARD else training_step
        runs = {name: partial(step, run, t, case.n_iter) for name, run in entered(names).items()}
        with torch.set_grad_enabled(what != FORWARD):
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
    program.add_options(parser)
    chosen = parser.parse_args(words)
    known = {case.name: case for case in cases.CASES}
    for name in chosen.case or []:
        if name not in known:
            parser.error(f"--case: no case {name!r}; --list prints them")
    program.check(parser, chosen)
    chosen.cases = [known[name] for name in chosen.case] if chosen.case else cases.CASES
    return chosen


def main(words: list[str] | None = None) -> int:
    """Runs the chosen cases; returns the exit status."""
    chosen = arguments(words)
    if chosen.list:
        print(*(case.name for case in cases.CASES), sep="\n")
        return 0
    if chosen.tuned_allocator and not program.tuned():
        return program.start("benchmarks.run", sys.argv[1:] if words is None else words, program.TUNED).returncode
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    names = list(contestants())
    print(program.heading("sparse_code, n = 256, K = 512"))
    print(f"median seconds of the {RELEASED}; how many times as fast, median of {chosen.rounds} paired rounds")
    print(f"{'':<48}{RELEASED:>15}" + "".join(f"{name:>13}" for name in names if name != RELEASED))
    results = []
    for case in chosen.cases:
        results.append(measure(case, chosen.rounds))
        for problem in results[-1].get("wrong", []):
            print(f"{case.name:<26}NOT TIMED, wrong result: {problem}")
        for what in (FORWARD, BOTH):
            if what in results[-1]:
                print(row(case, what, results[-1][what]), flush=True)
        if chosen.json:
            write_json(chosen.json, {"environment": program.environment(), "results": results})
    return 1 if any("wrong" in result for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
