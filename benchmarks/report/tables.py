"""Results as tables and sentences: for groups, for the documentation, and as CSV with a line per implementation."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks import cases, environment
from benchmarks.cases import BOTH, EXTENTS
from benchmarks.model import HABITS, OURS
from benchmarks.report import growth, measured
from benchmarks.report.measured import Spread
from benchmarks.report.wording import (
    KINDS_OF_RIVALS,
    NONE,
    called,
    in_words,
    labels,
    lasso_problem,
    milliseconds,
    notes,
    number,
    readable,
    times,
    varying,
)
from benchmarks.results import Results
from benchmarks.rivals import CLEAN, COMPILED, RELEASED
from scvae_fast._markdown import markdown_table

_ERRORS = ("z", "x̂", "∂x", "∂W_e", "∂S", "∂theta", "∂D")
_UNITS = {"float64": -16, "float32": -7, "float16": -4, "bfloat16": -3}
_VERDICTS = {True: "Training agrees", False: "Training differs", None: "One seed can't tell whether training agrees"}
_TIMES = ("p20", "p50", "p80")


class TableError(RuntimeError):
    """The results lack what a table needs; the message says what."""


class Table(NamedTuple):
    """Cells as text; the first line is the header."""

    head: list[str]
    rows: list[list[str]]


def markdown(table: Table) -> str:
    """The table in Markdown, for a page of the documentation."""
    return markdown_table(table.head, table.rows, left=range(len(table.head)), aligned=False)


def overview(found: Sequence[dict[str, Any]]) -> Table:
    """A line per case: the time of the automatic choice, and its speed-ups with their noise."""
    speedups = [measured.against(r) for r in found]
    kinds = [kind for kind in KINDS_OF_RIVALS if any(kind in s for s in speedups)]
    rows = []
    for result, label, over in zip(found, labels(found)[1], speedups, strict=True):
        name = result.get("chosen")
        took = measured.seconds(result, name)
        row = [
            label,
            NONE if name is None else name,
            NONE if took is None else milliseconds(took.median),
        ]
        rows.append([*row, *(times(over.get(kind), noise=True) for kind in kinds), notes(result)])
    head = ["case", "backend", "ms", *(f"vs {KINDS_OF_RIVALS[kind]}" for kind in kinds), "notes"]
    return _without_empty(Table(head, rows))


def details(found: Sequence[dict[str, Any]]) -> Table:
    """A line per implementation of each case: quantiles of its time, speed-ups over the eager loops, error."""
    rows = []
    for result, label in zip(found, labels(found)[1], strict=True):
        released, clean = measured.EAGER_WAYS.get(result["kind"], ("", ""))
        for name in measured.contestants(result):
            took = measured.seconds(result, name)
            row = [label, called(name), *([NONE] * 3 if took is None else map(milliseconds, took))]
            row += [times(measured.ratio(result, over, name)) for over in (released, clean)]
            error = measured.error(result, name)
            rows.append([*row, NONE if error is None else f"{error:.1e}"])
    head = ["case", "implementation", *(f"{q} ms" for q in _TIMES), "vs naive loop", "vs tuned loop", "error"]
    return _without_empty(Table(head, rows))


def headline(results: Results) -> Table:
    """Speed-ups of sparse_code, and the share of the processor's peak that useful arithmetic reaches, if known."""
    found = _needed(results, "headline")
    best = results.document.get("ceilings", {}).get("peak")
    columns = list(dict.fromkeys((r["settings"]["n_iter"], r["settings"]["density"]) for r in found))
    besides = [key for key in varying(found) if key not in ("n_iter", "density", "direction", "start")]
    cells: dict[str, dict[tuple[int, float], str]] = {}
    for result in found:
        s = result["settings"]
        row = in_words(s, ["direction", "start", *besides])
        share = measured.per_second(result, result["chosen"], "useful multiply-adds")
        over = [_rounded(measured.ratio(result, rival)) for rival in (RELEASED, CLEAN)]
        cell = f"{over[0]} ({over[1].removesuffix(' ×')})" + (f", {share / best:.0%}" if best and share else "")
        cells.setdefault(row, {})[s["n_iter"], s["density"]] = cell.replace("%", " %")
    head = ["", *(f"T = {T}, d = {d:g}" for T, d in columns)]
    return Table(head, [[row, *(line.get(column, NONE) for column in columns)] for row, line in cells.items()])


def memory(results: Results) -> Table:
    """Memory kept for the backward pass, and added at the peak, by T."""
    found = [r for r in results.group("memory") if r.get("memory")]
    if not found:
        raise TableError('memory: no case of the group "memory" was measured')
    op = found[0]["settings"]["op"]
    n_iters = sorted({r["settings"]["n_iter"] for r in found})
    by_T = {r["settings"]["n_iter"]: r for r in found if r["settings"]["op"] == op}
    rows = []
    for name in dict.fromkeys(name for r in found for name in reversed(measured.contestants(r))):
        cells = [_mebibytes(by_T.get(T, {}).get("memory", {}).get(name)) for T in n_iters]
        rows.append([f"`{op}`" if name == "cpu" else called(name), *cells])
    return Table(["", *(f"T = {T}" for T in n_iters)], rows)


def accuracy(results: Results) -> Table:
    """Relative errors against float64, of codes, reconstructions and gradients."""
    found = [r for r in results.group("iterations") if r["settings"]["direction"] == BOTH and r.get("errors")]
    if not found:
        raise TableError('accuracy: no case "both" of the group "iterations" was measured')
    n_iters = sorted({r["settings"]["n_iter"] for r in found})
    rows = []
    for dtype in dict.fromkeys(r["settings"]["dtype"] for r in found):
        by_T = {r["settings"]["n_iter"]: r["errors"] for r in found if r["settings"]["dtype"] == dtype}
        exponent = _UNITS[dtype]
        for name in dict.fromkeys(n for errors in by_T.values() for n in errors if COMPILED not in n):
            cells = [[by_T.get(T, {}).get(name, {}).get(what) for T in n_iters] for what in _ERRORS]
            power = "10" + "".join("⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".index(c)] for c in str(exponent))
            shown = f"`{name}`" if name in measured.BACKENDS else called(name)
            rows.append([f"{shown}, {dtype}, in units of {power}", *(_errors(cell, exponent) for cell in cells)])
    names = {"z": "codes", "∂theta": "∂θ"}
    return Table(["T = " + " / ".join(map(str, n_iters)), *(names.get(what, what) for what in _ERRORS)], rows)


def lasso(results: Results) -> Table:
    """Time and iterations until each solver reaches the gap; its final gap if it doesn't. A row for each problem."""
    found = [r for r in results.document["results"] if r["kind"] == "LassoCase" and r.get("efforts")]
    if not found:
        raise TableError("lasso: no case was measured")
    names = list(dict.fromkeys(n for r in found for n in r["efforts"]))
    rows = [[lasso_problem(r["settings"]), *(_effort(r, name) for name in names)] for r in found]
    return Table([f"time (iterations) to a gap of {found[0]['settings']['gap']:g}", *map(called, names)], rows)


def _effort(result: dict[str, Any], name: str) -> str:
    took, effort = measured.seconds(result, name), result["efforts"].get(name)
    if effort is None:
        return NONE
    n_iter = "" if effort["iterations"] is None else f" ({effort['iterations']})"
    return (f"{milliseconds(took.median)} ms" if took is not None else f"gap {effort['gap']:.1e}") + n_iter


def dictionary_learning(results: Results) -> Table:
    """Seconds of each contestant, and the objective over its dictionary."""
    found = [r for r in results.document["results"] if r["kind"] == "DictionaryLearningCase" and r.get("efforts")]
    if not found:
        raise TableError("dictionary-learning: no case was measured")
    rows = []
    for result, label in zip(found, labels(found)[1], strict=True):
        for name, effort in result["efforts"].items():
            took = measured.seconds(result, name)
            shown = [called(name), readable(took.median if took else None), f"{effort['objective']:.4f}"]
            rows.append([label, *shown] if len(found) > 1 else shown)
    return Table([*([""] if len(found) > 1 else []), "", "time", "objective"], rows)


def model(results: Results) -> Table:
    """Pictures per second of whole models, and speed-ups over the released code."""
    found = [r for r in results.document["results"] if r["kind"] == "ModelCase" and measured.rounds(r)]
    if not found:
        raise TableError("model: no case was measured")
    names = list(dict.fromkeys(n for r in found for n in measured.contestants(r)))
    rows = []
    for result, label in zip(found, labels(found)[1], strict=True):
        row = [label]
        for name in names:
            took, over = measured.seconds(result, name), measured.ratio(result, HABITS, name)
            pictures = NONE if took is None else f"{number(result['settings']['batch'] / took.median)}"
            row.append(pictures + (f" ({_rounded(over)})" if over is not None and name != HABITS else ""))
        rows.append(row)
    return Table(["pictures per second", *map(called, names)], rows)


def profiles(found: Sequence[dict[str, Any]]) -> Table:
    """Where whole models spend their time, by operation."""
    rows = []
    for result, label in zip(found, labels(found)[1], strict=True):
        for name, its in measured.profile(result).items():
            rows += [[label, called(name), operation, f"{part:.1%}".replace("%", " %")] for operation, part in its]
    return Table(["case", "implementation", "operation", "share of the time"], rows)


def losing(results: Results) -> str:
    """The number of cases in which scvae_fast is slower, and the cases."""
    found, n = measured.losing(results)
    if not n:
        raise TableError("losing: no case has both our time and that of eager PyTorch")
    clearly = sum(loss.clearly for loss in found)
    said = f"scvae_fast was at least as fast as the faster eager loop in {n - len(found)} of {n} cases"
    if not found:
        return said + "."
    said += f", and slower in {len(found)}: clearly in {clearly}, within the noise in {len(found) - clearly}"
    return f"{said}.\n\n{markdown(losing_table(found))}"


def losing_table(found: Sequence[measured.Loss]) -> Table:
    """The cases in which scvae_fast is slower, the loop that is faster, and the noise."""
    rows = []
    for loss in found:
        shape = in_words(loss.result["settings"], loss.result["settings"])
        rows.append([shape, called(loss.rival), times(loss.ratio, noise=True), "yes" if loss.clearly else "no"])
    return Table(["case", "faster", "speed-up (p20–p80)", "beyond the noise"], rows)


def growths(results: Results) -> Table:
    """Exponents by which each implementation's time grows."""
    found = growth.series(results)
    names = list(dict.fromkeys(name for series in found for name in series.fits))
    rows = []
    for series in found:
        sizes = sorted({size for took in series.seconds.values() for size in took})
        keys = [key for key in series.shared if key not in ("compiled", "dictionary")]
        label = f"{series.axis} = {sizes[0]} … {sizes[-1]}"
        fits = [str(series.fits[name]) if name in series.fits else NONE for name in names]
        rows.append([f"{label}: {in_words(series.shared, keys)}", *fits])
    return Table(["growing size", *map(called, names)], rows)


def parity(result: dict[str, Any]) -> str | None:
    """Whether the two training runs of a case reached the same loss; None for other cases."""
    found = measured.verdict(result)
    if found is None:
        return None
    deviation = NONE if found.deviation is None else f"{found.deviation:.2g}"
    said = f"{_VERDICTS[found.agrees]}: over the last quarter of the steps the mean loss is {found.ours:.4g} with "
    said += f"scvae_fast and {found.released:.4g} with the released code. They differ by "
    said += f"{found.ours - found.released:+.2g}; the standard deviation between seeds is {deviation}"
    return f"{said} ({in_words(result['settings'], result['settings'])})."


def parities(results: Results) -> str:
    """Whether training runs reached the same loss, a sentence for each case."""
    said = [sentence for r in results.document["results"] if (sentence := parity(r)) is not None]
    if not said:
        raise TableError("parity: no case was measured; --full measures it")
    return "\n".join(said)


def measured_on(results: Results) -> str:
    """Machine, versions, commit and command, in a sentence."""
    found = results.document["environment"]
    return f"Measured on {environment.heading(found)}, commit {found['commit']}, `{command(results)}`."


def command(results: Results) -> str:
    """The command that gives these results, as far as they record it."""
    found = results.document["environment"]
    device = "cuda" if "driver" in found else "cpu"
    words = ["python", "-m", "benchmarks"]
    members = {name for names in results.document["groups"].values() for name in names}
    done = [extent for extent in EXTENTS if set(cases.by_name(cases.plan(device, extent))) <= members]
    words += {"quick": ["--quick"], "standard": [], "full": ["--full"]}[done[-1]] if done else ["--case", "…"]
    return " ".join(words + (["--tuned-allocator"] if found["allocator"] != "default" else []))


def as_csv(results: Results) -> str:
    """A line for every case and implementation; missing measurements are empty."""
    standing: dict[str, list[str]] = {}
    for group, names in results.document["groups"].items():
        for name in names:
            standing.setdefault(name, []).append(group)
    settings = list(dict.fromkeys(key for kind in cases.KINDS.values() for key in kind._fields))
    lines = [
        {"groups": " ".join(standing.get(r["name"], [])), "name": r["name"], "kind": r["kind"], **r["settings"], **line}
        for r in results.document["results"]
        for line in _lines(results, r)
    ]
    columns = list(dict.fromkeys(["groups", "name", "kind", *settings, *(key for line in lines for key in line)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _lines(results: Results, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of a result in the CSV, without the columns of the case."""
    released, clean = measured.EAGER_WAYS.get(result["kind"], ("", ""))
    verdict = measured.verdict(result)
    found = []
    for name in measured.contestants(result) or [""]:
        took = measured.seconds(result, name)
        useful = measured.per_second(result, name, "useful multiply-adds")
        best = measured.product_ceiling(results, result["settings"].get("dtype", ""))
        over = {rival: measured.ratio(result, rival, name) for rival in (released, clean)}
        effort = (result.get("efforts") or {}).get(name, {})
        line = {
            "contestant": name,
            "chosen": name == result.get("chosen"),
            "status": _status(result, name),
            **dict(zip((f"{q} seconds" for q in _TIMES), took or [], strict=False)),
            "over released": _median(over[released]),
            "over clean eager": _median(over[clean]),
            "useful multiply-adds a second": useful,
            "share of the product ceiling": useful / best if useful and best else None,
            "bytes a second": measured.per_second(result, name, "least bytes"),
            "error": measured.error(result, name),
            "bytes kept": measured.kept(result, name),
            "bytes at peak": measured.peak(result, name),
            "iterations": effort.get("iterations"),
            "gap reached": effort.get("gap"),
            "objective": effort.get("objective"),
            "last losses": verdict and {OURS: verdict.ours, HABITS: verdict.released}.get(name),
        }
        found.append({key: value for key, value in line.items() if value is not None})
    return found


def _median(r: Spread | None) -> float | None:
    return None if r is None else r.median


def _status(result: dict[str, Any], name: str) -> str:
    if "raised" in result:
        return f"raised: {measured.last_line(result['raised'])}"
    for what in ("wrong", "left out"):
        if name in (result.get(what) or {}):
            return f"{what}: {result[what][name]}"
    return "measured"


def _needed(results: Results, group: str) -> list[dict[str, Any]]:
    """All cases of a group; raises an error that names a case without our time."""
    names = results.document["groups"].get(group, [])
    found = {r["name"]: r for r in results.group(group)}
    for name in names:
        result = found.get(name)
        if result is None or measured.seconds(result, result.get("chosen")) is None:
            raise TableError(
                f"{group}: {name} has no time of ours: {notes(result) if result else 'it was not measured'}"
            )
    if not names:
        raise TableError(f"{group}: the run holds no such group")
    return [found[name] for name in names]


def _rounded(r: Spread | None) -> str:
    """A ratio for the documentation, with as many digits as are meaningful on shared machines; losses stay visible."""
    return NONE if r is None else f"{r.median:.{1 if r.median >= 1 else 2}f} ×"


def _mebibytes(found: dict[str, int] | None) -> str:
    return (
        NONE
        if found is None
        else f"{(found['made'] + found['given']) / 2**20:.0f} MiB, peak {found['peak'] / 2**20:.0f}"
    )


def _errors(found: Sequence[float | None], exponent: int) -> str:
    shown = [NONE if e is None else f"{e / 10.0**exponent:#.2g}".removesuffix(".") for e in found]
    return NONE if set(shown) == {NONE} else " / ".join(shown)


def _without_empty(table: Table) -> Table:
    keep = [i for i in range(len(table.head)) if i < 2 or any(row[i] not in ("", NONE) for row in table.rows)]
    return Table([table.head[i] for i in keep], [[row[i] for i in keep] for row in table.rows])
