"""Report of a run: python -m benchmarks.report DIR writes results.csv, pictures and report.html into its folder again.

With --readme the README's tables are rewritten from it as well: what stands between the lines
<!-- benchmarks: NAME --> and <!-- /benchmarks --> is replaced by the table of that name.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.report import measured, page, tables, wording
from benchmarks.report.measured import Loss, Spread, Trouble
from benchmarks.report.tables import TableError
from benchmarks.results import Results, ResultsError
from scvae_fast._files import write_atomically

README = environment.ROOT / "README.md"
CSV, PAGE = "results.csv", "report.html"
_BEGIN, _END = re.compile(r"<!-- benchmarks: *(\S+) *-->"), "<!-- /benchmarks -->"
# A group's lines in the summary: cases that agree in these settings share one, as long as there are not too many.
_SPLIT = ("op", "direction", "start", "dtype", "dictionary", "preset", "released", "n_iter", "density", "rows", "atoms")
_LINES = 6
_LABEL, _CELL = 50, 15


class ReadmeError(RuntimeError):
    """The README can't be rewritten; the message says why."""


def write(results: Results) -> None:
    """Writes results.csv, pictures and report.html into the folder of the results, each whole.

    Pictures that there is no data for are not drawn, and an older one is removed. Without matplotlib there are none.

    Raises:
        OSError: the folder can't be written to.
    """
    drawn = _pictures(results) if find_spec("matplotlib") else {}
    if not find_spec("matplotlib"):
        print('no pictures: matplotlib is missing, pip install "scvae_fast[train]"', file=sys.stderr)
    _write(results.folder / CSV, tables.as_csv(results).encode())
    _write(results.folder / PAGE, page.html(results, drawn).encode())


def _pictures(results: Results) -> dict[str, bytes]:
    """Draws and writes them."""
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
    """Prints the run on a page: speed-ups by group, every shape that loses, what went wrong, where the files are."""
    print(environment.heading(results.document["environment"]))
    lines = [line for group in results.document["groups"] for line in _group_lines(results, group)]
    kinds = [kind for kind in wording.KINDS_OF_RIVALS if any(kind in speedups for _, speedups in lines)]
    if kinds:
        print(
            f"{'times as fast as':<{_LABEL}}"
            + "".join(f"{wording.KINDS_OF_RIVALS[k]:>{_CELL}}" for k in kinds)
            + "   noise"
        )
    for label, speedups in lines:
        cells = "".join(f"{_range(speedups.get(kind, [])):>{_CELL}}" for kind in kinds)
        print(f"{_cut(label):<{_LABEL}}{cells}{_noise(speedups):>8}")
    _print_memory(results)
    _print_lasso(results)
    for result in results.document["results"]:
        if (said := tables.parity(result)) is not None:
            print(said)
    _print_losing(*measured.losing(results))
    _print_troubles(results)
    print(f"{results.folder / PAGE} shows all of it, {CSV} beside it has every number")


def rewritten(text: str, results: Results) -> str:
    """A README's text with its tables from the results.

    Raises:
        ReadmeError: there are no marks, one has no end, or names no table.
        TableError: the results lack what a table needs.
    """
    out: list[str] = []
    inside, written = "", 0
    for line in text.splitlines(keepends=True):
        begins = _BEGIN.fullmatch(line.strip())
        if begins:
            if inside:
                raise ReadmeError(f"the table {inside!r} has no line {_END} before the next begins")
            inside = begins[1]
            if inside not in tables.README:
                raise ReadmeError(f"there is no table {inside!r}; there are {', '.join(tables.README)}")
            out += [line, "\n", tables.README[inside](results), "\n\n"]
            written += 1
        elif line.strip() == _END:
            if not inside:
                raise ReadmeError(f"a line {_END} ends no table")
            inside = ""
        if not inside:
            out.append(line)
    if inside:
        raise ReadmeError(f"the table {inside!r} has no line {_END} behind it")
    if not written:
        raise ReadmeError("no line <!-- benchmarks: NAME --> says where a table belongs")
    return "".join(out)


def main(words: Sequence[str] | None = None, readme: Path = README) -> int:
    """Writes the report, and the README's tables if asked to; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument("--readme", action="store_true", help="rewrite the tables of README.md too")
    chosen = parser.parse_args(words)
    try:
        results = Results.read(chosen.folder)
        write(results)
        if chosen.readme:
            text = rewritten(readme.read_text(encoding="utf-8"), results)
            _write(readme, text.encode())
    except (ResultsError, ReadmeError, TableError, OSError) as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return 1
    summary(results)
    return 0


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _group_lines(results: Results, group: str) -> list[tuple[str, dict[str, list[Spread]]]]:
    """Labels, and the speed-ups of the cases behind each."""
    found = [r for r in results.group(group) if r["kind"] in measured.KINDS_THAT_LOSE]
    if not found:
        return []
    split = [key for key in found[0]["settings"] if key in ("op", "form", "direction")]
    for key in (key for key in _SPLIT if key in wording.varying(found) and key not in split):
        if len({_values(r, [*split, key]) for r in found}) <= _LINES:
            split.append(key)
    bundles: dict[str, dict[str, list[Spread]]] = {}
    for result in found:
        label = f"{group}: {wording.in_words(result['settings'], split)}"
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
    """Half of what lies between the quantiles, of the ratio over clean eager if there is one, in a typical case."""
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
        shown = "; ".join(f"{name} {wording.milliseconds(medians[name])}" for name in ranked)
        print(f"lasso, {wording.in_words(result['settings'], ['dictionary'])}, ms: {shown}")


def _print_losing(losing: list[Loss], compared: int) -> None:
    if compared:
        print(f"\nslower than the fastest eager way: {len(losing)} of {compared} cases")
    for title, clearly in (("clearly", True), ("within the noise", False)):
        its = [loss for loss in losing if loss.clearly == clearly]
        if its:
            print(f"  {title}:")
        for loss in its:
            print(f"    {loss.result['name']}: {wording.times(loss.ratio, noise=True)} × {loss.rival}")


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
        print(f"not measured yet: {len(missing)} cases; the same command goes on with them")


def _trouble(trouble: Trouble) -> str:
    return ", ".join(filter(None, (trouble.case, trouble.contestant))) + f": {trouble.why}"
