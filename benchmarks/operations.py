"""Measures a case of an operation or layer: first the correctness of each result, then seconds, memory, arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks import counting, gate, memory, problems, rivals, timing
from benchmarks.cases import BOTH, FORWARD, Case
from benchmarks.problems import DTYPES, Problem
from benchmarks.rivals import CLEAN, GRAPH, PRODUCTS, RELEASED, Entrant

LEAST_ROUNDS, MOST_ROUNDS = 3, 15
SAMPLE_SECONDS = {"cpu": 2e-3, "cuda": 2e-2}  # per sample of the fastest contestant
GATED_ROWS = 256
# Matrices of (M, K) that a contestant holds at once: per kept iterate in a backward pass, and in addition.
_KEPT = {RELEASED: 6, CLEAN: 2}
_BESIDES = 8
_RESULTS = {"decode": ("x̂",), "lista": ("z",), "LISTA": ("z",)}  # both for the others


def measure(case: Case, device: str, seconds: float) -> dict[str, Any]:
    """The results of a case: errors, samples within about `seconds`, memory, useful arithmetic.

    Samples are seconds per call, one of each contestant per round. Contestants under "wrong" and "left out", where the
    reasons are given, have no samples.
    """
    left_out = {name: why for name in (RELEASED, CLEAN) if (why := lacking(case, name, device))}
    if CLEAN in left_out:
        return {"left out": left_out}
    p = problems.problem(case, device)
    entered = {name: one for name, one in rivals.entrants(case, p).items() if name.partition(",")[0] not in left_out}
    sample, step = p.sampled(GATED_ROWS)
    exact = sample.to(dtype=torch.float64)
    errors, wrong = checked(case, sample, step, exact, entered)
    right = {name: one for name, one in entered.items() if name not in wrong}
    out: dict[str, Any] = {"chosen": rivals.choice(case, p.x.device), "errors": errors, "wrong": wrong}
    out["left out"] = left_out
    runs = steps(case, p, right, device)
    out["calls"] = timing.calls_that_take(SAMPLE_SECONDS[device], runs, device)
    out["samples"] = timing.until(seconds, runs, LEAST_ROUNDS, MOST_ROUNDS, out["calls"], device)
    if case.direction != FORWARD:
        plain = {name: one for name, one in right.items() if rivals.COMPILED not in name}
        out["kept"] = {n: memory.kept_for_backward(one.results, one.leaves)._asdict() for n, one in plain.items()}
    if device == "cuda":
        out["peak"] = {name: memory.allocated_at_peak(run) for name, run in runs.items() if name != GRAPH}
    return out | _work(case, exact, entered[CLEAN])


def lacking(case: Case, name: str, device: str) -> str | None:
    """Why there is not enough memory for a contestant; None if there is."""
    kept = 0 if case.direction == FORWARD else _KEPT[name] * (case.n_iter + 1)
    needed = DTYPES[case.dtype].itemsize * (case.rows * case.atoms * (kept + _BESIDES) + 8 * case.atoms**2)
    there = memory.there_is(device)
    if needed <= there:
        return None
    return f"{name} needs about {needed / 2**30:.0f} GiB of memory, {there / 2**30:.0f} GiB may be used"


def steps(case: Case, p: Problem, right: dict[str, Entrant], device: str) -> dict[str, Callable[[], object]]:
    """The calls to time, by contestant, including the bare products and a CUDA graph."""
    runs: dict[str, Callable[[], object]] = {}
    for name, one in right.items():
        runs[name] = one.step(case.direction)
        if name == CLEAN and device == "cuda" and case.direction in (FORWARD, BOTH):
            runs[GRAPH] = rivals.graphed(one, case.direction)
    runs[PRODUCTS] = rivals.bare_products(case, p)
    return runs


def checked(
    case: Case, sample: Problem, step: int, exact_problem: Problem, entered: dict[str, Entrant]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Errors of every contestant against float64, and the contestants that are wrong.

    Results are computed at full size and compared on the sample, every step-th row. Gradients are compared on a problem
    with only those rows; in float32 and float64 without the rows in which rounding could switch a code on or off.
    """
    a = rivals.arguments(case.op, exact_problem)
    exact = _named(case, rivals.composed(case.op, rivals.formulas.released, exact_problem, a))
    errors = {}
    for name, one in entered.items():
        results = _named(case, one.step(FORWARD)())
        errors[name] = gate.errors({n: result[::step] for n, result in results.items()}, exact)
        del results
    if case.direction != FORWARD:
        for name, found in _gradient_errors(case, sample, exact_problem).items():
            if name in errors:
                errors[name] |= found
    reference = RELEASED if RELEASED in errors else CLEAN
    lenient = [f"∂{name}" for name, argument in a.items() if argument.numel() == 1]
    if case.dtype == "float64":
        lenient = list(errors[reference])
    return errors, gate.failures(errors, reference, DTYPES[case.dtype], lenient)


def _gradient_errors(case: Case, sample: Problem, exact_problem: Problem) -> dict[str, dict[str, float]]:
    if case.dtype in ("float32", "float64"):
        clear = ~problems.near_a_tie(exact_problem)
        sample, exact_problem = (q._replace(x=q.x[clear]) for q in (sample, exact_problem))
    plain = case._replace(compiled="", rows=len(sample.x))
    reference = rivals.entrants(plain._replace(dtype="float64"), exact_problem)
    exact_entrant = reference.get(RELEASED, reference[CLEAN])
    drawn = torch.Generator().manual_seed(2)
    # These are exact in every dtype.
    weights = [torch.randn(r.shape, generator=drawn).bfloat16().to(r) for r in exact_entrant.results()]
    exact = exact_entrant.gradients(weights)
    found = {}
    for name, one in rivals.entrants(plain, sample).items():
        gradients = one.gradients([w.to(sample.x.dtype) for w in weights])
        found[name] = {f"∂{n}": gate.error(g, exact[n]) for n, g in gradients.items()}
    return found


def _named(case: Case, results: Any) -> dict[str, torch.Tensor]:
    return dict(zip(_RESULTS.get(case.op, ("z", "x̂")), results, strict=True))


def _work(case: Case, exact: Problem, clean: Entrant) -> dict[str, Any]:
    """Useful multiply-adds of a call, densities of the iterates, and the least number of bytes to move."""
    counted = counting.useful(problems.iterates(exact), case.op, case.features)
    parts = {FORWARD: counted.forward, BOTH: counted.forward + counted.backward}
    useful = parts.get(case.direction, counted.backward)
    widths = {"z": case.atoms, "x̂": case.features}
    entries = sum(case.rows * widths[name] for name in _RESULTS.get(case.op, tuple(widths)))
    arguments = sum(t.nbytes for t in clean.leaves.values())
    # A backward pass adds the same number of gradients, and the arguments once more.
    moved = arguments + entries * DTYPES[case.dtype].itemsize
    return {
        "useful multiply-adds": useful * case.rows / len(exact.x),
        "densities": counted.densities,
        "least bytes": moved if case.direction == FORWARD else (2 if case.direction == BOTH else 1) * moved + arguments,
    }
