"""Measures the LISTA family: per-iteration weights, learned steps, momentum, and networks without a K × K matrix.

The rival is the usual loop in eager PyTorch. As everywhere, only correct results are timed: results and gradients of
some rows are compared with the loop's in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

import scvae_fast
from benchmarks import formulas, gate, operations, problems, rivals, timing
from benchmarks.cases import FORWARD, FamilyCase
from benchmarks.rivals import Entrant, Tensors
from scvae_fast import dictionaries
from scvae_fast.nn.layer import fista_momentum
from scvae_fast.ops import backends
from scvae_fast.ops.problem import FACTORED, MATRICES, MOMENTUM, POSITIVE, STEPS, THRESHOLDS

LOOP = "loop, eager"
_SEARCH_ROWS = 64


class Network(NamedTuple):
    """A form of the iteration: the usual loop, and the call that replaces it."""

    loop: Callable[[Tensors, FamilyCase], torch.Tensor]
    ours: Callable[[Tensors, FamilyCase, str | None], torch.Tensor]
    options: tuple[str, ...]  # `Problem.options` of the call


def _shrink(u: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return torch.sign(u) * F.relu(u.abs() - theta)


def _weights_loop(a: Tensors, case: FamilyCase) -> torch.Tensor:
    z = _shrink(a["b"], a["theta"][0])
    for t in range(case.n_iter):
        z = _shrink(a["b"] + F.linear(z, a["S"][t]), a["theta"][t + 1])
    return z


def _filters_loop(a: Tensors, case: FamilyCase) -> torch.Tensor:
    z = _shrink(F.linear(a["x"], a["W_e"][0]), a["theta"][0])
    for t in range(case.n_iter):
        z = _shrink(F.linear(a["x"], a["W_e"][t + 1]) + F.linear(z, a["S"][t]), a["theta"][t + 1])
    return z


def _steps_loop(a: Tensors, case: FamilyCase) -> torch.Tensor:
    z = torch.zeros_like(a["b"])
    for t in range(case.n_iter):
        z = _shrink(z + a["step"][t] * (a["b"] - F.linear(z, a["G"])), a["theta"][t])
    return z


def _fista_loop(a: Tensors, case: FamilyCase) -> torch.Tensor:
    z = y = torch.zeros_like(a["b"])
    for t in range(case.n_iter):
        new = F.relu(y + a["step"] * (a["b"] - F.linear(y, a["G"])) - a["theta"])
        if t + 1 < case.n_iter:
            y = new + a["momentum"][t + 1] * (new - z)
        z = new
    return z


def _factored_loop(a: Tensors, case: FamilyCase) -> torch.Tensor:
    z = a["x"].new_zeros(len(a["x"]), case.atoms)
    for _ in range(case.n_iter):
        z = F.relu(z + (a["x"] - z @ a["D"].T) @ a["W_e"].T - a["theta"])
    return z


def _weights(a: Tensors, case: FamilyCase, backend: str | None) -> torch.Tensor:
    return scvae_fast.lista(a["b"], a["S"], a["theta"], case.n_iter, backend=backend)


def _filters(a: Tensors, case: FamilyCase, backend: str | None) -> torch.Tensor:
    D = a["x"].new_zeros(case.features, case.atoms)
    return scvae_fast.sparse_code(a["x"], a["W_e"], a["S"], a["theta"], D, case.n_iter, backend=backend)[0]


def _steps(a: Tensors, case: FamilyCase, backend: str | None) -> torch.Tensor:
    return scvae_fast.ista(a["b"], a["G"], a["theta"], case.n_iter, step=a["step"], backend=backend)


def _fista(a: Tensors, case: FamilyCase, backend: str | None) -> torch.Tensor:
    more = {"step": a["step"], "momentum": a["momentum"]}
    return scvae_fast.ista(a["b"], a["G"], a["theta"], case.n_iter, **more, positive=True, backend=backend)


def _factored(a: Tensors, case: FamilyCase, backend: str | None) -> torch.Tensor:
    x, W_e, theta, D = (a[name] for name in ("x", "W_e", "theta", "D"))
    return scvae_fast.sparse_code(x, W_e, None, theta, D, case.n_iter, positive=True, backend=backend)[0]


NETWORKS = {
    "S and θ for each iteration": Network(_weights_loop, _weights, (THRESHOLDS, MATRICES)),
    "W, S and θ for each iteration": Network(_filters_loop, _filters, (THRESHOLDS, MATRICES)),
    "step and θ for each iteration": Network(_steps_loop, _steps, (STEPS, THRESHOLDS)),
    "non-negative FISTA": Network(_fista_loop, _fista, (STEPS, MOMENTUM, POSITIVE)),
    "non-negative, factored": Network(_factored_loop, _factored, (FACTORED, POSITIVE)),
}


def tensors(case: FamilyCase, device: str, rows: int, theta: float) -> dict[str, torch.Tensor]:
    """The arguments of the call, in float32: ISTA over a dictionary, with weights repeated if per iteration."""
    K, n, T = case.atoms, case.features, case.n_iter
    drawn = torch.Generator().manual_seed(0)
    dct = 2 * n >= K
    D = dictionaries.dct(n, K) if dct else dictionaries.random_unit(n, K, generator=drawn)
    c = float(torch.linalg.matrix_norm(D.double(), ord=2) ** 2)
    x = torch.randn(rows, n, generator=torch.Generator().manual_seed(1))
    G = D.T @ D if K <= 1024 else torch.empty(0)
    momentum = fista_momentum(T).float()
    found = {
        "S and θ for each iteration": lambda: {
            "b": x @ D / c,
            "S": (torch.eye(K) - G / c).repeat(T, 1, 1),
            "theta": torch.full((T + 1, K), theta),
        },
        "W, S and θ for each iteration": lambda: {
            "x": x,
            "W_e": (D.T / c).repeat(T + 1, 1, 1),
            "S": (torch.eye(K) - G / c).repeat(T, 1, 1),
            "theta": torch.full((T + 1, K), theta),
        },
        "step and θ for each iteration": lambda: {
            "b": x @ D,
            "G": G,
            "theta": torch.full((T, 1), theta),
            "step": torch.full((T,), 1 / c),
        },
        "non-negative FISTA": lambda: {
            "b": x @ D,
            "G": G,
            "theta": torch.tensor(theta),
            "step": torch.tensor(1 / c),
            "momentum": momentum,
        },
        "non-negative, factored": lambda: {"x": x, "W_e": D.T.contiguous() / c, "theta": torch.tensor(theta), "D": D},
    }[case.form]()
    return {name: t.to(device).contiguous() for name, t in found.items()}


def threshold(case: FamilyCase, device: str) -> float:
    """The θ that gives z_T the density, by bisection on some rows."""
    a = tensors(case, device, _SEARCH_ROWS, 1.0)

    def codes(theta: torch.Tensor) -> torch.Tensor:
        return NETWORKS[case.form].ours({**a, "theta": theta.to(device) * a["theta"]}, case, None)

    return float(problems.threshold_of(case.density, codes, torch.ones(()), 16))


def entrants(case: FamilyCase, a: Tensors) -> dict[str, Entrant]:
    """The loop, and the backends that support the case."""
    leaves = {name: t.detach().requires_grad_() for name, t in a.items()}
    network = NETWORKS[case.form]

    def entrant(call: Callable[..., torch.Tensor], *more: Any) -> Entrant:
        return Entrant(lambda: (call(leaves, case, *more),), leaves)

    found = {LOOP: entrant(network.loop)}
    first = next(iter(a.values()))
    for backend in rivals.usable(first.device, first.dtype, choice(case, first), network.options):
        found[backend] = entrant(network.ours, backend)
    return found


def choice(case: FamilyCase, first: torch.Tensor) -> str:
    """The backend that runs the case by default."""
    options = NETWORKS[case.form].options
    return backends.choose("lista", None, first.device, first.dtype, case.rows, options)


def checked(case: FamilyCase, device: str, theta: float) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Errors of every contestant against the loop in float64 on some rows, and the contestants that are wrong."""
    a = tensors(case, device, _SEARCH_ROWS, theta)
    exact = _results(entrants(case, {name: t.double() for name, t in a.items()})[LOOP], case)
    errors = {name: gate.errors(_results(one, case), exact) for name, one in entrants(case, a).items()}
    lenient = [f"∂{name}" for name, t in a.items() if t.numel() == 1]
    return errors, gate.failures(errors, LOOP, torch.float32, lenient)


def _results(one: Entrant, case: FamilyCase) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        (z,) = one.results()
    if case.direction == FORWARD:
        return {"z": z}
    weights = torch.randn(z.shape, generator=torch.Generator().manual_seed(2)).to(z)
    return {"z": z, **{f"∂{name}": gradient for name, gradient in one.gradients([weights]).items()}}


def measure(case: FamilyCase, device: str, seconds: float) -> dict[str, Any]:
    """Errors of each contestant, and samples in seconds of the correct ones."""
    theta = threshold(case, device)
    errors, wrong = checked(case, device, theta)
    a = tensors(case, device, case.rows, theta)
    entered = entrants(case, a)
    runs = {name: one.step(case.direction) for name, one in entered.items() if name not in wrong}
    calls = timing.calls_that_take(operations.SAMPLE_SECONDS[device], runs, device)
    samples = timing.until(seconds, runs, operations.LEAST_ROUNDS, operations.MOST_ROUNDS, calls, device)
    with torch.no_grad():
        density = formulas.density(NETWORKS[case.form].ours(a, case, None))
    return {
        "chosen": choice(case, next(iter(a.values()))),
        "errors": errors,
        "wrong": wrong,
        "calls": calls,
        "samples": samples,
        "densities": [density],
    }
