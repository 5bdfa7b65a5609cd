"""Tries kernels on a card: whether they are right, and from how many rows on they are faster than eager PyTorch.

`trial.py` runs this module in a process of its own, `python -m scvae_fast.ops.backends.trying DEVICE PAIR…`, a pair
being a backend and a dtype such as `triton:float32`. Every line on stdout is a JSON object: what is about to happen, or
a verdict.
"""

from __future__ import annotations

import contextlib
import json
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from scvae_fast.ops import backends
from scvae_fast.ops.backends import reference
from scvae_fast.ops.problem import Incoming, Needed, Problem

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

GRID = (64, 1024, 16_384)
"""Rows that are timed, a forward and a backward pass of `sparse_code` each."""
TIMED = (512, 256, 16)
"""K, n and T of these."""
SAMPLES = 7

_LOOSE = 4
"""How many times as large as PyTorch's own an error may be; by luck PyTorch's is small in a small problem."""
_ROUNDINGS = 16
_TIE = 1e-4
"""Rows whose drive comes that near a threshold are left out: a rounding could switch a code on or off there."""


class Shape(NamedTuple):
    """A problem to be tried."""

    op: str
    M: int
    K: int
    n: int
    T: int
    start: str = "plain"  # or "gain", "z0"
    step: bool = False
    momentum: bool = False
    factored: bool = False
    positive: bool = False
    each: bool = False  # matrices, thresholds, steps and momentum of each iteration
    broken: bool = False  # a row has a NaN


SHAPES = (
    Shape("lista", 5, 7, 0, 2),
    Shape("lista", 70, 130, 0, 3, start="z0"),
    Shape("sparse_code", 33, 64, 30, 5, start="gain"),
    Shape("sparse_code", 600, 48, 70, 3, start="z0"),
    Shape("sparse_code", 140, 300, 33, 3, broken=True),
    Shape("sparse_code", 200, 512, 256, 3, start="gain"),
    Shape("sparse_code", 40, 40, 16, 3, positive=True, each=True),
    Shape("ista", 50, 96, 0, 4, step=True),
    Shape("sparse_code", 130, 260, 40, 3, step=True, each=True),
    Shape("ista", 50, 40, 0, 4, step=True, momentum=True),
    Shape("sparse_code", 65, 150, 40, 3, factored=True, step=True, positive=True),
    Shape("sparse_code", 40, 48, 30, 3, factored=True, momentum=True, each=True),
)


def tell(event: str, **more: Any) -> None:
    """A line for the process that started this one."""
    print(json.dumps({"event": event, **more}), flush=True)


def synchronize(device: torch.device) -> None:
    """Wait for what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def drawn(shape: Shape) -> Problem:
    """A problem in float64 on the CPU, of which no row is near a tie; M rows, or fewer."""
    torch.manual_seed(0)

    def normal(*size: int, each: int = 0) -> torch.Tensor:
        return torch.randn((each, *size) if each and shape.each else size, dtype=torch.float64)

    M, K, n, T = 3 * shape.M, shape.K, shape.n, shape.T
    kappa = shape.op == "ista" or shape.step or shape.factored
    R = T if kappa else T + 1
    coded, D = shape.op == "sparse_code", None
    if coded:
        D = normal(n, K) / K**0.5
        D = D / torch.linalg.matrix_norm(D, ord=2)
    shrinking = 0.6 * torch.eye(K, dtype=torch.float64) if kappa else 0.0
    S = normal(K, K, each=T) * (0.4 / K**0.5) + (shrinking if shape.op == "ista" else -shrinking)
    W_e = None
    if D is not None:
        W_e = D.T + 0.2 * normal(K, n, each=R) / n if shape.factored else normal(K, n, each=R) / n**0.5
    theta = 1 + torch.rand((R, K) if shape.each else (K,), dtype=torch.float64)
    p = Problem(
        x=normal(M, n if coded else K),
        W_e=W_e,
        S=None if shape.factored else S,
        theta=(0.06 if shape.factored else 0.3) * theta,
        D=D,
        gain=torch.tensor(1.5, dtype=torch.float64) if shape.start == "gain" else None,
        z0=normal(M, K).relu() if shape.start == "z0" else None,
        step=0.8 + 0.1 * normal(each=T) if shape.step else None,
        momentum=0.2 + 0.1 * normal(each=T) if shape.momentum else None,
        n_iter=T,
        positive=shape.positive,
        op=shape.op,
    )
    return _clear(p, shape.M)


def _clear(p: Problem, rows: int) -> Problem:
    near = torch.zeros(len(p.x), dtype=torch.bool)
    codes, drive = list(reference.iterates(p)), reference.drives(p)
    for t in range(p.n_iter):
        y = reference.extrapolated(p, t, codes[t], codes[max(t - 1, 0)])
        v, step = reference.direction(p, t, y, drive), p.step_of(t)
        u = (y if p.kappa else 0) + (v if step is None else step * v)
        near |= ((u.abs() - p.threshold(p.row(t))).abs() < _TIE).any(1)
    kept = (~near).nonzero()[:rows, 0]
    return p._replace(x=p.x[kept], z0=None if p.z0 is None else p.z0[kept])


def _to(value: Any, *where: Any) -> Any:
    return value.to(*where) if isinstance(value, torch.Tensor) else value


Found = dict[str, torch.Tensor]


def results(computes: Any, p: Problem) -> Found:
    """Results and all gradients of a problem, for fixed gradients of the results."""
    found = computes.code(p)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) for t in found]
    names = [name for name in Problem._fields if isinstance(getattr(p, name), torch.Tensor)]
    needed: Needed = frozenset(names)
    gradients = computes.code_backward(p, Incoming(grads[0], grads[1] if len(grads) > 1 else None, found[0]), needed)
    return {**{f"result {i}": t for i, t in enumerate(found)}, **{f"∂{name}": g for name, g in gradients.items()}}


def launched(computes: Any, p: Problem, compiled: bool) -> Found:
    """The same, once the card is done; whoever started this process hears when it waits for the card alone."""
    if compiled:
        tell("launch")
    found = results(computes, p)
    tell("launch")
    synchronize(p.x.device)
    tell("done")
    return found


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    finite = b.isfinite()
    size = torch.where(finite, b, 0).norm().clamp_min(1e-300)
    return float(torch.where(finite, a - b, 0).norm() / size)


def _compared(found: Found, plain: Found, exact: Found, dtype: torch.dtype) -> tuple[float, str]:
    """The largest error over what is allowed, and what it is of."""
    worst, which = 0.0, ""
    for name, reference_value in exact.items():
        ours = found[name].cpu().double()
        if not torch.equal(ours.isfinite(), reference_value.isfinite()):
            return float("inf"), f"{name} has NaN or infinity in other places"
        allowed = _LOOSE * _distance(plain[name].double(), reference_value) + _ROUNDINGS * torch.finfo(dtype).eps
        error = _distance(ours, reference_value) / allowed
        if error > worst:
            worst, which = error, f"{name} errs by {error:.1f} times what is allowed"
    return worst, which


def ways(name: str) -> list[Callable[[], AbstractContextManager[Any]]]:
    """In which ways a backend can go through the iterations, each to be tried."""
    if name == "triton":
        from scvae_fast.ops.backends.triton import launch

        return [lambda: launch.forced(False), lambda: launch.forced(True)]
    if name == "cuda":
        from scvae_fast.ops.backends.cuda import device

        return [nullcontext, device.few_multiprocessors]
    return [nullcontext]


def tried(name: str, dtype: torch.dtype, device: torch.device) -> tuple[float, str]:
    """The largest error over what is allowed in all shapes, and why the backend is wrong; "" where it is right."""
    backend, worst = backends.BACKENDS[name], 0.0
    for shape in SHAPES:
        rounded = Problem(*(_to(value, dtype) for value in drawn(shape)))
        if shape.broken:
            rounded.x[len(rounded.x) // 2, 0] = float("nan")
        if any(option in backend.lacks for option in rounded.options):
            continue
        exact = results(reference, Problem(*(_to(value, torch.float64) for value in rounded)))
        plain = results(reference, rounded)
        on_card = Problem(*(_to(value, device) for value in rounded))
        for way in ways(name):
            with way():
                found, again = (launched(backend.computes, on_card, compiled) for compiled in (False, True))
            error, reason = _compared(found, plain, exact, dtype)
            if error > 1:
                return (
                    error,
                    f"{reason} ({shape.op}, M = {len(rounded.x)}, K = {shape.K}, n = {shape.n}, T = {shape.T})",
                )
            for key, value in found.items():
                if not torch.equal(value.nan_to_num(), again[key].nan_to_num()):
                    return error, f"{key} differs between two equal calls"
            worst = max(worst, error)
    return worst, ""


@contextlib.contextmanager
def _clock(device: torch.device) -> Iterator[Callable[[], float]]:
    """Seconds since the beginning, once everything launched is done."""
    synchronize(device)
    begin = time.perf_counter()

    def elapsed() -> float:
        synchronize(device)
        return time.perf_counter() - begin

    yield elapsed


def gains(name: str, dtype: torch.dtype, device: torch.device) -> dict[int, float]:
    """For each number of rows of the grid, how many times as fast as eager PyTorch a backend is."""
    K, n, T = TIMED
    found = {}
    for rows in GRID:
        shape = Shape("sparse_code", rows // 3 + 1, K, n, T)
        p = Problem(*(_to(_to(value, dtype), device) for value in drawn(shape)))
        seconds: dict[str, list[float]] = {name: [], "eager": []}
        for sample in range(SAMPLES + 1):
            for each in seconds:
                with _clock(device) as elapsed:
                    results(backends.BACKENDS[each].computes, p)
                    if sample > 0:  # the first compiles
                        seconds[each].append(elapsed())
        found[rows] = statistics.median(seconds["eager"]) / statistics.median(seconds[name])
    return found


def verdict(name: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Whether a backend is right in that dtype, why not, and its gains."""
    reason = backends.declines(name, device, dtype)
    if reason is not None:
        return {"right": False, "reason": reason, "error": None, "gains": {}}
    error, reason = tried(name, dtype, device)
    right = not reason
    measured = gains(name, dtype, device) if right else {}
    error_or_none = error if error < float("inf") else None
    return {"right": right, "reason": reason, "error": error_or_none, "gains": measured}


def main(words: Sequence[str]) -> int:
    """Tries the pairs on the device and tells the verdicts. `--subjects FILE` is run before: tests change kernels."""
    if words[0] == "--subjects":
        runpy.run_path(words[1])
        words = words[2:]
    device = torch.device(words[0])
    for pair in words[1:]:
        name, _, dtype = pair.partition(":")
        tell("start", pair=pair)
        try:
            tell("verdict", pair=pair, **verdict(name, DTYPES[dtype], device))
        except torch.OutOfMemoryError as error:
            tell("no verdict", pair=pair, reason=str(error).splitlines()[0])
        except Exception as error:  # whatever a kernel does to Python is a verdict
            lines = str(error).splitlines() or [""]
            told = f"{type(error).__name__}: {lines[0]}"
            tell("verdict", pair=pair, right=False, reason=told, error=None, gains={})
    return 0


if __name__ == "__main__":
    from scvae_fast.ops.backends import trying

    sys.exit(trying.main(sys.argv[1:]))
