"""What users gain: the figures of the README, and the page's first table, by rows, iterations and density."""

from __future__ import annotations

from typing import Any

from benchmarks.cases import BOTH, FORWARD
from benchmarks.report import measured
from benchmarks.report.tables import Table, TableError
from benchmarks.report.wording import DIRECTIONS, NONE, number, readable
from benchmarks.results import Results
from benchmarks.rivals import CLEAN, RELEASED

_STARTS = {"paper": "h(b)", "official": "h(c b)"}  # z_0
_KEPT = "kept for the backward pass"


def example(results: Results) -> str:
    """The README's first snippet with the most iterations: its loop and the call compared in time and memory."""
    sparse = [r for r in _cases(results, "example") if r["settings"]["density"] == _least(results, "example")]
    cases = {(r["settings"]["n_iter"], r["settings"]["direction"]): r for r in sparse}
    memory = _memory(results, "example")
    complete = [T for T in memory if {(T, FORWARD), (T, BOTH)} <= set(cases)]
    if not complete:
        raise TableError("example: no number of iterations has both passes and the memory measured")
    T = max(complete)
    loop, ours = (
        [readable(_median(cases[T, way], name)) for way in (FORWARD, BOTH)] + [_mebibytes(memory[T], name)]
        for name in (RELEASED, memory[T]["chosen"])
    )
    return (
        f"With T = {T} the loop takes {loop[0]}, or {loop[1]} with its backward pass, and autograd keeps "
        f"{loop[2]} for it. `sparse_code` takes {ours[0]}, or {ours[1]}, and keeps {ours[2]}."
    )


def gains(results: Results) -> Table:
    """Times and memory next to those of eager PyTorch, for sparse and, at the most iterations, half-dense codes."""
    found, sparse = _cases(results, "gains"), _least(results, "gains")
    most = max(r["settings"]["n_iter"] for r in found)
    rows = []
    for result in found:
        s = result["settings"]
        if s["density"] != sparse and s["n_iter"] != most:
            continue
        took = [_median(result, name) for name in (RELEASED, CLEAN, result["chosen"])]
        speedups = [measured.ratio(result, name) for name in (RELEASED, CLEAN)]
        label = f"{DIRECTIONS[s['direction']]}, T = {s['n_iter']}, {s['density']:.0%} not zero".replace("%", " %")
        rows.append([label, *map(readable, took), " / ".join(f"{number(r.median)} ×" if r else NONE for r in speedups)])
    for T, result in _memory(results, "gains").items():
        if T in {r["settings"]["n_iter"] for r in found}:
            names = RELEASED, CLEAN, result["chosen"]
            ours = measured.kept(result, result["chosen"]) or 1
            cell = " / ".join(f"{(measured.kept(result, name) or 0) / ours:.0f} ×" for name in names[:2])
            rows.append([f"{_KEPT}, T = {T}", *(_mebibytes(result, name) for name in names), cell])
    return Table(["", "the loop", "`addmm`, `softshrink`", "`sparse_code`", "gain over each"], rows)


def nearest(results: Results) -> Table:
    """Speed-ups over the faster of the two eager loops, by rows, iterations, density and start."""
    cells: dict[tuple[Any, ...], dict[str, str]] = {}
    # One operation per row: sparse_code if it was measured.
    for result in sorted(measured.timed(results.document["results"]), key=lambda r: r["settings"]["op"] == "lista"):
        s = result["settings"]
        if s["op"] not in ("lista", "sparse_code") or s["compiled"] or s["dtype"] != "float32" or s["atoms"] != 512:
            continue
        least = measured.least_ratio(result, (RELEASED, CLEAN))
        if least is not None and s["dictionary"] == "dct" and s["direction"] in (FORWARD, BOTH):
            case = s["rows"], s["n_iter"], s["density"], s["start"]
            cell = cells.setdefault(case, {"op": s["op"]})
            if cell["op"] == s["op"]:
                cell[s["direction"]] = f"{number(least[1].median)} ×"
    if not cells:
        raise TableError("nearest: no case of lista or sparse_code over 512 atoms in float32 was measured")
    rows = []
    for (M, T, d, start), cell in sorted(cells.items()):
        sizes = [f"{M:,}", str(T), f"{d:.0%}".replace("%", " %"), _STARTS[start]]
        rows.append([*sizes, *(cell.get(way, NONE) for way in (FORWARD, BOTH))])
    return Table(["M", "T", "not zero", "z₀", "forward", "both"], rows)


def _cases(results: Results, table: str) -> list[dict[str, Any]]:
    """Timed cases that start from h(b), like the README's snippet, in order of density and T."""
    found = measured.timed(r for r in results.group("headline") if r["settings"]["start"] == "paper")
    if not found:
        raise TableError(f'{table}: no case "paper" of the group "headline" was measured')
    return sorted(found, key=lambda r: (r["settings"]["density"], r["settings"]["n_iter"]))


def _least(results: Results, table: str) -> float:
    return min(r["settings"]["density"] for r in _cases(results, table))


def _memory(results: Results, table: str) -> dict[int, dict[str, Any]]:
    found = {r["settings"]["n_iter"]: r for r in results.group("memory") if r.get("memory")}
    if not found:
        raise TableError(f'{table}: no case of the group "memory" was measured')
    return dict(sorted(found.items()))


def _median(result: dict[str, Any], name: str) -> float | None:
    took = measured.seconds(result, name)
    return None if took is None else took.median


def _mebibytes(result: dict[str, Any], name: str) -> str:
    kept = measured.kept(result, name)
    return NONE if kept is None else f"{kept / 2**20:,.0f} MiB"
