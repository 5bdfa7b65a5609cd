"""LISTA's table for this machine: python -m benchmarks.table.

How many times as fast as the released formula and as clean eager PyTorch the backend `cpu` runs sparse_code over
SC-VAE's DCT dictionary (n = 256, K = 512), and what share of the processor's measured multiply-add peak its useful
arithmetic (benchmarks/counting.py says what that is) reached. Exit status 1 if a result is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import cases, counting, peak, program, run, timing
from benchmarks.cases import Case
from benchmarks.run import BOTH, CLEAN, FORWARD, RELEASED
from scvae_fast._files import write_json

OURS = "cpu"
COLUMNS = [(n_iter, density) for n_iter in (5, 30) for density in (0.5, 0.05)]
STARTS = {True: "official start (γ = c)", False: "γ = 1"}
# What is measured from the released code's start and, where the start is the paper's, for inference alone.
DIRECTIONS = {True: (FORWARD, BOTH), False: (FORWARD,)}


def figures(result: dict[str, Any], what: str, useful: counting.Arithmetic, best: float | None) -> dict[str, float]:
    """A cell of the table, by the names of its lines."""
    samples = result[what]
    seconds = timing.medians(samples)[OURS]
    cell = {f"× {rival}": timing.speedups(samples, rival)[OURS] for rival in (RELEASED, CLEAN)}
    cell["milliseconds"] = seconds * 1e3
    cell["Σ density of z_0 … z_T−1"] = useful.iterated_density
    if best is not None:
        work = useful.forward + (useful.backward if what == BOTH else 0)
        cell["share of the peak"] = work / seconds / best
    return cell


def measure(rows: int, official: bool, rounds: int, best: float | None) -> list[dict[str, Any]]:
    """The cells of a start, one for each column, with their samples; or what is wrong with them."""
    results = []
    for n_iter, density in COLUMNS:
        case = Case(rows, n_iter, density, official)
        result = run.measure(case, rounds, DIRECTIONS[official], (RELEASED, CLEAN, OURS))
        if "wrong" not in result:
            t = cases.tensors(case)
            useful = counting.useful(cases.iterates(t, n_iter), t.x.shape[1])
            result["useful multiply-adds"] = useful._asdict()
            result["figures"] = {what: figures(result, what, useful, best) for what in DIRECTIONS[official]}
        results.append(result)
    return results


def print_block(title: str, cells: Sequence[dict[str, float] | None]) -> None:
    """The lines of a kind of call; a cell of None had a wrong result."""
    print(f"\n{title}")
    names = next((list(cell) for cell in cells if cell is not None), [])
    for name in names:
        style = ".1%" if name.startswith("share") else ".2f"
        print(
            f"  {name:<30}" + "".join(f"{'wrong' if cell is None else format(cell[name], style):>14}" for cell in cells)
        )


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.table", description=__doc__)
    parser.add_argument("--rows", type=int, default=4096, help="vectors M (default 4096; a picture has 256)")
    program.add_options(parser)
    chosen = parser.parse_args(words)
    program.check(parser, chosen)
    if chosen.rows < 1:
        parser.error("--rows must be at least 1")
    program.require(parser, OURS)
    return chosen


def measured_peak() -> float | None:
    """Multiply-adds a second of this machine, printed; None where they can't be measured, which is printed too."""
    try:
        best = peak.multiply_adds_per_second(torch.get_num_threads())
    except peak.UnknownPeakError as unknown:
        print(f"no share of the peak: {unknown}")
        return None
    print(f"measured peak: {best / 1e9:.1f} billion multiply-adds a second")
    return best


def main(words: list[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    chosen = arguments(words)
    if chosen.tuned_allocator and not program.tuned():
        return program.start("benchmarks.table", sys.argv[1:] if words is None else words, program.TUNED).returncode
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    print(program.heading(f"sparse_code, n = 256, K = 512, M = {chosen.rows}"))
    best = measured_peak()
    print(f"backend {OURS!r}: how many times as fast, median of {chosen.rounds} paired rounds; d: density of z_T\n")
    print(f"{'':<32}" + "".join(f"{f'T={n_iter}, d={density:g}':>14}" for n_iter, density in COLUMNS))
    results: list[dict[str, Any]] = []
    for official, start in STARTS.items():
        cells = measure(chosen.rows, official, chosen.rounds, best)
        for what in DIRECTIONS[official]:
            print_block(f"{what}, {start}", [cell["figures"][what] if "figures" in cell else None for cell in cells])
        results += cells
        sys.stdout.flush()
        if chosen.json:
            document = {"environment": program.environment(), "multiply-adds a second": best, "results": results}
            write_json(chosen.json, document)
    for result in results:
        for problem in result.get("wrong", []):
            print(f"{Case(**result['case']).name}: NOT TIMED, wrong result: {problem}")
    return 1 if any("wrong" in result for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
