"""The cost of PyTorch's transforms: `lista` and the same iterations in plain PyTorch, under each of them.

`python -m benchmarks.transforms` prints the tables of docs/pytorch.md, as Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

import torch
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

from benchmarks.environment import environment, heading
from benchmarks.formulas import iterates
from benchmarks.timing import calls_that_take, spread, until
from scvae_fast import DictionaryLISTA, dictionaries, lista
from scvae_fast._markdown import markdown_table
from scvae_fast.nn.kept import KeptWeights
from scvae_fast.ops import dispatch

Call = Callable[[], object]
OURS, PLAIN = "lista", "plain PyTorch"
N, K, T = 256, 512, 16
_ROWS, _SAMPLES, _MODELS = 256, 32, 4


def _weights() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W_e, S and θ of SC-VAE's dictionary, with which codes of N(0, 1) have a density of about 9 %."""
    D = dictionaries.dct(N, K)
    c = torch.linalg.matrix_norm(D, ord=2) ** 2
    return D.T / c, torch.eye(K) - D.T @ D / c, torch.full((K,), 1.4) / c


def _plain(b: torch.Tensor, S: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    *_, z = iterates(b, S, theta, T)
    return z


def _ours(b: torch.Tensor, S: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return lista(b, S, theta, T)


def uses() -> dict[str, Callable[[Callable[..., torch.Tensor]], Call]]:
    """The uses: by name, a function that applies it to a function of b, S and θ."""
    W_e, S, theta = _weights()
    b = torch.randn(_ROWS, N) @ W_e.T
    leaves = [t.clone().requires_grad_() for t in (b, S, theta)]
    direction = tuple(torch.randn_like(t) for t in (b, S, theta))
    stacked = [torch.stack([t * (1 + 0.01 * i) for i in range(_MODELS)]) for t in (S, theta)]

    def loss(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda *tensors: function(*tensors).square().sum()

    def without_gradient(function: Callable[..., torch.Tensor]) -> object:
        with torch.no_grad():
            return function(b, S, theta)

    def penalty(function: Callable[..., torch.Tensor]) -> object:
        (first,) = torch.autograd.grad(loss(function)(*leaves), leaves[0], create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaves)

    return {
        "a call without gradients": lambda f: lambda: without_gradient(f),
        "a call and its backward pass": lambda f: lambda: torch.autograd.grad(loss(f)(*leaves), leaves),
        "`torch.func.grad`": lambda f: lambda: grad(loss(f), argnums=(0, 1, 2))(b, S, theta),
        "`vmap(grad)`, of each row": lambda f: lambda: vmap(grad(loss(f)), in_dims=(0, None, None))(b, S, theta),
        f"`vmap(grad)`, of S and θ for each of {_SAMPLES} rows": lambda f: (
            lambda: vmap(grad(loss(f), argnums=(1, 2)), in_dims=(0, None, None))(b[:_SAMPLES], S, theta)
        ),
        f"`vmap` over {_MODELS} S and θ": lambda f: lambda: vmap(f, in_dims=(None, 0, 0))(b, *stacked),
        "`torch.func.jvp`": lambda f: lambda: jvp(f, (b, S, theta), direction),
        "a gradient penalty (backward twice)": lambda f: lambda: penalty(f),
    }


def compare(contestants: Mapping[str, Call], seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """Median milliseconds of each contestant, and median ratios of the last one's time to each in the same round."""
    calls = calls_that_take(2e-3, contestants)
    rounds = until(seconds, contestants, least=7, most=500, calls=calls)
    *_, last = contestants
    milliseconds = {name: 1e3 * spread(r[name] for r in rounds).median for name in contestants}
    return milliseconds, {name: spread(r[last] / r[name] for r in rounds).median for name in contestants}


def transforms(seconds: float) -> str:
    """The table of the uses."""
    rows = []
    for name, use in uses().items():
        found, ratio = compare({OURS: use(_ours), PLAIN: use(_plain)}, seconds)
        rows.append([name, f"{found[OURS]:.1f} ms", f"{found[PLAIN]:.1f} ms", f"{ratio[OURS]:.1f} ×"])
    return markdown_table(["M = 256, K = 512, T = 16", OURS, PLAIN, "speed-up"], rows)


def layers(seconds: float) -> str:
    """`DictionaryLISTA` in eval mode with its cached weights, compared with forming them in every call."""
    layer, rows = DictionaryLISTA(dictionaries.dct(N, K), 5, 1.4).eval(), []
    for M in (1, 16, 64, 1024):
        x = torch.randn(M, N)

        def kept(x: torch.Tensor = x) -> object:
            with torch.no_grad():
                return layer(x)

        def formed(call: Call = kept) -> object:
            layer._kept = KeptWeights()
            return call()

        found, _ = compare({"formed": formed, "kept": kept}, seconds)
        rows.append([str(M), f"{found['kept']:.2f} ms", f"{found['formed']:.2f} ms"])
    return markdown_table(["rows, T = 5", "weights cached and compared", "computed anew"], rows)


def short_cut(seconds: float) -> str:
    """The cost of a small call, with and without torch's dispatcher."""
    b, S, theta = torch.randn(1, 16), 0.05 * torch.randn(16, 16), torch.tensor(0.1)
    leaf, private, rows = b.clone().requires_grad_(), dispatch._PRIVATE, []

    def forward() -> object:
        return lista(b, S, theta, 2, backend="cpu")

    def backward() -> object:
        return torch.autograd.grad(lista(leaf, S, theta, 2, backend="cpu").sum(), leaf)

    def through_it(call: Call) -> Call:
        def run() -> object:
            dispatch._PRIVATE = None
            try:
                return call()
            finally:
                dispatch._PRIVATE = private

        return run

    for name, call in (("a call", forward), ("with its backward pass", backward)):
        found, _ = compare({"short": call, "long": through_it(call)}, seconds)
        short, long = (1e3 * found[kind] for kind in ("short", "long"))
        rows.append([name, f"{short:.0f} µs", f"{long:.0f} µs", f"{long - short:.0f} µs"])
    return markdown_table(["M = 1, K = 16, T = 2", "without the dispatcher", "with it", "saved"], rows)


def ensembles(seconds: float) -> str:
    """`vmap` over the weights of layers, compared with a loop."""
    models = [DictionaryLISTA(dictionaries.dct(N, K), 5, 1.4).eval() for _ in range(_MODELS)]
    parameters, buffers = stack_module_state(models)
    x = torch.randn(_ROWS, N)

    def call(p: dict[str, torch.Tensor], q: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(models[0], (p, q), (x,))[0]

    with torch.no_grad():
        found, _ = compare(
            {"vmap": lambda: vmap(call)(parameters, buffers), "loop": lambda: [m(x)[0] for m in models]}, seconds
        )
    rows = [[name, f"{milliseconds:.1f}"] for name, milliseconds in found.items()]
    return markdown_table([f"{_MODELS} layers, M = 256, T = 5", "milliseconds"], rows)


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds per line of a table (default: %(default)s)")
    seconds = parser.parse_args().seconds
    torch.manual_seed(0)
    print(heading(environment("cpu")))
    for part in (transforms, ensembles, layers, short_cut):
        print(f"\n{part(seconds)}", flush=True)


if __name__ == "__main__":
    main()
