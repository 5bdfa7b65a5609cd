"""Where the backend `cpu` is slower than clean eager PyTorch: python -m benchmarks.sweep.

lista and sparse_code over sizes, densities and numbers of threads, from the smallest problem to the largest until the
time is up; what is left out is named. Exit status 1 if a result is wrong; no speed is printed for it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks import formulas, gate, program, sweep_cases, timing
from benchmarks.budget import LEAST_ROUNDS, Budget, fits, slowest_round
from benchmarks.run import BOTH, CLEAN, FORWARD, RELEASED, forward_step, training_step
from benchmarks.sweep_cases import OURS, SweepCase
from scvae_fast._files import write_json

MOST_ROUNDS = 11
SAMPLE_SECONDS = 2e-3
GATED_ROWS = 256
WHAT = {"forward": FORWARD, "both": BOTH}
# Below this the loss is more than noise.
CLEARLY = 0.97


def chosen_cases(chosen: argparse.Namespace) -> list[SweepCase]:
    """The cases of the filters, in the order of their size, those of a line of the table together."""
    what = [WHAT[word] for word in chosen.what]
    axes = (chosen.op, chosen.rows, chosen.atoms, chosen.n_iter, chosen.threads, what, chosen.density)
    return sorted((SweepCase(*values) for values in itertools.product(*axes)), key=lambda case: case.multiply_adds)


def failures(case: SweepCase, t: Any, sample: Any, step: int, names: list[str]) -> list[str]:
    """Contestants less exact than twice clean eager, on the sample: every step-th of the rows that they compute."""
    known = sweep_cases.contestants(case.op)
    exact = known[RELEASED](sample.double(), case.n_iter)[-1]
    results = {name: known[name](t, case.n_iter)[-1][::step].clone() for name in names}
    return gate.failures(results, exact, reference=CLEAN, scale=sample[0])


def measure(case: SweepCase, names: list[str], seconds: float) -> dict[str, Any]:
    """Samples of a case, within so many seconds if that is time enough for a few rounds; or why it is not timed."""
    torch.set_num_threads(case.threads)
    end = time.monotonic() + seconds
    t = sweep_cases.arguments(case)
    every = max(1, case.rows // GATED_ROWS)
    sample = sweep_cases.sampled(t, every)
    wrong = failures(case, t, sample, every, names)
    if wrong:
        return {"case": case._asdict(), "wrong": wrong}
    densities = [formulas.density(codes) for codes in sweep_cases.iterates(sample, case.n_iter)]
    step = forward_step if case.what == FORWARD else training_step
    known = sweep_cases.contestants(case.op)
    runs = {name: partial(step, known[name], t, case.n_iter) for name in names}
    samples: list[dict[str, float]] = []
    with torch.set_grad_enabled(case.what != FORWARD):
        calls = timing.calls_that_take(SAMPLE_SECONDS, runs)
        for seconds_a_call in timing.interleaved(runs, MOST_ROUNDS, warmup=0, calls=calls):
            samples.append(seconds_a_call)
            if len(samples) >= LEAST_ROUNDS and time.monotonic() > end:
                break
    return {"case": case._asdict(), "densities": densities, "calls": calls, "samples": samples}


def cell(result: dict[str, Any]) -> str:
    """How many times as fast as clean eager / as the released formula."""
    if "samples" not in result:
        return "wrong" if "wrong" in result else "–"
    ratios = [timing.speedups(result["samples"], rival) for rival in (CLEAN, RELEASED) if rival in result["samples"][0]]
    return "/".join(f"{ratio[OURS]:.2f}" for ratio in ratios)


def sweep(cases: list[SweepCase], budget: Budget) -> Iterator[list[dict[str, Any]]]:
    """Measures the cases; gives and prints a line of the table, those that differ in density alone, at a time."""
    done = 0
    for line, group in itertools.groupby(cases, key=lambda case: case.line):
        row: list[dict[str, Any]] = []
        for case in group:
            left_out = budget.refusal(case)
            if left_out is None:
                names = [name for name in sweep_cases.contestants(case.op) if fits(case, name)]
                row.append(measure(case, names, budget.share(len(cases) - done)))
            else:
                row.append({"case": case._asdict(), "left out": left_out})
            if "samples" in row[-1]:
                budget.learn(case, sum(timing.medians(row[-1]["samples"]).values()))
            done += 1
        print(f"{line:<76}" + "".join(f"{cell(result):>12}" for result in row), flush=True)
        yield row


def report(results: list[dict[str, Any]]) -> None:
    """What was left out or is wrong, and last the shapes that lose against clean eager."""
    by_case = {SweepCase(**result["case"]): result for result in results}
    left_out = {case: result["left out"] for case, result in by_case.items() if "left out" in result}
    for line, group in itertools.groupby(left_out, key=lambda case: case.line):
        missing = list(group)
        densities = ", ".join(f"{case.density:g}" for case in missing)
        print(f"LEFT OUT: {line}, d = {densities}: {left_out[missing[0]]}")
    for case, result in by_case.items():
        for problem in result.get("wrong", []):
            print(f"NOT TIMED, wrong result: {case.line}, d = {case.density:g}: {problem}")
    timed = {case: result["samples"] for case, result in by_case.items() if "samples" in result}
    ratios = {case: timing.speedups(samples, CLEAN)[OURS] for case, samples in timed.items()}
    for title, low, high in ((f"{CLEARLY} to 1", CLEARLY, 1.0), (f"below {CLEARLY}", 0.0, CLEARLY)):
        losing = {case: ratio for case, ratio in ratios.items() if low <= ratio < high}
        print(f"\nslower than {CLEAN}, {title} times as fast: {len(losing)} of {len(ratios)} cases")
        for case, ratio in sorted(losing.items(), key=lambda item: item[1]):
            print(f"  {ratio:.2f}  {case.line}, d = {case.density:g}")


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.sweep", description=__doc__)
    parser.add_argument("--op", nargs="+", choices=["lista", "sparse_code"], default=["lista", "sparse_code"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16, 256, 4096, 65536], metavar="M")
    parser.add_argument("--atoms", nargs="+", type=int, default=[64, 128, 256, 512, 1024, 2048], metavar="K")
    densities = [0, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1]
    parser.add_argument("--density", nargs="+", type=float, default=densities, metavar="D", help="of all iterates")
    parser.add_argument("--n-iter", nargs="+", type=int, default=[5], metavar="T", help="iterations (default 5)")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--what", nargs="+", choices=list(WHAT), default=list(WHAT))
    parser.add_argument("--minutes", type=float, default=30, help="time for all of it (default 30)")
    program.add_json_option(parser)
    chosen = parser.parse_args(words)
    for name, least in {"rows": 1, "atoms": 2, "threads": 1, "n_iter": 0}.items():
        if min(getattr(chosen, name)) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if not all(0 <= density <= 1 for density in chosen.density):
        parser.error("--density must be from 0 to 1")
    if not chosen.minutes > 0:
        parser.error("--minutes must be positive")
    program.require(parser, OURS)
    return chosen


def main(words: list[str] | None = None) -> int:
    """Runs the chosen cases; returns the exit status."""
    chosen = arguments(words)
    before = torch.get_num_threads()
    print(program.heading(" and ".join(chosen.op), chosen.threads))
    print(
        f"backend {OURS!r}: times as fast as {CLEAN} / the {RELEASED}, median of {LEAST_ROUNDS} to {MOST_ROUNDS} rounds"
    )
    print(f"{'density of all iterates':<76}" + "".join(f"{density:>12g}" for density in chosen.density))
    results: list[dict[str, Any]] = []
    for row in sweep(chosen_cases(chosen), Budget(60 * chosen.minutes, slowest_round())):
        results += row
        if chosen.json:
            write_json(chosen.json, {"environment": program.environment(), "results": results})
    torch.set_num_threads(before)
    report(results)
    return 1 if any("wrong" in result for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
