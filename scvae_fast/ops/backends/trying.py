"""Tries kernels on a card: whether they are correct, and from how many rows they are faster than eager PyTorch.

`trial.py` runs this module in a separate process, `python -m scvae_fast.ops.backends.trying DEVICE PAIR…`. A pair is a
backend and a dtype, such as `triton:float32`. Every line on stdout is a JSON object: what is about to happen, or a
verdict.
"""

from __future__ import annotations

import json
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch

from scvae_fast.ops import backends
from scvae_fast.ops.backends import reference
from scvae_fast.ops.problem import Incoming, Needed, Problem

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

GRID = (64, 1024, 16_384)
"""Numbers of rows that are timed, with a forward and a backward pass of `sparse_code` each."""
TIMED = (512, 256, 16)
"""K, n and T of the timed problems."""
SAMPLES = 7

_LOOSE = 4
"""Allowed ratio of an error to PyTorch's own; in a small problem PyTorch's may be small by chance."""
_ROUNDINGS = 16
_TIE = 1e-4
"""Rows with a drive this near to a threshold are left out: there, rounding could switch a code on or off."""


class Shape(NamedTuple):
    """A problem to try."""

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
    each: bool = False  # separate matrices, thresholds, steps and momentum per iteration
    broken: bool = False  # one row has a NaN


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
    """Print a line for the process that started this one."""
    print(json.dumps({"event": event, **more}), flush=True)


def synchronize(device: torch.device) -> None:
    """Wait for launched work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def drawn(shape: Shape) -> Problem:
    """A random problem in float64 on the CPU, with codes of order 1."""
    torch.manual_seed(0)

    def normal(*size: int, each: int = 0) -> torch.Tensor:
        return torch.randn((each, *size) if each and shape.each else size, dtype=torch.float64)

    M, K, n, T = shape.M, shape.K, shape.n, shape.T
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
    return Problem(
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


def near_a_tie(p: Problem, margin: float) -> torch.Tensor:
    """For each row (M,), whether the argument of any threshold is within the margin of it; p is in float64."""
    p = p.in_matrices()
    near = torch.zeros(len(p.x), dtype=torch.bool)
    for row, u in _before_thresholds(p):
        distance = (u if p.positive else u.abs()) - p.threshold(row)
        near |= (distance.abs() < margin).any(dim=1)
    return near


def _before_thresholds(p: Problem) -> Iterator[tuple[int, torch.Tensor]]:
    """The argument (M, K) of each threshold, with the threshold's row."""
    codes, drive = list(reference.iterates(p)), reference.drives(p)
    if p.z0 is None and not p.kappa:
        yield 0, drive(0) if p.gain is None else p.gain * drive(0)
    for t in range(p.n_iter):
        y = reference.extrapolated(p, t, codes[t], codes[max(t - 1, 0)])
        v = reference.direction(p, t, y, drive)
        step = p.step_of(t)
        u = v if step is None else step * v
        yield p.row(t), y + u if p.kappa else u


def clear(shape: Shape) -> Problem:
    """A problem of that shape without rows near a tie; it may have fewer than M rows."""
    p = drawn(shape._replace(M=3 * shape.M))
    kept = (~near_a_tie(p, _TIE)).nonzero()[: shape.M, 0]
    return p._replace(x=p.x[kept], z0=None if p.z0 is None else p.z0[kept])


def _to(value: Any, *where: Any) -> Any:
    return value.to(*where) if isinstance(value, torch.Tensor) else value


Found = dict[str, torch.Tensor]


Given = tuple[torch.Tensor | None, torch.Tensor | None]


def grads(p: Problem) -> Given:
    """Gradients of the codes and of the reconstruction, if there is one; equal for problems of equal shape."""
    generator = torch.Generator().manual_seed(1)
    z, *x_hat = (torch.randn(s, generator=generator, dtype=torch.float64).to(p.x) for s in p.result_shapes())
    return z, x_hat[0] if x_hat else None


def results(computes: Any, p: Problem, given: Given) -> Found:
    """Results and all gradients of a problem, for these gradients of the results."""
    found = computes.code(p)
    needed: Needed = frozenset(name for name, value in p._asdict().items() if isinstance(value, torch.Tensor))
    gradients = computes.code_backward(p, Incoming(given[0], given[1], found[0]), needed)
    return {**{f"result {i}": t for i, t in enumerate(found)}, **{f"∂{name}": g for name, g in gradients.items()}}


def launched(computes: Any, p: Problem, compiled: bool) -> Found:
    """The same, after the card has finished; tells the parent process when only the card is waited for."""
    given = grads(p)
    if compiled:
        tell("launch")
    found = results(computes, p, given)
    tell("launch")
    synchronize(p.x.device)
    tell("done")
    return found


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    finite = b.isfinite()
    size = torch.where(finite, b, 0).norm().clamp_min(1e-300)
    return float(torch.where(finite, a - b, 0).norm() / size)


def _compared(found: Found, plain: Found, exact: Found, dtype: torch.dtype) -> tuple[float, str]:
    """The largest ratio of an error to its limit, and the name of the result."""
    worst, which = 0.0, ""
    for name, reference_value in exact.items():
        ours = found[name].cpu().double()
        if not torch.equal(ours.isfinite(), reference_value.isfinite()):
            return float("inf"), f"{name} has NaN or infinity in other places"
        allowed = _LOOSE * _distance(plain[name].double(), reference_value) + _ROUNDINGS * torch.finfo(dtype).eps
        error = _distance(ours, reference_value) / allowed
        if error > worst:
            worst, which = error, f"{name} has {error:.1f} times the allowed error"
    return worst, which


def ways(name: str) -> list[Callable[[], AbstractContextManager[Any]]]:
    """The ways in which a backend can run the iterations, each of which is tried."""
    if name == "triton":
        from scvae_fast.ops.backends.triton import launch

        return [lambda: launch.forced(False), lambda: launch.forced(True)]
    if name == "cuda":
        from scvae_fast.ops.backends.cuda import device

        return [nullcontext, device.few_multiprocessors]
    return [nullcontext]


def tried(name: str, dtype: torch.dtype, device: torch.device) -> tuple[float, str]:
    """The largest ratio of an error to its limit in all shapes, and why the backend is wrong; "" if it is correct."""
    backend, worst = backends.BACKENDS[name], 0.0
    for shape in SHAPES:
        rounded = Problem(*(_to(value, dtype) for value in clear(shape)))
        if shape.broken:
            rounded.x[len(rounded.x) // 2, 0] = float("nan")
        if any(option in backend.lacks for option in rounded.options):
            continue
        wide = Problem(*(_to(value, torch.float64) for value in rounded))
        exact, plain = (results(reference, p, grads(p)) for p in (wide, rounded))
        on_card = Problem(*(_to(value, device) for value in rounded))
        for way in ways(name):
            with way():
                found, again = (launched(backend.computes, on_card, compiled) for compiled in (False, True))
            error, reason = _compared(found, plain, exact, dtype)
            if error > 1:
                sizes = f"M = {len(rounded.x)}, K = {shape.K}, n = {shape.n}, T = {shape.T}"
                return error, f"{reason} ({shape.op}, {sizes})"
            for key, value in found.items():
                if not torch.equal(value.nan_to_num(), again[key].nan_to_num()):
                    return error, f"{key} differs between two equal calls"
            worst = max(worst, error)
    return worst, ""


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, until the card has finished."""
    synchronize(device)
    begin = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - begin


def gains(name: str, dtype: torch.dtype, device: torch.device) -> dict[int, float]:
    """The speed of a backend relative to eager PyTorch, for each number of rows."""
    K, n, T = TIMED
    found = {}
    for rows in GRID:
        p = Problem(*(_to(_to(value, dtype), device) for value in drawn(Shape("sparse_code", rows, K, n, T))))
        given = grads(p)
        calls = {each: partial(results, backends.BACKENDS[each].computes, p, given) for each in (name, "eager")}
        samples = [{each: seconds(call, device) for each, call in calls.items()} for _ in range(SAMPLES + 1)]
        took = {each: statistics.median(s[each] for s in samples[1:]) for each in calls}  # first: compiles
        found[rows] = took["eager"] / took[name]
    return found


def verdict(name: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Whether a backend is correct in that dtype, why not, and its gains."""
    reason = backends.declines(name, device, dtype)
    if reason is not None:
        return {"right": False, "reason": reason, "error": None, "gains": {}}
    error, reason = tried(name, dtype, device)
    measured = {} if reason else gains(name, dtype, device)
    finite = error if error < float("inf") else None  # JSON has no infinity
    return {"right": not reason, "reason": reason, "error": finite, "gains": measured}


def main(words: Sequence[str]) -> int:
    """Try the pairs on the device and print the verdicts. `--subjects FILE` is run first: tests change kernels."""
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
        except Exception as error:  # any error of a kernel is a verdict
            lines = str(error).splitlines() or [""]
            told = f"{type(error).__name__}: {lines[0]}"
            tell("verdict", pair=pair, right=False, reason=told, error=None, gains={})
    return 0


if __name__ == "__main__":
    from scvae_fast.ops.backends import trying

    sys.exit(trying.main(sys.argv[1:]))
