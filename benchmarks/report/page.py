"""Results as one HTML page that needs nothing else: what page.html.j2 shows."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from benchmarks import environment
from benchmarks.cases import BOTH, FORWARD
from benchmarks.report import measured, tables, wording
from benchmarks.report.tables import Table, TableError
from benchmarks.results import Results

_TEMPLATE = "page.html.j2"
# Groups by what they ask, in the order of the page; others follow.
QUESTIONS = {
    "headline": "How fast is SC-VAE's whole bottleneck, encoding, iterations and decoding?",
    "layer": "How fast is the layer, as a model would call it?",
    "layers": "How fast are the layers, as a model would call them?",
    "iterations": "What do more iterations cost, forward and backward?",
    "family": "How fast are the other networks of the LISTA family, beside the loops that people write?",
    "crossover": "From which rows and densities on does it pay?",
    "rows": "How does it scale with the rows?",
    "atoms": "How does it scale with the atoms?",
    "decode": "How fast is decoding alone?",
    "dtypes": "What of other dtypes?",
    "compiled": "Does torch.compile close the gap?",
    "memory": "What is kept for the backward pass, and what is needed at the peak?",
    "lasso": "As a solver of the lasso, against others: how long until the objective is as good?",
    "model": "What remains of it in whole models, training and inference?",
    "parity": "Does training come to the same?",
}
_CAPTIONS = {
    "speedup.png": "Times as fast as eager PyTorch against the rows; bands hold three fifths of the rounds.",
    "crossover.png": "Times as fast as clean eager PyTorch; red is slower, grey was not timed.",
    "growth.png": "Time against one size, with least-squares fits of power laws and the exponents' standard errors.",
    "roofline.png": "Useful arithmetic a second: filled ours, hollow clean eager; ceilings of the same run.",
    "memory.png": "Bytes by the number of iterations.",
    "lasso.png": "Time until the objective is within the gap; without a bar who never got there.",
    "model.png": "Whole models: pictures a second, and what the time goes into.",
    "parity.png": "Losses from the same starts: thin each seed, thick their mean.",
}
# Where a picture belongs if that group was measured.
_PLACES = {"speedup.png": ("crossover", "rows"), "crossover.png": ("crossover",), "growth.png": ("growth",)}
# What stands in the cells of a group's first table.
_CELLS = {
    "headline": "Times as fast as the released formula (as clean eager); the share of the multiply-add peak that "
    "useful arithmetic reached, where the peak is known.",
    "memory": "Kept for the backward pass, arguments included, and added at the peak.",
    "iterations": "Relative errors against float64, of a forward and a backward pass.",
    "model": "In brackets, times as fast as the released code's habits.",
}
_TABLES = {"headline": tables.headline, "memory": tables.memory, "lasso": tables.lasso, "model": tables.model}


class Picture(NamedTuple):
    """A picture within the page."""

    name: str
    uri: str
    caption: str


class Section(NamedTuple):
    """A group of cases, or another question."""

    name: str
    question: str
    common: str  # what all cases share
    sentences: list[str]
    shown: list[Table]
    details: list[Table]  # folded away
    pictures: list[Picture]


class Fact(NamedTuple):
    """A key ratio."""

    figure: str
    meaning: str


def html(results: Results, pictures: Mapping[str, bytes]) -> str:
    """The page, with the pictures (PNG, by their names) inside."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    shape = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = {r["name"] for r in results.document["results"]}
    losing, of = measured.losing(results)
    found = {
        "heading": environment.heading(results.document["environment"]),
        "measured_on": tables.measured_on(results).replace("`", ""),
        "facts": facts(results),
        "checked": measured.checked(results),
        "measured": len(names),
        "wrong": measured.wrong(results),
        "raised": measured.raised(results),
        "left_out": measured.left_out(results),
        "not_reached": measured.not_reached(results),
        "losing": tables.losing_table(losing),
        "clearly": sum(loss.clearly for loss in losing),
        "compared": of,
        "sections": sections(results, pictures),
        "environment": conditions(results),
        "seconds": sum(r.get("took", 0.0) for r in results.document["results"]),
    }
    return shape.get_template(_TEMPLATE).render(found)


def facts(results: Results) -> list[Fact]:
    """The key ratios: of the headline, else of the first group that has any; and of whole models."""
    groups = [g for g in QUESTIONS if g not in ("model", "parity", "lasso") and g in results.document["groups"]]
    first = next((g for g in groups if measured.timed(results.group(g))), None)
    found = []
    for direction in (FORWARD, BOTH):
        cases = [r for r in results.group(first or "") if r["settings"].get("direction") == direction]
        found += _fact(cases, f"{wording.DIRECTIONS[direction]}, {first}")
    for result in measured.timed(results.document["results"], "ModelCase"):
        s = result["settings"]
        found += _fact([result], wording.in_words(s, ("preset", "direction", "released")))
    return found


def sections(results: Results, pictures: Mapping[str, bytes]) -> list[Section]:
    """Groups in the order of their questions; at last growth, and pictures that have no group here."""
    present = results.document["groups"]
    groups = [g for g in [*QUESTIONS, *present] if g in present and results.group(g)]
    groups = [*dict.fromkeys(groups), "growth", "roofline"]
    found = []
    placed: set[str] = set()
    for group in groups:
        its = [n for n in pictures if n not in placed and group in _PLACES.get(n, (n.removesuffix(".png"),))]
        placed.update(its)
        found.append(_section(results, group, _pictures(pictures, its)))
    rest = _pictures(pictures, [name for name in pictures if name not in placed])
    found.append(Section("more pictures", "", "", [], [], [], rest))
    return [s for s in found if s.shown or s.details or s.pictures or s.sentences]


def conditions(results: Results) -> Table:
    """Environment and ceilings, flat."""
    document = results.document
    shown = {"command": tables.command(results), **_flat(document["environment"])}
    ceilings = {f"ceiling, {name}": value for name, value in _flat(document.get("ceilings", {})).items()}
    rows = [
        [name, f"{value / 1e9:.1f} · 10⁹ a second" if isinstance(value, float) else str(value)]
        for name, value in ceilings.items()
    ]
    return Table(["", ""], [*([name, str(value)] for name, value in shown.items()), *rows])


def _section(results: Results, group: str, pictures: list[Picture]) -> Section:
    if group == "growth":
        grown = tables.growths(results)
        question = "By which powers does time grow?"
        return Section(group, question, "", [], [grown] if grown.rows else [], [], pictures)
    if group == "roofline":
        return Section(group, "How close does it come to what the machine can do?", "", [], [], [], pictures)
    found = results.group(group)
    shown: list[Table] = []
    sentences: list[str] = []
    if group in _TABLES:
        try:
            shown.append(_TABLES[group](results))
        except TableError as missing:
            sentences.append(f"No short table: {missing}.")
    if group == "iterations":
        shown += _accuracy(results)
    if shown and group in _CELLS:
        sentences.append(_CELLS[group])
    sentences += [s for r in found if (s := tables.parity(r)) is not None]
    if any(measured.rounds(r) or wording.notes(r) for r in found):
        shown.append(tables.overview(found))
    details = [table for table in (tables.details(found), tables.profiles(found)) if table.rows and len(table.head) > 2]
    return Section(
        group,
        QUESTIONS.get(group, ""),
        wording.labels(found)[0],
        sentences,
        shown,
        details,
        pictures,
    )


def _accuracy(results: Results) -> list[Table]:
    try:
        return [tables.accuracy(results)]
    except TableError:
        return []


def _fact(found: list[dict[str, Any]], what: str) -> list[Fact]:
    said = []
    for rival in measured.EAGER_WAYS[found[0]["kind"]] if found else ():
        ratios = [r.median for result in found if (r := measured.ratio(result, rival)) is not None]
        said += [(_range(ratios), f"as fast as {rival}")] if ratios else []
    if not said:
        return []
    meaning = ", ".join([said[0][1], *(f"{figure} {over}" for figure, over in said[1:])])
    return [Fact(said[0][0], f"{meaning}: {what}")]


def _range(values: list[float]) -> str:
    low, high = wording.number(min(values)), wording.number(max(values))
    return f"{low} ×" if low == high else f"{low} – {high} ×"


def _pictures(pictures: Mapping[str, bytes], names: Iterable[str]) -> list[Picture]:
    return [
        Picture(n, "data:image/png;base64," + base64.b64encode(pictures[n]).decode("ascii"), _CAPTIONS.get(n, ""))
        for n in names
    ]


def _flat(found: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in found.items():
        flat |= _flat(value, f"{before}{name}, ") if isinstance(value, dict) else {before + name: value}
    return flat
