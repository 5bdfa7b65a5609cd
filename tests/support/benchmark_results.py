"""Made-up benchmark results, for tests of reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import dictionary_learning as learning
from benchmarks.cases import (
    BOTH,
    FORWARD,
    AnyCase,
    Case,
    DictionaryLearningCase,
    FamilyCase,
    LassoCase,
    MemoryCase,
    ModelCase,
    ParityCase,
)
from benchmarks.family import LOOP, NETWORKS
from benchmarks.model import EAGER, FLOAT32, HABITS, OURS
from benchmarks.results import SCHEMA, Results
from benchmarks.rivals import CLEAN, PRODUCTS, RELEASED

ENVIRONMENT = {
    "device": "A Processor, 2 cores",
    "commit": "0123456789ab",
    "scvae_fast": "0.1.0",
    "native module": {"instruction set": "avx2", "threads": "OpenMP"},
    "torch": "2.10.0",
    "threads": 2,
    "allocator": "default",
}
CEILINGS = {"copy": 1e10, "product": {"float32": 4e10}, "peak": 1e11}
ERRORS = {"z": 1e-6, "x̂": 8e-7, "∂x": 3e-7, "∂W_e": 3e-7, "∂S": 5e-7, "∂D": 1e-6}


def of(case: AnyCase, **found: Any) -> dict[str, Any]:
    """A result in the format of a results file."""
    return {"name": case.name, "kind": type(case).__name__, "settings": case._asdict(), "took": 1.0, **found}


def timed(
    case: Case, ours: float = 1.0, clean: float = 2.0, released: float = 4.0, noise: float = 0.0
) -> dict[str, Any]:
    """Five rounds in milliseconds: ours varies by the noise, the others don't."""
    samples = [
        {RELEASED: released / 1e3, CLEAN: clean / 1e3, "cpu": ours * (1 + noise * i) / 1e3, PRODUCTS: 1.5e-3}
        for i in (0, -2, -1, 1, 2)
    ]
    kept = {RELEASED: {"made": 30 * 2**20, "given": 2**20}, "cpu": {"made": 2**20, "given": 2**20}}
    errors = {RELEASED: ERRORS | {"∂theta": 4e-7}, CLEAN: ERRORS, "cpu": ERRORS | {"∂theta": 2e-7}}
    found = {
        "chosen": "cpu",
        "errors": errors,
        "wrong": {},
        "left out": {},
        "calls": 1,
        "samples": samples,
        "kept": kept,
    }
    return of(case, **found, **{"useful multiply-adds": 2e7, "least bytes": 1e6, "densities": [0.1, 0.05]})


def memory(n_iter: int) -> dict[str, Any]:
    """Of sparse_code: the released formula keeps memory for each iteration, ours does not."""
    sizes = {RELEASED: 20 * n_iter, CLEAN: 10 * n_iter, "cpu": 10}
    found = {n: {"made": size * 2**20, "given": 4 * 2**20, "peak": (size + 8) * 2**20} for n, size in sizes.items()}
    return of(MemoryCase("sparse_code", n_iter=n_iter), memory=found, chosen="cpu")


def family(form: str) -> dict[str, Any]:
    """Ours is four times as fast as the loop."""
    samples = [{LOOP: 0.04, "cpu": 0.01}] * 3
    errors = {LOOP: {"z": 2e-7}, "cpu": {"z": 1e-7}}
    return of(FamilyCase(form, BOTH), samples=samples, errors=errors, wrong={}, chosen="cpu", densities=[0.14])


def lasso() -> dict[str, Any]:
    """Eager ISTA does not reach the gap."""
    efforts = {
        "ISTA, cpu": {"iterations": 512, "gap": 9e-4},
        "ISTA, clean eager": {"iterations": 4096, "gap": 2e-3},
        "FISTA, eager": {"iterations": 64, "gap": 8e-4},
    }
    samples = [{"ISTA, cpu": 0.02, "FISTA, eager": 0.01}] * 3
    return of(LassoCase(), chosen="ISTA, cpu", efforts=efforts, samples=samples, optimum=1.0, density=0.1)


def dictionary_learning() -> dict[str, Any]:
    """scikit-learn takes twenty times as long, and is timed once."""
    efforts = {learning.OURS: {"objective": 7.5}, learning.SKLEARN: {"objective": 7.75}}
    samples = [{learning.OURS: 0.5, learning.SKLEARN: 10.0}, {learning.OURS: 0.5}]
    return of(DictionaryLearningCase(), chosen=learning.OURS, efforts=efforts, samples=samples, start=9.0)


def model(direction: str = BOTH) -> dict[str, Any]:
    """Ours is four times as fast as the released code's habits."""
    samples = [{HABITS: 2.0, EAGER: 1.0, FLOAT32: 0.8, OURS: 0.5}] * 3
    profile = {HABITS: [["aten::convolution", 0.5], ["aten::mm", 0.3]], OURS: [["aten::convolution", 0.8]]}
    found = {"chosen": OURS, "batch": 8, "wrong": {}, "errors": {OURS: {"loss": 1e-3}}, "density": 0.1}
    return of(ModelCase(direction, "pictures64"), samples=samples, profile=profile, **found)


def parity(difference: float, deviation: float = 0.01, seeds: int = 3) -> dict[str, Any]:
    """Losses that fall to 1, or for ours to slightly more, with a given distance between seeds."""
    starts = [[3.0] * 6 + [1.0 + i * deviation] * 2 for i in range(-(seeds // 2), seeds - seeds // 2)]
    ours = [[3.0] * 6 + [losses[-1] + difference] * 2 for losses in starts]
    return of(ParityCase("pictures64", steps=8, seeds=seeds), losses={HABITS: starts, OURS: ours}, chosen=OURS)


def results(folder: Path, groups: dict[str, list[dict[str, Any]]], /, **document: Any) -> Results:
    """A run of these groups."""
    names = {group: [result["name"] for result in members] for group, members in groups.items()}
    found = list({result["name"]: result for members in groups.values() for result in members}.values())
    begun = {"schema": SCHEMA, "environment": ENVIRONMENT, "ceilings": CEILINGS, "groups": names, "results": found}
    return Results(folder, {**begun, **document})


def everything(folder: Path) -> Results:
    """Every kind of case and every group that has a picture or a table of its own."""
    twice = (FORWARD, BOTH)
    columns = [(way, T, d) for way in twice for T in (5, 30) for d in (0.5, 0.05)]
    starts = [(start, column) for start in ("official", "paper") for column in columns]
    steps = [(way, T) for way in twice for T in (5, 16, 30)]
    cells = [(way, M, d) for way in twice for M in (1, 16, 256) for d in (0.05, 1.0)]
    groups = {
        "headline": [
            timed(Case("sparse_code", way, n_iter=T, density=d, start=start), 0.5 + T / 10)
            for start, (way, T, d) in starts
        ],
        "iterations": [timed(Case("sparse_code", way, rows=2048, n_iter=T), T / 5) for way, T in steps],
        "crossover": [timed(Case("lista", way, rows=M, density=d), 3 * d, noise=0.02) for way, M, d in cells],
        "atoms": [timed(Case("lista", FORWARD, atoms=K), K / 512) for K in (128, 256, 512)],
        "decode": [timed(Case("decode", FORWARD, rows=16))],
        "family": [family(form) for form in NETWORKS],
        "memory": [memory(5), memory(30)],
        "lasso": [lasso()],
        "dictionary-learning": [dictionary_learning()],
        "model": [model(), model(FORWARD)],
        "parity": [parity(0.0)],
    }
    return results(folder, groups)
