"""The experiment of the LISTA papers: sparse codes recovered by unrolled networks of 16 layers, and the cost of a step.

`python -m examples.unrolled --out docs` trains every network and writes docs/unrolled.md with its figures. Trained
networks are recorded in docs/unrolled.json and not trained again; delete the file to train all.

The problem is that of Chen et al. 2018 and Liu et al. 2019: n = 250 features, K = 500 atoms of unit norm drawn from a
Gaussian, codes with entries drawn from N(0, 1) with probability 0.1 and otherwise 0, no noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.environment import environment, heading
from benchmarks.memory import kept_for_backward
from benchmarks.timing import calls_that_take, spread, until
from examples.unrolled_page import write
from scvae_fast import ALISTA, LISTA, LISTACP, SLISTA, TiLISTA, dictionaries, ista, soft_threshold
from scvae_fast._files import write_json
from scvae_fast.nn.layer import SparseCoder, fista_momentum

n, K, T = 250, 500, 16
DENSITY = 0.1
LMBDA = 0.4  # the start of the authors' code
BATCH = 64
# Adam's rate for what a layer adds, and for the matrices that later layers add; the factors of these rates when all
# layers so far are trained; and the factor by which a layer's rate falls with each later layer. The authors' code uses
# MATRIX_RATE for everything, and waits until thousands of steps bring no improvement.
RATE, MATRIX_RATE, REFINEMENTS, DECAY = 5e-3, 5e-4, (0.2, 0.02), 0.3
# Support selection: each layer lets this further percentage of the largest |u|, up to a limit, pass the threshold.
SELECTED, MOST_SELECTED = 1.2, 13.0


class Problem:
    """The dictionary D (n, K); draws codes z (M, K) and vectors x = z Dᵀ (M, n)."""

    def __init__(self, seed: int = 0) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self.D = dictionaries.random_unit(n, K, generator=self._random)

    def draw(self, rows: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The pair x, z."""
        generator = generator or self._random
        support = torch.rand(rows, K, generator=generator) < DENSITY
        z = torch.randn(rows, K, generator=generator) * support
        return z @ self.D.T, z


def nmse(found: Tensor, z: Tensor) -> float:
    """10 log₁₀(Σ‖z_t − z‖² / Σ‖z‖²), in dB."""
    return float(10 * torch.log10((found - z).square().sum() / z.square().sum()))


class Network:
    """A layer whose first t iterations can be run and trained; the parameters of each iteration are separate leaves.

    `selects` runs its formula in plain PyTorch, with support selection instead of the soft threshold.
    """

    def __init__(self, name: str, layer: SparseCoder, selects: bool = False) -> None:
        self.name, self.layer, self.selects = name, layer, selects
        self.leaves: dict[str, Tensor | list[Tensor]] = {}
        for key, value in layer.named_parameters():
            of_each = len(value) in (T - 1, T)  # otherwise one for all iterations
            rows = [row.detach().clone().requires_grad_() for row in value]
            self.leaves[key] = rows if of_each else value.detach().clone().requires_grad_()

    def new_in(self, t: int) -> list[Tensor]:
        """The leaves that layer t = 1 … T adds."""
        added = []
        for leaf in self.leaves.values():
            if isinstance(leaf, Tensor):
                added += [leaf] if t == 1 else []
            else:
                row = t - 1 - (T - len(leaf))  # T − 1 matrices S: the first layer has none
                added += [leaf[row]] if row >= 0 else []
        return added

    @torch.no_grad()
    def start_from_the_layer_before(self, t: int) -> None:
        """Initialise layer t with what layer t − 1 has learned."""
        for leaf in self.leaves.values():
            row = t - 1 - (T - len(leaf))
            if not isinstance(leaf, Tensor) and row > 0:
                leaf[row].copy_(leaf[row - 1])

    def __call__(self, x: Tensor, t: int) -> Tensor:
        """Codes after t layers."""
        used = {
            key: leaf if isinstance(leaf, Tensor) else torch.stack(leaf[: max(t - (T - len(leaf)), 0)])
            for key, leaf in self.leaves.items()
            if isinstance(leaf, Tensor) or t > T - len(leaf)
        }
        if self.selects:
            return _selecting(self.layer, x, t, used)
        if isinstance(self.layer, LISTA):
            used.setdefault("S", x.new_zeros(0, K, K))
        before, self.layer.n_iter = self.layer.n_iter, t - isinstance(self.layer, LISTA)
        try:
            return functional_call(self.layer, used, (x,))
        finally:
            self.layer.n_iter = before


def _selecting(layer: SparseCoder, x: Tensor, t: int, used: dict[str, Tensor]) -> Tensor:
    """LISTA-CP, TiLISTA or ALISTA with support selection (Chen et al. 2018), iteration by iteration."""
    assert layer.dictionary is not None
    D = layer.dictionary
    W = used["W"] if "W" in used else dictionaries.analytic_weights(D)
    z = x.new_zeros(len(x), K)
    for i in range(t):
        W_i = W[i] if W.dim() == 3 else W
        step = used["step"][i] if "step" in used else 1
        u = z + step * (x - z @ D.T) @ W_i.T
        largest = int(min((i + 1) * SELECTED, MOST_SELECTED) / 100 * K)
        bound = u.detach().abs().topk(largest).values[:, -1:]
        passes = (u.detach().abs() >= bound) & (u.detach().abs() > used["theta"][i])
        z = torch.where(passes, u, soft_threshold(u, used["theta"][i]))
    return z


def networks(D: Tensor) -> list[Network]:
    """One network of each method, untrained."""
    c = float(torch.linalg.matrix_norm(D, ord=2) ** 2)
    W, S = D.T / c, torch.eye(K) - D.T @ D / c
    lista = LISTA.from_weights([W] * T, [S] * T, [LMBDA / c] * T)
    return [
        Network("LISTA", lista),
        Network("LISTA-CP", LISTACP(D, T, LMBDA)),
        Network("TiLISTA", TiLISTA(D, T, LMBDA)),
        Network("ALISTA", ALISTA(D, T, LMBDA)),
        Network("SLISTA", SLISTA(D, T, LMBDA)),
        Network("LISTA-CPSS", LISTACP(D, T, LMBDA), selects=True),
        Network("TiLISTA, selecting", TiLISTA(D, T, LMBDA), selects=True),
        Network("ALISTA, selecting", ALISTA(D, T, LMBDA), selects=True),
    ]


def train(network: Network, problem: Problem, steps: int) -> None:
    """Train layer by layer: first what the layer adds, then all layers so far at two smaller rates."""
    rates: list[tuple[Tensor, float]] = []
    for t in range(1, T + 1):
        network.start_from_the_layer_before(t)
        added = [(leaf, RATE if t == 1 or leaf.numel() == 1 else MATRIX_RATE) for leaf in network.new_in(t)]
        _stage(network, problem, t, added, steps)
        rates += added
        for refinement in REFINEMENTS:
            _stage(network, problem, t, [(leaf, rate * refinement) for leaf, rate in rates], steps)
        rates = [(leaf, rate * DECAY) for leaf, rate in rates]


def _stage(network: Network, problem: Problem, t: int, leaves: list[tuple[Tensor, float]], steps: int) -> None:
    if not leaves:
        return
    optimiser = torch.optim.Adam([{"params": [leaf], "lr": rate} for leaf, rate in leaves])
    for _ in range(steps):
        x, z = problem.draw(BATCH)
        loss = 0.5 * (network(x, t) - z).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def classical(D: Tensor, x: Tensor, z: Tensor, lmbda: float) -> dict[str, list[float]]:
    """NMSE of ISTA and FISTA after 0 … T iterations."""
    c = float(torch.linalg.matrix_norm(D, ord=2) ** 2)
    b, G, found = x @ D, D.T @ D, {}
    for name, momentum in (("ISTA", None), ("FISTA", fista_momentum(T).float())):
        curve = [0.0]
        for t in range(1, T + 1):
            beta = None if momentum is None else momentum[:t]
            curve.append(nmse(ista(b, G, lmbda / c, t, step=1 / c, momentum=beta), z))
        found[name] = curve
    return found


class Cost(NamedTuple):
    """The cost of a training step, forward and backward, of one kind of network."""

    times_as_fast: float
    loop_keeps: int  # bytes for the backward pass, without the arguments
    layer_keeps: int


def _loop(layer: SparseCoder) -> Callable[[Tensor], Tensor]:
    """The layer's formula as a loop in eager PyTorch."""
    p, D = dict(layer.named_parameters()), layer.dictionary
    assert D is not None
    G = D.T @ D

    def run(x: Tensor) -> Tensor:
        z = x.new_zeros(len(x), K)
        for t in range(layer.n_iter):
            if isinstance(layer, SLISTA):
                theta = layer.lmbda * p["step"][t]
                u = z + p["step"][t] * (x @ D - z @ G)
            else:
                theta, W = p["theta"][t], p["W"][t] if p["W"].dim() == 3 else p["W"]
                u = z + (p["step"][t] if "step" in p else 1) * (x - z @ D.T) @ W.T
            z = u.sign() * (u.abs() - theta).relu()
        return z

    return run


def costs(problem: Problem, rows: int, seconds: float) -> Iterator[tuple[str, int, Cost]]:
    """Costs of LISTA-CP, TiLISTA and SLISTA for several T."""
    x, z = problem.draw(rows)
    for iterations in (4, 8, 16, 32):
        for make in (LISTACP, TiLISTA, SLISTA):
            layer = make(problem.D, iterations, LMBDA)
            loop, leaves = _loop(layer), list(layer.parameters())

            def step(call: Callable[[Tensor], Tensor], leaves: list[nn.Parameter] = leaves) -> object:
                return torch.autograd.grad((call(x) - z).square().sum(), leaves)

            contestants = {
                "loop": lambda loop=loop, step=step: step(loop),
                "layer": lambda layer=layer, step=step: step(layer),
            }
            calls = calls_that_take(2e-3, contestants)
            rounds = until(seconds, contestants, least=7, most=300, calls=calls)
            given = dict(layer.named_parameters()) | {"x": x, "D": problem.D}
            kept = [kept_for_backward(lambda call=call: call(x), given).made for call in (loop, layer)]
            ratio = spread(r["loop"] / r["layer"] for r in rounds).median
            yield make.__name__, iterations, Cost(ratio, *kept)


def run(steps: int, seconds: float, kept: Path, methods: list[str] | None = None) -> dict[str, Any]:
    """Train every network that `kept` doesn't contain, and measure; returns the content of the page."""
    trained = _trained(kept, steps)
    problem = Problem()
    x, z = problem.draw(1000, torch.Generator().manual_seed(1))
    for network in networks(problem.D):
        if network.name in trained or (methods is not None and network.name not in methods):
            continue
        train(network, Problem(), steps)
        with torch.no_grad():
            curve = [0.0] + [nmse(network(x, t), z) for t in range(1, T + 1)]
        learned = {
            key: [float(row.detach().mean()) for row in leaf]
            for key, leaf in network.leaves.items()
            if not isinstance(leaf, Tensor) and key in ("step", "theta")
        }
        trained[network.name] = {"curve": curve, "learned": learned}
        write_json(kept, {"steps": steps, "networks": trained})
        print(f"{network.name}: {curve[-1]:.1f} dB", flush=True)
    trained = {network.name: trained[network.name] for network in networks(problem.D) if network.name in trained}
    return {
        "steps": steps,
        "curves": classical(problem.D, x, z, LMBDA) | {name: found["curve"] for name, found in trained.items()},
        "learned": {name: found["learned"] for name, found in trained.items()},
        "costs": [[name, t, *found] for name, t, found in costs(problem, BATCH, seconds)] if seconds else [],
        "environment": heading(environment("cpu")),
    }


def _trained(kept: Path, steps: int) -> dict[str, Any]:
    """The results of an earlier run with the same number of steps, by network."""
    if not kept.exists():
        return {}
    earlier = json.loads(kept.read_text(encoding="utf-8"))
    if earlier["steps"] != steps:
        raise SystemExit(
            f"{kept}: networks trained with --steps {earlier['steps']}. Use the same number, or remove the file."
        )
    return dict(earlier["networks"])


def main(words: list[str] | None = None) -> None:
    """Train, measure and write the page."""
    parser = argparse.ArgumentParser(prog="python -m examples.unrolled", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for unrolled.md and its figures")
    parser.add_argument("--steps", type=int, default=150, help="steps of each of the 48 stages (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of each timing; 0 skips them")
    parser.add_argument("--method", action="append", help="train only this network; can be repeated")
    options = parser.parse_args(words)
    torch.manual_seed(0)
    found = run(options.steps, options.seconds, options.out / "unrolled.json", options.method)
    constants = {
        "lmbda": LMBDA,
        "selected": SELECTED,
        "most": MOST_SELECTED,
        "rate": RATE,
        "matrix_rate": MATRIX_RATE,
    }
    write(found, options.out, constants)


if __name__ == "__main__":
    main()
