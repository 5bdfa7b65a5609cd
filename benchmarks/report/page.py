"""Results as a self-contained HTML page, laid out by page.html.j2."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from benchmarks import environment
from benchmarks.cases import BOTH, FORWARD
from benchmarks.report import gains, measured, tables, wording
from benchmarks.report.tables import Table, TableError
from benchmarks.results import Results

_TEMPLATE = "page.html.j2"
# Groups in the order of the page, with title and question; other groups follow.
GROUPS = {
    "headline": ("The whole bottleneck", "How fast is sparse_code: encoding, all iterations, decoding?"),
    "layer": ("The layer", "How fast is DictionaryLISTA, called as a model calls it?"),
    "layers": ("The layers", "How fast are the layers, called as a model calls them?"),
    "iterations": ("Number of iterations", "What do more iterations cost?"),
    "family": (
        "The rest of the LISTA family",
        "How fast are ISTA, FISTA and per-iteration weights, compared with eager loops?",
    ),
    "crossover": ("Rows and density", "From how many rows, and up to which density, does scvae_fast pay off?"),
    "rows": ("Many rows", "How does the time grow with the number of rows?"),
    "atoms": ("Number of atoms", "How does the time grow with the number of atoms?"),
    "decode": ("Decoding", "How fast is decode, compared with PyTorch's matrix product?"),
    "dtypes": ("Other dtypes", "How fast are float64, bfloat16 and float16?"),
    "compiled": ("Against torch.compile", "How much of the gap does torch.compile close?"),
    "memory": ("Memory", "What does autograd keep for the backward pass, and what does a call need at its peak?"),
    "lasso": ("Lasso solvers", "How long does each solver take until its objective is equally good?"),
    "dictionary-learning": (
        "Dictionary learning",
        "How long does a pass over the same patches take, and how good is the dictionary?",
    ),
    "model": ("Whole models", "How much faster do training and inference of a whole SC-VAE become?"),
    "parity": ("Training losses", "Does training reach the same loss?"),
    "growth": ("How time grows", "How does the time scale with each size?"),
    "roofline": ("Limits of the machine", "How close does useful arithmetic come to what the machine can do?"),
}
_CAPTIONS = {
    "speedup.png": "Speed-up over eager PyTorch against the number of rows. Bands hold the middle 60 % of the rounds.",
    "crossover.png": "Speed-up over the tuned eager loop. Red: slower. Grey: not timed.",
    "growth.png": "Time against one size, with power laws fitted by least squares and standard errors of exponents.",
    "roofline.png": "Useful arithmetic per second. Filled: scvae_fast. Hollow: the tuned loop. The same run "
    "measured the limits.",
    "memory.png": "Memory against the number of iterations.",
    "lasso.png": "Time until the objective is within the gap. A solver without a bar did not get there.",
    "model.png": "Whole models: pictures per second, and where the time goes.",
    "parity.png": "Training losses from the same starts. Thin: each seed. Thick: their mean.",
}
# The group in which a figure is shown, if that was measured.
_PLACES = {"speedup.png": ("crossover", "rows"), "crossover.png": ("crossover",), "growth.png": ("growth",)}
# How to read a group's first table.
_CELLS = {
    "headline": "Speed-up over the naive loop; in brackets, over the tuned loop; then the share of the processor's "
    "multiply-add peak that useful arithmetic reached, where the peak is known.",
    "memory": "What is kept for the backward pass, arguments included, and what the two passes add at their peak.",
    "iterations": "Relative errors against float64, of a forward and a backward pass.",
    "model": "In brackets, the speed-up over the released code.",
}
_TABLES = {
    "headline": tables.headline,
    "memory": tables.memory,
    "lasso": tables.lasso,
    "dictionary-learning": tables.dictionary_learning,
    "model": tables.model,
}


class Picture(NamedTuple):
    """A figure in the page."""

    name: str
    uri: str
    caption: str


class Section(NamedTuple):
    """A group of cases, or a figure without a group."""

    name: str
    title: str
    question: str
    common: str  # settings that all cases share
    sentences: list[str]
    shown: list[Table]
    details: list[Table]  # collapsed
    pictures: list[Picture]


class Fact(NamedTuple):
    """A key ratio."""

    figure: str
    meaning: str


def html(results: Results, pictures: Mapping[str, bytes]) -> str:
    """The page, with the figures (PNG, by name) embedded."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    shape = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = {r["name"] for r in results.document["results"]}
    losing, of = measured.losing(results)
    found = {
        "heading": environment.heading(results.document["environment"]),
        "measured_on": tables.measured_on(results).replace("`", ""),
        "gains": _gains(results),
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
    """The key ratios: of the whole bottleneck, else of the first group that has any; and of whole models."""
    solvers = ("lasso", "dictionary-learning")
    groups = [g for g in GROUPS if g not in ("model", "parity", *solvers) and g in results.document["groups"]]
    first = next((g for g in groups if measured.timed(results.group(g))), None)
    found = []
    for direction in (FORWARD, BOTH):
        cases = [r for r in results.group(first or "") if r["settings"].get("direction") == direction]
        found += _fact(cases, f"{GROUPS[first or 'headline'][0].lower()}, {wording.DIRECTIONS[direction]}")
    for result in measured.timed(results.document["results"], "ModelCase"):
        s = result["settings"]
        found += _fact([result], wording.in_words(s, ("preset", "direction", "released")))
    return found


def sections(results: Results, pictures: Mapping[str, bytes]) -> list[Section]:
    """Groups in the order of the page; then groups without cases, and figures without a group."""
    present = results.document["groups"]
    groups = [g for g in [*GROUPS, *present] if g in ("growth", "roofline") or (g in present and results.group(g))]
    groups = list(dict.fromkeys(groups))
    found = []
    placed: set[str] = set()
    for group in groups:
        its = [n for n in pictures if n not in placed and group in _PLACES.get(n, (n.removesuffix(".png"),))]
        placed.update(its)
        found.append(_section(results, group, _pictures(pictures, its)))
    rest = _pictures(pictures, [name for name in pictures if name not in placed])
    found.append(Section("more", "More figures", "", "", [], [], [], rest))
    return [s for s in found if s.shown or s.details or s.pictures or s.sentences]


def conditions(results: Results) -> Table:
    """Environment and ceilings, flattened."""
    document = results.document
    shown = {"command": tables.command(results), **_flat(document["environment"])}
    ceilings = {f"ceiling, {name}": value for name, value in _flat(document.get("ceilings", {})).items()}
    rows = [
        [name, f"{value / 1e9:.1f} · 10⁹ per second" if isinstance(value, float) else str(value)]
        for name, value in ceilings.items()
    ]
    return Table(["", ""], [*([name, str(value)] for name, value in shown.items()), *rows])


def _section(results: Results, group: str, pictures: list[Picture]) -> Section:
    title, question = GROUPS.get(group, (group, ""))
    if group in ("growth", "roofline"):
        grown = tables.growths(results) if group == "growth" else None
        return Section(group, title, question, "", [], [grown] if grown and grown.rows else [], [], pictures)
    found = results.group(group)
    shown: list[Table] = []
    sentences: list[str] = []
    if group in _TABLES:
        try:
            shown.append(_TABLES[group](results))
        except TableError as missing:
            sentences.append(f"There is no summary table: {missing}.")
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
        title,
        question,
        wording.labels(found)[0],
        sentences,
        shown,
        details,
        pictures,
    )


def _gains(results: Results) -> Table:
    try:
        return gains.nearest(results)
    except TableError:
        return Table([], [])


def _accuracy(results: Results) -> list[Table]:
    try:
        return [tables.accuracy(results)]
    except TableError:
        return []


def _fact(found: list[dict[str, Any]], what: str) -> list[Fact]:
    said = []
    for rival in measured.EAGER_WAYS[found[0]["kind"]] if found else ():
        ratios = [r.median for result in found if (r := measured.ratio(result, rival)) is not None]
        said += [(_range(ratios), f"over the {wording.called(rival)}")] if ratios else []
    if not said:
        return []
    meaning = ", ".join([f"speed-up {said[0][1]}", *(f"{figure} {over}" for figure, over in said[1:])])
    return [Fact(said[0][0], f"{what}: {meaning}")]


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
