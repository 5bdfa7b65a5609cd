"""The contestants: eager PyTorch written in two ways, compiled and captured, the bare products, and our backends."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

import scvae_fast
from benchmarks import formulas
from benchmarks.cases import BACKWARD, BOTH, FORWARD, Case
from benchmarks.problems import DTYPES, Problem, iterates
from scvae_fast.ops import backends
from scvae_fast.ops.backends import cpu

RELEASED, CLEAN, PRODUCTS, GRAPH = "released formula", "clean eager", "bare products", "clean eager, CUDA graph"
COMPILED = ", torch.compile"
# Both launch modes of the Triton kernels next to their own choice, up to as many rows as could leave a card half idle.
WAYS = {"triton, one launch": False, "triton, by iteration": True}
ROWS_OF_BOTH_WAYS = 20_000

Tensors: TypeAlias = Mapping[str, torch.Tensor]
Results: TypeAlias = tuple[torch.Tensor, ...]
# (b, S, theta, n_iter, gain) -> z
Iterate: TypeAlias = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Entrant:
    """A contestant that can be called on the same arguments as the others; `leaves` are those that get gradients."""

    results: Callable[[], Results]
    leaves: Tensors
    scope: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext

    def step(self, direction: str) -> Callable[[], object]:
        """The call to time: only results, only gradients (repeatedly, from one forward pass), or both."""
        if direction == FORWARD:
            return self._forward
        with self.scope():
            results = self.results()
        weights = [torch.ones_like(result) for result in results]
        if direction == BACKWARD:
            return functools.partial(self._backward, results, weights, retain_graph=True)
        return lambda: self._both(weights)

    def gradients(self, weights: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Gradients of the results' sum with these weights; arguments without a gradient are left out."""
        found = zip(self.leaves, self._both(weights), strict=True)
        return {name: gradient for name, gradient in found if gradient is not None}

    def _forward(self) -> Results:
        with torch.no_grad(), self.scope():
            return self.results()

    def _both(self, weights: list[torch.Tensor]) -> Results:
        with self.scope():
            return self._backward(self.results(), weights)

    def _backward(self, results: Results, weights: list[torch.Tensor], retain_graph: bool = False) -> Results:
        leaves = tuple(self.leaves.values())
        return torch.autograd.grad(results, leaves, weights, retain_graph=retain_graph, allow_unused=True)


def entrants(case: Case, p: Problem) -> dict[str, Entrant]:
    """The contestants, which are compared and, if correct, timed: eager PyTorch, also compiled, then our backends."""
    a = {name: tensor.detach().requires_grad_() for name, tensor in arguments(case.op, p).items()}
    known: dict[str, Entrant] = {}
    for name, iterate in {RELEASED: formulas.released, CLEAN: _clean(case, p)}.items():
        run = functools.partial(composed, case.op, iterate, p)
        known[name] = Entrant(functools.partial(run, a), a)
        for mode in filter(None, case.compiled.split("+")):
            if mode == "default":
                torch.compiler.reset()  # otherwise one case's shapes count as recompilations of another's
            compiled = torch.compile(run, mode=mode, dynamic=False)
            known[name + COMPILED + (f" {mode}" if mode != "default" else "")] = Entrant(
                functools.partial(compiled, a), a
            )
    if case.op == "decode":  # no threshold: both are the same product
        del known[RELEASED]
    for backend in takers(case, p.x.device):
        known |= _ours(case, p, a, backend)
    return known


def _ours(case: Case, p: Problem, a: Tensors, backend: str) -> dict[str, Entrant]:
    entrant = Entrant(functools.partial(operation, case.op, backend, p, a), a)
    if case.op in ("LISTA", "DictionaryLISTA"):
        entrant = _layer(case, p, backend)
    found = {backend: entrant}
    if backend == "triton" and case.rows <= ROWS_OF_BOTH_WAYS and case.op != "decode":
        from scvae_fast.ops.backends.triton import launch

        for name, by_iteration in WAYS.items():
            found[name] = Entrant(entrant.results, entrant.leaves, functools.partial(launch.forced, by_iteration))
    return found


def takers(case: Case, device: torch.device) -> list[str]:
    """The backends that run the case; `eager` only if it is the automatic choice."""
    return usable(device, DTYPES[case.dtype], choice(case, device))


def usable(device: torch.device, dtype: torch.dtype, chosen: str, options: Sequence[str] = ()) -> list[str]:
    """The backends that run such a call; `eager` only if it is `chosen`."""
    able = [name for name in scvae_fast.backends() if backends.declines(name, device, dtype, options) is None]
    return [name for name in able if name in (chosen, "cpu", "triton", "cuda")]


def choice(case: Case, device: torch.device) -> str:
    """The backend that runs the case by default."""
    op = "sparse_code" if case.op in ("LISTA", "DictionaryLISTA") else case.op
    chosen = backends.choose(op, None, device, DTYPES[case.dtype], case.rows)
    if op == "decode" and chosen == "cpu":
        fast = cpu.decodes_fast(case.features * case.atoms, case.density, case.direction != FORWARD)
        return chosen if fast else "eager"
    return chosen


def arguments(op: str, p: Problem) -> dict[str, torch.Tensor]:
    """The tensors of a call that get gradients; softshrink takes the threshold as a number, without a gradient."""
    if op == "decode":
        *_, z = iterates(p)
        return {"z": z, "D": p.D}
    if op == "lista":
        return {"b": p.b, "S": p.S, "theta": p.theta}
    if op == "LISTA":
        return {"x": p.x, "W_e": p.W_e, "S": p.S, "theta": p.theta.repeat(len(p.S))}
    if op == "DictionaryLISTA":
        return {"x": p.x, "dictionary": p.D, "c": p.c}
    return {"x": p.x, "W_e": p.W_e, "S": p.S, "theta": p.theta, "D": p.D}


def composed(op: str, iterate: Iterate, p: Problem, a: Tensors) -> Results:
    """An operation or a layer in plain PyTorch, with the given way of writing the iterations."""
    if op == "decode":
        return (a["z"] @ a["D"].T,)
    if op == "lista":
        return (iterate(a["b"], a["S"], a["theta"], p.n_iter, p.gain),)
    if op == "LISTA":
        return (iterate(a["x"] @ a["W_e"].T, a["S"], a["theta"], p.n_iter, p.gain),)
    if op == "DictionaryLISTA":
        D, c = a["dictionary"], a["c"]
        S = torch.eye(D.shape[1], dtype=D.dtype, device=D.device) - D.T @ D / c
        z = iterate(a["x"] @ D / c, S, p.theta * p.c / c, p.n_iter, c if p.official else None)
        return z, z @ D.T
    z = iterate(a["x"] @ a["W_e"].T, a["S"], a["theta"], p.n_iter, p.gain)
    return z, z @ a["D"].T


def operation(op: str, backend: str | None, p: Problem, a: Tensors) -> Results:
    """Our operation itself."""
    gain = 1.0 if p.gain is None else p.gain
    if op == "decode":
        return (scvae_fast.decode(a["z"], a["D"], backend=backend),)
    if op == "lista":
        return (scvae_fast.lista(a["b"], a["S"], a["theta"], p.n_iter, gain=gain, backend=backend),)
    x, W_e, S, theta, D = (a[name] for name in ("x", "W_e", "S", "theta", "D"))
    return scvae_fast.sparse_code(x, W_e, S, theta, D, p.n_iter, gain=gain, backend=backend)


def _clean(case: Case, p: Problem) -> Iterate:
    """`formulas.clean`, with the threshold as a number for operations; layers learn theirs."""
    if case.op in ("LISTA", "DictionaryLISTA"):
        return formulas.clean
    number = float(p.theta)
    return lambda b, S, theta, n_iter, gain: formulas.clean(b, S, number, n_iter, gain)


def _layer(case: Case, p: Problem, backend: str) -> Entrant:
    """Our layer with the case's numbers as parameters, in training mode if gradients are requested."""
    lmbda = float(p.theta) * float(p.c)
    layer: scvae_fast.LISTA | scvae_fast.DictionaryLISTA
    if case.op == "LISTA":
        layer = scvae_fast.LISTA(
            case.features, case.atoms, p.n_iter, dictionary=p.D, lmbda=lmbda, backend=backend, dtype=p.D.dtype
        )
    else:
        layer = scvae_fast.DictionaryLISTA(
            p.D, p.n_iter, lmbda, "official" if p.official else "paper", c=float(p.c), backend=backend
        )
    layer = layer.to(p.x).train(case.direction != FORWARD)
    x = p.x.detach().requires_grad_()

    def results() -> Results:
        found = layer(x)
        return found if isinstance(found, tuple) else (found,)

    return Entrant(results, {"x": x, **dict(layer.named_parameters())})


def graphed(entrant: Entrant, direction: str) -> Callable[[], object]:
    """The step of a contestant on a GPU as a captured graph; each call replays it."""
    step = entrant.step(direction)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # libraries start, and memory is allocated, before the capture
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = step()

    def replay() -> object:
        graph.replay()
        return held

    return replay


def bare_products(case: Case, p: Problem) -> Callable[[], None]:
    """Only the matrix products of the dense formula, into allocated memory: no fusion can be faster.

    Code that skips the zeros of sparse codes can.
    """
    M, K = len(p.x), case.atoms
    z, u = torch.randn(M, K, device=p.x.device).to(p.x), p.x.new_empty(M, K)
    x, x_hat, outer, thin = p.x, torch.empty_like(p.x), torch.empty_like(p.S), torch.empty_like(p.D)
    around = case.op in ("sparse_code", "DictionaryLISTA")
    iterations = 0 if case.op == "decode" else p.n_iter

    def forward() -> None:
        if around or case.op == "LISTA":
            torch.mm(x, p.W_e.T, out=u)
        for _ in range(iterations):
            torch.mm(z, p.S.T, out=u)
        if around or case.op == "decode":
            torch.mm(z, p.D.T, out=x_hat)

    def backward() -> None:
        if around or case.op == "decode":
            torch.mm(x, p.D, out=u)  # ∂x̂ D
            torch.mm(x.T, z, out=thin)  # ∂D
        for _ in range(iterations):
            torch.mm(z, p.S, out=u)
            torch.mm(z.T, u, out=outer)
        if around or case.op == "LISTA":
            torch.mm(z, p.W_e, out=x_hat)
            torch.mm(x.T, z, out=thin)  # ∂W_e, transposed

    parts = {FORWARD: (forward,), BACKWARD: (backward,), BOTH: (forward, backward)}[case.direction]

    @torch.no_grad()
    def run() -> None:
        for part in parts:
            part()

    return run
