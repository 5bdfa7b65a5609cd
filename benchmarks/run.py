"""Measures scvae_fast on this machine, compared with its rivals: python -m benchmarks.

Only correct results are timed: a contestant whose error against float64 is more than twice that of eager PyTorch is
reported and not timed; if it is one of ours, the exit status is 1. Ctrl-C keeps the measurements so far; the same
command continues from there. Results, tables and figures are written to a folder; its report.html shows them all.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import (
    against,
    cases,
    ceilings,
    dictionary_learning,
    environment,
    family,
    lasso,
    memory,
    model,
    operations,
    parity,
)
from benchmarks.cases import AnyCase, Case, DictionaryLearningCase, FamilyCase, LassoCase, MemoryCase, ModelCase
from benchmarks.report import measured
from benchmarks.report import writing as report
from benchmarks.results import Results, ResultsError

SECONDS = {"quick": 0.5, "standard": 3.0, "full": 8.0}  # seconds of samples per case
FAILED, STOPPED = 1, 130


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The options; ends the program if they are invalid."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    cuda = torch.cuda.is_available()
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--quick", dest="extent", action="store_const", const="quick", help="takes seconds: only our layer"
    )
    extent.add_argument(
        "--full", dest="extent", action="store_const", const="full", help="takes hours: every size, and training losses"
    )
    parser.add_argument("--case", action="append", metavar="PATTERN", help="only cases such as 'lista-*-M16-*'")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and exit")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default out/bench/DEVICE)")
    parser.add_argument("--fresh", action="store_true", help="replace earlier results in the folder")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no case after this time")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: torch's own choice)")
    parser.add_argument(
        "--tuned-allocator",
        action="store_true",
        help=f"restart with {' '.join(environment.TUNED)} set, so that eager PyTorch loses less time to page faults",
    )
    parser.add_argument(
        "--against", metavar="REF", help="compare with another commit, built separately, instead of with the rivals"
    )
    parser.set_defaults(extent="standard")
    chosen = parser.parse_args(words)
    if chosen.device == "cuda" and not cuda:
        parser.error("--device cuda: torch finds no CUDA device")
    if not chosen.minutes > 0 or (chosen.threads is not None and chosen.threads < 1):
        parser.error("--minutes must be positive, --threads at least 1")
    if chosen.tuned_allocator and platform.libc_ver()[0] != "glibc":
        parser.error("--tuned-allocator: only glibc's allocator can be tuned, but this Python uses another")
    chosen.groups = _chosen_groups(parser, chosen)
    return chosen


def _chosen_groups(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> dict[str, list[AnyCase]]:
    groups = cases.plan(chosen.device, chosen.extent)
    if chosen.case is None:
        return groups
    names = list(cases.by_name(groups))
    for pattern in chosen.case:
        if not fnmatch.filter(names, pattern):
            parser.error(f"--case: no case matches {pattern!r}; --list prints their names")
    wanted = {name for pattern in chosen.case for name in fnmatch.filter(names, pattern)}
    kept = {group: [case for case in members if case.name in wanted] for group, members in groups.items()}
    return {group: members for group, members in kept.items() if members}


def measure(case: AnyCase, device: str, seconds: float) -> dict[str, Any]:
    """Measure a case, depending on its kind."""
    if isinstance(case, Case):
        return operations.measure(case, device, seconds)
    if isinstance(case, FamilyCase):
        return family.measure(case, device, seconds)
    if isinstance(case, MemoryCase):
        return memory.measure(case)
    if isinstance(case, LassoCase):
        return lasso.measure(case, device, seconds)
    if isinstance(case, DictionaryLearningCase):
        return dictionary_learning.measure(case, seconds)
    if isinstance(case, ModelCase):
        return model.measure(case, device, seconds)
    return parity.measure(case, device)


def run(chosen: argparse.Namespace, held: Results) -> None:
    """Measure the chosen cases that have no results yet, until the time is up."""
    held.note_groups(chosen.groups)
    if "ceilings" not in held.document and chosen.extent != "quick":
        held.document["ceilings"] = ceilings.measured(chosen.device)
    end = time.monotonic() + 60 * chosen.minutes
    open_cases = [case for name, case in cases.by_name(chosen.groups).items() if name not in held.done()]
    for case in progress(open_cases):
        if time.monotonic() > end:
            break
        begin = time.monotonic()
        try:
            found = measure(case, chosen.device, SECONDS[chosen.extent])
        except Exception:  # recorded, shown, and reflected in the exit status; the other cases continue
            found = {"raised": traceback.format_exc()}
            print(f"\n{case.name} raised:\n{found['raised']}", file=sys.stderr)
        held.add(case, {**found, "took": time.monotonic() - begin})
        gc.collect()
        if chosen.device == "cuda":
            torch.cuda.empty_cache()


def progress(open_cases: Sequence[AnyCase]) -> Iterator[AnyCase]:
    """The cases, with a progress bar on stderr that names the current one; lines of text if it is not a terminal."""
    if find_spec("tqdm") and sys.stderr.isatty():
        from tqdm import tqdm  # type: ignore[import-untyped]

        bar = tqdm(open_cases, unit="case", file=sys.stderr)
        for case in bar:
            bar.set_description(case.name)
            yield case
    else:
        for i, case in enumerate(open_cases):
            print(f"[{i + 1}/{len(open_cases)}] {case.name}", file=sys.stderr, flush=True)
            yield case


def main(words: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    chosen = arguments(words)
    if chosen.list:
        print(*cases.by_name(chosen.groups), sep="\n")
        return 0
    if chosen.tuned_allocator and not environment.tuned():
        return environment.start("benchmarks", sys.argv[1:] if words is None else words, environment.TUNED).returncode
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    folder = chosen.out or Path("out", "bench", environment.folder_name(chosen.device))
    try:
        if chosen.against is not None:
            return against.compare(chosen, folder)
        held = Results.begin(folder, environment.environment(chosen.device), fresh=chosen.fresh)
        held.write()  # fail now if the folder can't be written to
    except (ResultsError, against.AgainstError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return FAILED
    stopped = False
    try:
        run(chosen, held)
    except KeyboardInterrupt:
        print("benchmarks: stopped; run the same command again to continue", file=sys.stderr)
        stopped = True
    report.write(held)
    report.summary(held)
    if stopped:
        return STOPPED
    return FAILED if any("raised" in r or measured.ours_are_wrong(r) for r in held.document["results"]) else 0


if __name__ == "__main__":
    sys.exit(main())
