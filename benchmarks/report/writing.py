"""Report of a run: python -m benchmarks.report DIR rewrites results.csv, figures and report.html in its folder.

With --docs it also rewrites the tables of README.md and docs/benchmarks.md: text between the lines
<!-- benchmarks: NAME of FOLDER --> and <!-- /benchmarks --> is replaced by the table of that name, if FOLDER is DIR's.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.report import gains, measured, page, tables, wording
from benchmarks.report.measured import Loss, Spread, Trouble
from benchmarks.report.tables import Table, TableError
from benchmarks.results import Results, ResultsError
from scvae_fast._files import write_atomically

# Pages with tables from a committed run.
PAGES = (environment.ROOT / "README.md", environment.ROOT / "docs" / "benchmarks.md")
CSV, PAGE = "results.csv", "report.html"
_BEGIN, _END = re.compile(r"<!-- benchmarks: *(\S+) of (\S+) *-->"), "<!-- /benchmarks -->"
# A group's lines in the summary: cases with equal values of these settings share one, unless there are too many.
_SPLIT = ("op", "direction", "start", "dtype", "dictionary", "preset", "released", "n_iter", "density", "rows", "atoms")
_LINES = 6
_SHOWN = {"headline": "bottleneck"}
_LABEL, _CELL = 50, 15


class QuoteError(RuntimeError):
    """A page's tables can't be rewritten; the message says why."""


def _as_markdown(table: Callable[[Results], Table]) -> Callable[[Results], str]:
    return lambda results: tables.markdown(table(results))


QUOTED: dict[str, Callable[[Results], str]] = {
    "example": gains.example,
    "gains": _as_markdown(gains.gains),
    "nearest": _as_markdown(gains.nearest),
    "headline": _as_markdown(tables.headline),
    "losing": tables.losing,
    "memory": _as_markdown(tables.memory),
    "accuracy": _as_markdown(tables.accuracy),
    "environment": tables.measured_on,
    "lasso": _as_markdown(tables.lasso),
    "dictionary-learning": _as_markdown(tables.dictionary_learning),
    "model": _as_markdown(tables.model),
    "parity": tables.parities,
}
"""The tables that the documentation quotes, by the names in its marks."""


def write(results: Results) -> None:
    """Write results.csv, figures and report.html atomically into the folder of the results.

    Figures without data are not drawn, and older ones are removed. Without matplotlib there are none.

    Raises:
        OSError: the folder can't be written to.
    """
    drawn = _pictures(results) if find_spec("matplotlib") else {}
    if not find_spec("matplotlib"):
        print('no figures: matplotlib is missing, pip install "scvae_fast[train]"', file=sys.stderr)
    _write(results.folder / CSV, tables.as_csv(results).encode())
    _write(results.folder / PAGE, page.html(results, drawn).encode())


def _pictures(results: Results) -> dict[str, bytes]:
    """Draw and write the figures."""
    from benchmarks.report import drawing, plots

    drawn: dict[str, bytes] = {}
    for name, draw in plots.PICTURES.items():
        figure = draw(results)
        if figure is None:
            (results.folder / name).unlink(missing_ok=True)
            continue
        held = io.BytesIO()
        drawing.save(figure, held)
        drawn[name] = held.getvalue()
        _write(results.folder / name, drawn[name])
    return drawn


def summary(results: Results) -> None:
    """Print the run on one page: speed-ups by group, every slower case, problems, and the location of the files."""
    print(environment.heading(results.document["environment"]))
    lines = [line for group in results.document["groups"] for line in _group_lines(results, group)]
    kinds = [kind for kind in wording.KINDS_OF_RIVALS if any(kind in speedups for _, speedups in lines)]
    if kinds:
        print(
            f"{'speed-up over':<{_LABEL}}"
            + "".join(f"{wording.KINDS_OF_RIVALS[k]:>{_CELL}}" for k in kinds)
            + "   noise"
        )
    for label, speedups in lines:
        cells = "".join(f"{_range(speedups.get(kind, [])):>{_CELL}}" for kind in kinds)
        print(f"{_cut(label):<{_LABEL}}{cells}{_noise(speedups):>8}")
    _print_memory(results)
    _print_lasso(results)
    _print_dictionary_learning(results)
    for result in results.document["results"]:
        if (said := tables.parity(result)) is not None:
            print(said)
    _print_losing(*measured.losing(results))
    _print_troubles(results)
    print(f"{results.folder / PAGE} shows everything; {CSV} next to it has every number")


def rewritten(text: str, results: Results) -> str:
    """A page's text with the tables marked as those of this run replaced; tables of other runs stay.

    Raises:
        QuoteError: a mark has no end, or names no table.
        TableError: the results lack what a table needs.
    """
    out: list[str] = []
    inside, replaced = "", False
    for line in text.splitlines(keepends=True):
        begins = _BEGIN.fullmatch(line.strip())
        if begins:
            if inside:
                raise QuoteError(f"the table {inside!r} has no line {_END} before the next begins")
            inside, replaced = begins[1], begins[2] == results.folder.resolve().name
            if inside not in QUOTED:
                raise QuoteError(f"there is no table {inside!r}; there are {', '.join(QUOTED)}")
            if replaced:
                out += [line, "\n", QUOTED[inside](results), "\n\n"]
        elif line.strip() == _END:
            if not inside:
                raise QuoteError(f"a line {_END} ends no table")
            inside, replaced = "", False
        if not (inside and replaced):
            out.append(line)
    if inside:
        raise QuoteError(f"the table {inside!r} has no line {_END} after it")
    return "".join(out)


def main(words: Sequence[str] | None = None, pages: Sequence[Path] = PAGES) -> int:
    """Write the report, and the documentation's tables if requested; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--docs", action="store_true", help="rewrite the tables of README.md and docs/benchmarks.md too"
    )
    chosen = parser.parse_args(words)
    try:
        results = Results.read(chosen.folder)
        write(results)
        if chosen.docs:
            texts = {path: rewritten(path.read_text(encoding="utf-8"), results) for path in pages}
            mark = f" of {results.folder.resolve().name} -->"
            if not any(mark in text for text in texts.values()):
                raise QuoteError(f"no line <!-- benchmarks: NAME{mark} says where a table belongs")
            for path, text in texts.items():
                _write(path, text.encode())
    except (ResultsError, QuoteError, TableError, OSError) as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return 1
    summary(results)
    return 0


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _group_lines(results: Results, group: str) -> list[tuple[str, dict[str, list[Spread]]]]:
    """Labels, and the speed-ups of the cases that share each of them."""
    found = [r for r in results.group(group) if r["kind"] in measured.KINDS_THAT_LOSE]
    if not found:
        return []
    split = [key for key in found[0]["settings"] if key in ("op", "form", "direction")]
    for key in (key for key in _SPLIT if key in wording.varying(found) and key not in split):
        if len({_values(r, [*split, key]) for r in found}) <= _LINES:
            split.append(key)
    bundles: dict[str, dict[str, list[Spread]]] = {}
    for result in found:
        label = f"{_SHOWN.get(group, group)}: {wording.in_words(result['settings'], split)}"
        bundle = bundles.setdefault(label, {})
        for kind, ratio in measured.against(result).items():
            bundle.setdefault(kind, []).append(ratio)
    return list(bundles.items())


def _values(result: dict[str, Any], keys: Iterable[str]) -> tuple[Any, ...]:
    return tuple(result["settings"].get(key) for key in keys)


def _range(ratios: list[Spread]) -> str:
    if not ratios:
        return wording.NONE
    low, high = (wording.number(f(r.median for r in ratios)) for f in (min, max))
    return low if low == high else f"{low} … {high}"


def _noise(speedups: dict[str, list[Spread]]) -> str:
    """Half the distance between the quantiles, of the ratio over clean eager if there is one, in a typical case."""
    ratios = speedups.get("clean") or next(iter(speedups.values()), [])
    if not ratios:
        return ""
    typical = measured.spread((r.high - r.low) / (2 * r.median) for r in ratios).median
    return f"±{100 * typical:.0f} %"


def _cut(label: str) -> str:
    label = label.replace("forward and backward", "both")
    return label if len(label) < _LABEL else label[: _LABEL - 2] + "…"


def _print_memory(results: Results) -> None:
    for result in (r for r in results.document["results"] if r.get("memory")):
        sizes = {name: (measured.kept(result, name) or 0, found["peak"]) for name, found in result["memory"].items()}
        shown = (f"{wording.called(name)} {kept / 2**20:.0f} ({at / 2**20:.0f})" for name, (kept, at) in sizes.items())
        print(f"memory, {wording.in_words(result['settings'], ['op', 'n_iter'])}, MiB kept (peak): {'; '.join(shown)}")


def _print_lasso(results: Results) -> None:
    for result in (r for r in results.document["results"] if r["kind"] == "LassoCase" and measured.rounds(r)):
        medians = {
            name: took.median for name in result["efforts"] if (took := measured.seconds(result, name)) is not None
        }
        ranked = sorted(medians, key=medians.__getitem__)
        shown = "; ".join(f"{wording.called(name)} {wording.milliseconds(medians[name])}" for name in ranked)
        print(f"lasso, {wording.in_words(result['settings'], ['dictionary'])}, ms: {shown}")


def _print_dictionary_learning(results: Results) -> None:
    found = [r for r in results.document["results"] if r["kind"] == "DictionaryLearningCase" and measured.rounds(r)]
    for result in found:
        for name, effort in result["efforts"].items():
            took = measured.seconds(result, name)
            shown = wording.readable(None if took is None else took.median)
            print(f"dictionary learning, {wording.called(name)}: {shown}, objective {effort['objective']:.4f}")


def _print_losing(losing: list[Loss], compared: int) -> None:
    if compared:
        print(f"\nslower than the faster eager loop: {len(losing)} of {compared} cases")
    for title, clearly in (("clearly", True), ("within the noise", False)):
        its = [loss for loss in losing if loss.clearly == clearly]
        if its:
            print(f"  {title}:")
        for loss in its:
            print(f"    {loss.result['name']}: {wording.times(loss.ratio, noise=True)} × {wording.called(loss.rival)}")


def _print_troubles(results: Results) -> None:
    kinds = {
        "WRONG": measured.wrong(results),
        "RAISED": measured.raised(results),
        "left out": measured.left_out(results),
    }
    for kind, found in kinds.items():
        for trouble in found:
            print(f"{kind}: {_trouble(trouble)}")
    missing = measured.not_reached(results)
    if missing:
        print(f"not measured yet: {len(missing)} cases; run the same command again to continue")


def _trouble(trouble: Trouble) -> str:
    return ", ".join(filter(None, (trouble.case, trouble.contestant))) + f": {trouble.why}"
