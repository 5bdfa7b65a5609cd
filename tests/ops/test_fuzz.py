"""Drawn calls: every backend against the specification, on random shapes, strides and values.

A case follows from its seed alone, and the seed is the test's name: `pytest "tests/ops/test_fuzz.py" -k "cpu-17]"`
repeats one. What was drawn is printed where it fails.
"""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import problems
import pytest
import torch
from problems import BACKENDS, EMULATED, FLOAT32_BACKENDS, INTERPRETED, assert_all_close, device_of

from scvae_fast import decode, ista, lista, sparse_code
from scvae_fast.ops import backends, operations

OPS = {"lista": lista, "ista": ista, "sparse_code": sparse_code, "decode": decode}
FORMS = {  # of a call: the operation, its tensors, what may come on top
    "lista": ("lista", ("b", "S", "theta"), ((), ("gain",), ("gain",), ("z0",))),
    "ista": ("ista", ("b", "G", "theta"), ((), ("step",), ("step", "momentum"), ("step", "momentum", "z0"))),
    "decode": ("decode", ("z", "D"), ((),)),
    "bottleneck": ("sparse_code", ("x", "W_e", "S", "theta", "D"), ((), ("gain",), ("gain",), ("z0",))),
    "inhibited": (
        "sparse_code",
        ("x", "W_e", "S", "theta", "D", "step"),
        ((), ("momentum",), ("z0",), ("momentum", "z0")),
    ),
    "factored": (
        "sparse_code",
        ("x", "W_e", "theta", "D"),
        ((), ("step",), ("step", "z0"), ("momentum",), ("step", "momentum")),
    ),
}
LAYOUTS = ("packed", "packed", "transposed", "sliced", "stepped", "shared")
SIZES = (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 63, 64, 65, 96, 127, 129, 200, 257, 300, 513)
CASES = 200
NEAR_A_TIE = {torch.float32: 1e-5, torch.float64: 1e-12}


class Error(NamedTuple):
    """‖found − exact‖ and ‖exact‖ over what is finite, and the number of elements."""

    error: float
    size: float
    elements: int


@dataclass
class Case:
    """A call of one operation; everything but the numbers in its tensors, which follow from the seed too."""

    seed: int
    form: str
    dtype: torch.dtype
    batch: tuple[int, ...]
    atoms: int
    features: int
    n_iter: int
    tensors: tuple[str, ...]
    theta_per_atom: bool
    each: tuple[str, ...]  # of the tensors, those of which every iteration has its own
    positive: bool
    density: float
    special: float | None
    threads: int
    learned: tuple[str, ...]
    used: tuple[int, ...]
    layouts: dict[str, str]
    keeps: bool  # whether there is room for iterates that a backend may keep

    @property
    def op(self) -> str:
        return FORMS[self.form][0]

    @property
    def rows(self) -> int:
        """Number of rows of W_e and theta, one for each iteration."""
        return self.n_iter + (self.form in ("lista", "bottleneck"))

    @property
    def settings(self) -> dict[str, object]:
        """The arguments other than tensors."""
        if self.form == "decode":
            return {}
        return {"n_iter": self.n_iter, "positive": self.positive, **({"S": None} if self.form == "factored" else {})}

    @property
    def rows_of_x(self) -> int:
        return math.prod(self.batch)

    @property
    def work(self) -> int:
        """Multiplications, about."""
        return self.rows_of_x * self.atoms * (self.n_iter * self.atoms + 2 * self.features)

    @property
    def shows(self) -> set[tuple[object, ...]]:
        """The features of the case: combinations of options, and special tensors."""
        rows, n_iter = (self.rows_of_x > 0) + (self.rows_of_x > 64), min(self.n_iter, 2)
        beside = {
            *(("each", name) for name in self.each),
            *(("learned", name) for name in self.learned),
            *(("tensors", self.tensors), ("used", self.used), ("rows", rows), ("n_iter", n_iter)),
            *(("atoms", self.atoms > 128), ("features", self.features > 128), ("keeps", self.keeps)),
            *(("positive", self.positive), ("theta", self.theta_per_atom)),
        }
        return {
            *((self.form, *each) for each in beside),
            *self.layouts.items(),
            *(("dtype", self.dtype), ("density", self.density), ("special", str(self.special))),
        }


def draw_case(seed: int) -> Case:
    """A case whose specification in float64 takes milliseconds: the larger K, the fewer rows."""
    choose = random.Random(seed)
    form = choose.choice(("lista", "lista", "bottleneck", "bottleneck", *FORMS))
    atoms = choose.choice(SIZES)
    most = max(1, 20_000 // atoms)
    batch = choose.choice(((), (1,), (2, 0), (3, 1), (2, 3, 4), (17,), (64,), (97,), (130,), (401,)))
    tensors = FORMS[form][1] + choose.choice(FORMS[form][2])
    may_be_each = [name for name in tensors if name in ("W_e", "S", "G", "theta", "step", "momentum")]
    has_options = choose.random() < 0.5  # the others are plain, unless the form itself is an option
    learned = tuple(name for name in tensors if choose.random() < 0.6)
    return Case(
        seed=seed,
        form=form,
        dtype=choose.choice((torch.float32, torch.float32, torch.float64)),
        batch=(*batch[:-1], min(batch[-1], most)) if batch else (),
        atoms=atoms,
        features=choose.choice(SIZES),
        n_iter=choose.choice((0, 1, 2, 3, 5, 9, 24)),
        tensors=tensors,
        theta_per_atom=choose.random() < 0.5,
        each=tuple(name for name in may_be_each if has_options and choose.random() < 0.5),
        positive=has_options and form != "decode" and choose.random() < 0.5,
        density=choose.choice((0.0, 0.02, 0.1, 0.3, 0.7, 0.9, 1.0)),
        special=choose.choice((float("nan"), float("inf"), -float("inf"))) if choose.random() < 0.2 else None,
        threads=choose.choice((1, 2, 3)),
        learned=learned or tensors[:1],
        used=choose.choice(((0,), (0, 1), (1,)) if FORMS[form][0] == "sparse_code" else ((0,),)),
        layouts={name: choose.choice(LAYOUTS) for name in (*tensors, "grad")},
        keeps=choose.random() < 0.5,
    )


def sparsified(values: torch.Tensor, density: float) -> torch.Tensor:
    """The values with about that density; the others become zeros."""
    return torch.where(torch.rand(values.shape) < density, values, 0.0)


def draw_tensors(case: Case) -> dict[str, torch.Tensor]:
    """Arguments in float64 whose codes have about the density that the case requests and stay of the order of 1."""
    K, n = case.atoms, case.features

    def normal(name: str, *shape: int) -> torch.Tensor:
        iterations = {"W_e": case.rows}.get(name, case.n_iter)
        return torch.randn((iterations, *shape) if name in case.each else shape, dtype=torch.float64)

    x = torch.randn(*case.batch, n, dtype=torch.float64)
    b = torch.randn(*case.batch, K, dtype=torch.float64)
    W_e, D = normal("W_e", K, n) / n**0.5, normal("D", n, K) / K**0.5
    if case.form == "factored":  # near the transpose of D, which has the norm 1: an iteration doesn't expand
        D = D / torch.linalg.matrix_norm(D, ord=2)
        W_e = D.T + 0.2 * W_e / n**0.5
    drive = b if "b" in case.tensors else x @ (W_e[0] if W_e.dim() == 3 and len(W_e) else W_e.reshape(-1, n)[:K]).T
    drives = drive.abs().flatten()
    threshold = {0.0: 1e3, 1.0: -0.1}.get(case.density)
    if threshold is None:
        threshold = float(drives.quantile(1 - case.density)) if drives.numel() else 0.5
    rows = (case.rows,) if "theta" in case.each else ()
    columns = (K,) if case.theta_per_atom else (1,) if rows else ()
    damped = 0.6 * torch.eye(K, dtype=torch.float64) if case.form in ("ista", "inhibited") else 0.0
    return {
        "x": x,
        "b": b,
        "W_e": W_e,
        "S": normal("S", K, K) * (0.5 / K**0.5) - damped,
        "G": normal("G", K, K) * (0.5 / K**0.5) + damped,
        "theta": threshold * (1 + 0.2 * torch.rand(rows + columns, dtype=torch.float64)),
        "D": D,
        "z": sparsified(b, case.density),
        "z0": sparsified(torch.randn_like(b), case.density),
        "gain": torch.tensor(1.7, dtype=torch.float64),
        "step": 0.8 + 0.1 * normal("step"),
        "momentum": 0.3 + 0.1 * normal("momentum"),
    }


def put_special(case: Case, tensors: dict[str, torch.Tensor]) -> None:
    """Writes the special value into one element of one argument."""
    if case.special is not None:
        choose = random.Random(-case.seed)
        flat = tensors[choose.choice(list(tensors))].view(-1)
        if len(flat):
            flat[choose.randrange(len(flat))] = case.special


def arranged(values: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values in memory of another order; `shared` keeps the first of the leading dimension for all of it."""
    if values.dim() == 0 or layout == "packed":
        return values.clone()
    if layout == "transposed":
        return values.movedim(-1, 0).contiguous().movedim(0, -1)
    if layout == "stepped":
        return values.repeat_interleave(2, dim=-1)[..., ::2]
    if layout == "shared" and values.dim() > 1 and len(values):
        return values[:1].expand(values.shape)
    wide = values.new_full((*values.shape[:-1], values.shape[-1] + 3), float("nan"))
    wide[..., 1:-2] = values
    return wide[..., 1:-2]


def draws(case: Case) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Arguments and gradients of the results, arranged, in the case's dtype."""
    drawn = draw_tensors(case)
    tensors = {name: drawn[name].to(case.dtype) for name in case.tensors}
    put_special(case, tensors)
    widths = {"decode": [case.features], "sparse_code": [case.atoms, case.features]}.get(case.op, [case.atoms])
    grads = [torch.randn(*case.batch, width, dtype=torch.float64).to(case.dtype) for width in widths]
    layout = case.layouts
    return {k: arranged(t, layout[k]) for k, t in tensors.items()}, [arranged(g, layout["grad"]) for g in grads]


def near_a_tie(case: Case, tensors: dict[str, torch.Tensor]) -> bool:
    """Whether rounding could switch a code on or off, which no tolerance on gradients covers."""
    if case.op == "decode":
        return False
    wide = {name: t.double() for name, t in tensors.items()}
    problem = problems.record(case.op, case.n_iter, case.positive, **wide)
    return bool(problems.near_a_tie(problem, NEAR_A_TIE[case.dtype]).any())


def draw(seed: int) -> tuple[Case, dict[str, torch.Tensor], list[torch.Tensor]]:
    """The case of a seed, its arguments, clear of ties, and the gradients of its results."""
    case = draw_case(seed)
    torch.manual_seed(seed)
    tensors, grads = draws(case)
    while near_a_tie(case, tensors):
        tensors, grads = draws(case)
    return case, tensors, grads


def outcome(
    case: Case, tensors: dict[str, torch.Tensor], grads: list[torch.Tensor], backend: str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Results, and the gradients that the case wants, of the arguments in that dtype."""
    device = device_of(backend)
    arguments = {name: t.detach().to(device, dtype) for name, t in tensors.items()}
    leaves = [arguments[name].requires_grad_() for name in case.learned]
    results = OPS[case.op](**arguments, **case.settings, backend=backend)
    results = results if isinstance(results, tuple) else (results,)
    used = [(results[i], grads[i].to(device, dtype)) for i in case.used]
    outputs, weights = zip(*used, strict=True)
    found = torch.autograd.grad(outputs, leaves, weights, allow_unused=True, materialize_grads=True)
    named = {f"∂{name}": gradient for name, gradient in zip(case.learned, found, strict=True)}
    return {
        name: t.detach().cpu() for name, t in (*((f"result {i}", r) for i, r in enumerate(results)), *named.items())
    }


def errors(case: Case, tensors: dict[str, torch.Tensor], grads: list[torch.Tensor], backend: str) -> dict[str, Error]:
    """Errors of float32 on that backend; NaN and infinities must be at the same places as in float64."""
    found = outcome(case, tensors, grads, backend, torch.float32)
    exact = outcome(case, tensors, grads, "eager", torch.float64)
    found_errors = {}
    for name, reference in exact.items():
        finite = reference.isfinite()
        special = [torch.where(finite, 0.0, t.double()) for t in (found[name], reference)]
        torch.testing.assert_close(*special, rtol=0, atol=0, equal_nan=True, msg=f"{name}: NaN or infinity misplaced")
        difference = torch.where(finite, found[name].double() - reference, 0.0)
        size = float(torch.where(finite, reference, 0.0).norm())
        found_errors[name] = Error(float(difference.norm()), size, reference.numel())
    return found_errors


def assert_as_exact_as_pytorch(
    case: Case, tensors: dict[str, torch.Tensor], grads: list[torch.Tensor], backend: str
) -> None:
    """At most twice PyTorch's own error, and a few roundings; twice as many where a product is three of TF32 numbers,
    which have 22 bits together.

    The error of a few numbers may be small by luck. PyTorch's is therefore the largest of some problems that differ
    from the case's by roundings, the same ones in all rows; and what has few elements is allowed twice as much.
    """
    pytorch = [errors(case, problems.jittered(tensors), grads, "eager") for _ in range(5)]
    roundings = 4 if backend == "cpu" else 8
    for name, (error, size, elements) in errors(case, tensors, grads, backend).items():
        theirs = max(each[name].error for each in pytorch)
        allowed = (4 if elements < 16 else 2) * theirs + roundings * torch.finfo(torch.float32).eps * size
        assert error <= allowed, f"{name}: error {error:.2e} of {size:.2e}, PyTorch's own {theirs:.2e}"


def lacks(case: Case, tensors: dict[str, torch.Tensor], backend: str) -> str | None:
    """An option of the case that the backend must decline."""
    if case.op == "decode":
        return None
    options = problems.record(case.op, case.n_iter, case.positive, **tensors).options
    return next((option for option in options if option in backends.BACKENDS[backend].lacks), None)


def covering(cases: Iterable[Case]) -> list[Case]:
    """Cases in the order of their work, each with a feature that none before has: together they have all features."""
    shown, found = set(), []
    for case in sorted(cases, key=lambda case: case.work):
        if not case.shows <= shown:
            shown |= case.shows
            found.append(case)
    return found


def seeds(backend: str) -> Iterable[int]:
    """Of a backend's cases. Interpreted and emulated kernels are slow."""
    if backend != "cpu" and (INTERPRETED or EMULATED):
        return sorted(case.seed for case in covering(map(draw_case, range(CASES))))
    return range(CASES if backend == "cpu" else CASES // 2)


DRAWN = [(b, seed) for b in FLOAT32_BACKENDS if b != "eager" for seed in seeds(b)]


@pytest.mark.parametrize(("backend", "seed"), DRAWN)
def test_backend_agrees_with_the_specification(backend, seed, monkeypatch):
    case, tensors, grads = draw(seed)
    print(case)
    if not case.keeps:
        monkeypatch.setattr(operations, "MOST_KEPT", 0)
    if lacking := lacks(case, tensors, backend):
        with pytest.raises(RuntimeError, match=f"backend '{backend}' can't be used: it has no {lacking}"):
            outcome(case, tensors, grads, backend, torch.float32)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    try:
        if case.dtype == torch.float64 and backend in BACKENDS:
            ours = outcome(case, tensors, grads, backend, case.dtype)
            assert_all_close(ours, outcome(case, tensors, grads, "eager", case.dtype))
        else:
            single = {name: t.float() for name, t in tensors.items()}
            assert_as_exact_as_pytorch(case, single, grads, backend)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("choose", [list, covering])
def test_cases_cover_all_features(choose):
    cases = choose(draw_case(seed) for seed in range(CASES))
    for field in ("dtype", "n_iter", "theta_per_atom", "positive", "density", "threads", "used", "keeps"):
        assert len({getattr(case, field) for case in cases}) > 1, field
    assert {(case.form, case.tensors) for case in cases} == {
        (form, first + more) for form, (_, first, extras) in FORMS.items() for more in extras
    }
    assert {name for case in cases for name in case.each} == {"W_e", "S", "G", "theta", "step", "momentum"}
    assert {layout for case in cases for layout in case.layouts.values()} == set(LAYOUTS)
    assert any(case.special is not None for case in cases)
    assert any(0 in case.batch for case in cases)


def test_fewer_cases_for_slow_kernels_cover_as_much():
    cases = [draw_case(seed) for seed in range(CASES)]
    few = covering(cases)
    assert set().union(*(case.shows for case in few)) == set().union(*(case.shows for case in cases))
    assert len(few) <= CASES // 3
