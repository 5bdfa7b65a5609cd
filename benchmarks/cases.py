"""What is measured: every case of every plan.

A case is a name and the numbers behind it; `plan` lists the cases of a run in groups, each of which answers a question.
A case may be in several groups and is measured once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

FORWARD, BACKWARD, BOTH = "forward", "backward", "both"
DIRECTIONS = (FORWARD, BACKWARD, BOTH)
OPERATIONS = ("lista", "decode", "sparse_code", "LISTA", "DictionaryLISTA")
Extent = Literal["quick", "standard", "full"]
EXTENTS: tuple[Extent, ...] = get_args(Extent)


class Case(NamedTuple):
    """A call of an operation or a layer: M rows, T iterations, density of z_T, K atoms, n = K/2 features."""

    op: str  # of OPERATIONS
    direction: str  # of DIRECTIONS
    rows: int = 4096
    n_iter: int = 5
    density: float = 0.05
    atoms: int = 512
    dtype: str = "float32"
    dictionary: str = "dct"  # or "random": unit vectors
    start: str = "official"  # γ = c, as in the released code; or "paper", γ = 1
    compiled: str = ""  # modes of torch.compile that the rivals enter in: "default", "default+max-autotune"

    @property
    def name(self) -> str:
        """What --case matches."""
        words = [self.op, self.direction, f"M{self.rows}", f"T{self.n_iter}", f"d{self.density:g}", f"K{self.atoms}"]
        words += [self.dtype, self.dictionary, self.start]
        return "-".join(words + (["compiled", self.compiled] if self.compiled else []))

    @property
    def features(self) -> int:
        """The length n of a vector."""
        return self.atoms // 2


class MemoryCase(NamedTuple):
    """Resident memory that a forward and a backward pass add, each contestant in a process of its own."""

    op: str
    rows: int = 4096
    n_iter: int = 5

    @property
    def name(self) -> str:
        """What --case matches."""
        return f"memory-{self.op}-M{self.rows}-T{self.n_iter}"


class FamilyCase(NamedTuple):
    """A network of the LISTA family, one of `family.NETWORKS`, compared with the usual loop."""

    form: str
    direction: str  # FORWARD or BOTH
    rows: int = 1024
    n_iter: int = 16
    density: float = 0.14
    atoms: int = 512
    features: int = 256

    @property
    def name(self) -> str:
        """What --case matches."""
        sizes = [f"M{self.rows}", f"T{self.n_iter}", f"d{self.density:g}", f"K{self.atoms}", f"n{self.features}"]
        return "-".join(["family", self.form.replace(",", "").replace(" ", "_"), self.direction, *sizes])


class LassoCase(NamedTuple):
    """The time to a relative gap of `gap` to the lasso's optimum: patches of photographs, or Gaussian rows."""

    rows: int = 1024
    side: int = 8  # a patch has side² pixels, a row n = side² features
    overcomplete: int = 4  # K / n
    lmbda: float = 0.5  # λ, patches having a mean norm of √n
    dictionary: str = "dct"
    gap: float = 1e-4
    data: str = "patches"  # or "gaussian"
    loops: bool = True  # whether ISTA and eager loops take part, which take long

    @property
    def name(self) -> str:
        """What --case matches."""
        n, K = self.side**2, self.overcomplete * self.side**2
        data = "" if self.data == "patches" else f"-{self.data}"
        return f"lasso-{self.dictionary}{data}-M{self.rows}-n{n}-K{K}-λ{self.lmbda:g}"


class DictionaryLearningCase(NamedTuple):
    """One pass of online dictionary learning over patches of photographs: its time, and the objective after it."""

    batches: int = 64
    batch: int = 256  # rows η of a batch
    side: int = 8  # a patch has side² pixels, a row n = side² features
    atoms: int = 256  # K
    lmbda: float = 0.5  # λ, patches having a mean norm of √n

    @property
    def name(self) -> str:
        """What --case matches."""
        sizes = f"{self.batches}x{self.batch}-n{self.side**2}-K{self.atoms}"
        return f"dictionary-learning-{sizes}-λ{self.lmbda:g}"


class ModelCase(NamedTuple):
    """A training step of a whole SC-VAE, or its inference, on a batch of pictures."""

    direction: str  # FORWARD is inference, BOTH a training step
    preset: str
    batch: int = 8
    attention: str = "SSGC"
    released: bool = True  # with the released code's T = 30, threshold and start; else as the preset has it

    @property
    def name(self) -> str:
        """What --case matches."""
        kind = "inference" if self.direction == FORWARD else "training"
        settings = "released" if self.released else "preset"
        return f"model-{kind}-{self.preset}-B{self.batch}-{self.attention}-{settings}"


class ParityCase(NamedTuple):
    """Losses of our training and of the released code's habits, step by step from the same start, for some seeds."""

    preset: str
    batch: int = 8
    attention: str = "SSGC"
    steps: int = 200
    seeds: int = 3

    @property
    def name(self) -> str:
        """What --case matches."""
        return f"parity-{self.preset}-B{self.batch}-{self.attention}-{self.steps}-steps"


AnyCase: TypeAlias = Case | FamilyCase | MemoryCase | LassoCase | DictionaryLearningCase | ModelCase | ParityCase
KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(AnyCase)}


def cases_of(kind: Mapping[str, Any]) -> AnyCase:
    """The case that a results file describes.

    Raises:
        KeyError, TypeError: it is not one of this version.
    """
    found: AnyCase = KINDS[kind["kind"]](**kind["settings"])
    return found


def plan(device: str, extent: Extent) -> dict[str, list[AnyCase]]:
    """Cases by the names of their groups, for "cpu" or "cuda"."""
    if extent == "quick":
        return {"layer": _layers(n_iters=(5, 30), rows=512)}
    groups = _on_gpu(full=extent == "full") if device == "cuda" else _on_cpu(full=extent == "full")
    return {name: list(cases) for name, cases in groups.items()}


def by_name(groups: Mapping[str, Iterable[AnyCase]]) -> dict[str, AnyCase]:
    """Every case once, in the order of the groups."""
    return {case.name: case for cases in groups.values() for case in cases}


def _layers(n_iters: Iterable[int], **settings: Any) -> list[AnyCase]:
    return [
        Case("DictionaryLISTA", direction, n_iter=T, **settings)
        for T, direction in itertools.product(n_iters, (FORWARD, BOTH))
    ]


def _grid(op: str, directions: Iterable[str], **axes: Iterable[Any]) -> list[AnyCase]:
    """Cases of every combination of the axes' values."""
    return [
        Case(op, direction, **dict(zip(axes, values, strict=True)))
        for direction in directions
        for values in itertools.product(*axes.values())
    ]


def _family(rows: Iterable[int]) -> list[AnyCase]:
    """Weights, filters and steps of each iteration at two densities; non-negative FISTA; the factored form."""
    forms = ("S and θ for each iteration", "W, S and θ for each iteration", "step and θ for each iteration")
    axes = itertools.product(forms, (FORWARD, BOTH), rows, (0.14, 0.024))
    found: list[AnyCase] = [FamilyCase(form, way, M, density=d) for form, way, M, d in axes]
    found.append(FamilyCase("non-negative FISTA", FORWARD, n_iter=100, density=0.05))
    return found + [FamilyCase("non-negative, factored", way, density=0.02, atoms=4096) for way in (FORWARD, BOTH)]


def _lassos() -> list[AnyCase]:
    """Patches over two dictionaries, at two weights; Gaussian rows at two sizes; from one row to many."""
    gaussian: dict[str, Any] = {"data": "gaussian", "dictionary": "random", "side": 16, "loops": False}
    found: list[AnyCase] = [LassoCase(dictionary=dictionary) for dictionary in ("dct", "random")]
    found += [LassoCase(rows=4096, lmbda=lmbda, loops=False) for lmbda in (0.5, 2)]
    found += [LassoCase(rows=2048, overcomplete=2, lmbda=lmbda, **gaussian) for lmbda in (1, 2)]
    found.append(LassoCase(rows=1024, overcomplete=8, lmbda=2, **gaussian))
    return found + [LassoCase(rows=rows, overcomplete=2, lmbda=2, **gaussian) for rows in (1, 16, 256, 65_536)]


def _on_cpu(full: bool) -> dict[str, list[AnyCase]]:
    twice = (FORWARD, BOTH)
    rows = (1, 16, 256, 4096, 65_536) if full else (1, 16, 256, 4096)
    densities = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0) if full else (0.02, 0.05, 0.25, 1.0)
    groups: dict[str, list[AnyCase]] = {
        "headline": _grid("sparse_code", twice, n_iter=(5, 30), density=(0.5, 0.05))
        + _grid("sparse_code", twice, n_iter=(5, 30), density=(0.5, 0.05), start=("paper",)),
        "iterations": _grid("sparse_code", DIRECTIONS, n_iter=(5, 16, 30)),
        "layers": _layers((5,)) + [Case("LISTA", way, start="paper") for way in twice],
        "crossover": _grid("lista", twice, rows=rows, density=densities),
        "family": _family((256, 4096)),
        "atoms": _grid(
            "lista", twice, atoms=(128, 256, 512, 1024, 2048), rows=(1024,), density=(0.05, 0.5), dictionary=("random",)
        ),
        "decode": _grid("decode", twice, rows=(16, 4096), density=densities, start=("paper",)),
        "dtypes": _grid("sparse_code", twice, dtype=("float64", "bfloat16", "float16")),
        "compiled": _grid(
            "sparse_code", twice, compiled=("default+max-autotune",) if full else ("default",), density=(0.05,)
        ),
        "memory": [MemoryCase("sparse_code", n_iter=T) for T in (5, 16, 30, 60)],
        "lasso": _lassos(),
        "dictionary-learning": [DictionaryLearningCase()],
        "model": [
            ModelCase(direction, "pictures64", released=r) for r in (True, False) for direction in (BOTH, FORWARD)
        ],
    }
    if full:
        groups["rows"] = _grid("sparse_code", (FORWARD,), rows=(2**16, 2**20), density=(0.05,))
        groups["crossover"] += _grid("lista", twice, rows=rows, density=densities, atoms=(128,))
        groups["parity"] = [ParityCase("pictures64")]
    return groups


def _on_gpu(full: bool) -> dict[str, list[AnyCase]]:
    twice, both_dtypes = (FORWARD, BOTH), ("bfloat16", "float32")
    rows = tuple(4**i for i in range(11)) if full else (1, 256, 2048, 65_536, 2**20)
    densities = (0.02, 0.05, 0.25, 1.0) if full else (0.05, 1.0)
    groups: dict[str, list[AnyCase]] = {
        "headline": _grid("sparse_code", twice, rows=(256, 2048, 65_536), n_iter=(5, 30), dtype=both_dtypes),
        "iterations": _grid("sparse_code", DIRECTIONS, rows=(65_536,), n_iter=(5, 16, 30), dtype=both_dtypes),
        "crossover": _grid("lista", twice, rows=rows, density=densities, dtype=both_dtypes),
        "model": [
            ModelCase(direction, preset)
            for preset in ("ffhq256-16x16", "ffhq256-32x32")
            for direction in (BOTH, FORWARD)
        ],
        "layers": _layers((5, 30), rows=65_536) + [Case("LISTA", way, rows=65_536, start="paper") for way in twice],
        "decode": _grid("decode", twice, rows=(65_536,), density=(0.02, 0.05, 0.25, 1.0), dtype=both_dtypes),
        "atoms": _grid(
            "lista", twice, atoms=(128, 256, 512, 1024, 2048), rows=(16_384,), dictionary=("random",), dtype=both_dtypes
        ),
        "dtypes": _grid("sparse_code", twice, rows=(65_536,), dtype=("float16", "float64")),
        "family": _family((65_536,)),
        "lasso": [LassoCase(rows=65_536, dictionary=dictionary) for dictionary in ("dct", "random")],
        # Last, because each case tunes for up to a minute.
        "compiled": _grid("sparse_code", twice, rows=(65_536,), dtype=both_dtypes, compiled=("default+max-autotune",)),
    }
    if full:
        groups["parity"] = [ParityCase("pictures64"), ParityCase("ffhq256-16x16")]
    return groups
