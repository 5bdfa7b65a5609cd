"""Problems that the tests of the operations share, and how results are compared."""

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import scvae_fast
from scvae_fast.ops import backends
from scvae_fast.ops.backends import BACKENDS, reference
from scvae_fast.ops.backends.trying import near_a_tie
from scvae_fast.ops.problem import Problem

USABLE = [name for name, backend in BACKENDS.items() if backend.unusable() is None]
EMULATED = "SCVAE_FAST_CUDA_EMULATOR" in os.environ
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def device_of(backend: str) -> str:
    """Where a backend's tensors are."""
    return {"triton": "cpu" if INTERPRETED else "cuda", "cuda": "cpu" if EMULATED else "cuda"}.get(backend, "cpu")


def takes(backend: str, dtype: torch.dtype) -> bool:
    return backends.declines(backend, torch.device(device_of(backend)), dtype) is None


# Those that run on the CPU in float64; those that take float32, wherever they run; those that large problems don't keep
# busy for minutes.
BACKENDS = [name for name in USABLE if device_of(name) == "cpu" and takes(name, torch.float64)]
FLOAT32_BACKENDS = [name for name in USABLE if takes(name, torch.float32)]
QUICK_BACKENDS = BACKENDS if INTERPRETED or EMULATED else FLOAT32_BACKENDS


def suited(backend: str, problem: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
    """The problem on the backend's device: in float64, or in float32 if it does not support float64."""
    dtype = torch.float64 if backend in BACKENDS else torch.float32
    return {name: None if t is None else t.to(device_of(backend), dtype) for name, t in problem.items()}


# Arguments in the order of the schema, under the names that the public functions take.
LISTA = ("b", "S", "theta", "gain", "z0")
SPARSE_CODE = ("x", "W_e", "S", "theta", "D", "gain", "z0")


def lista_problem(
    M: int, K: int, *, theta: str = "atom", start: str = "gain", dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor | None]:
    """b, S, theta, gain, z0 of a random LISTA whose codes are partly zero and stay of the order of 1."""
    S = torch.randn(K, K, dtype=torch.float64) * (0.5 / K**0.5)
    thresholds = {
        "atom": torch.rand(K, dtype=torch.float64),
        "scalar": torch.tensor(0.4, dtype=torch.float64),
        "zero": torch.tensor(0.0, dtype=torch.float64),
        "negative": -torch.rand(K, dtype=torch.float64) - 0.1,
    }
    problem: dict[str, torch.Tensor | None] = {
        "b": torch.randn(M, K, dtype=torch.float64),
        "S": S,
        "theta": thresholds[theta],
        "gain": torch.tensor(1.7, dtype=torch.float64) if start == "gain" else None,
        "z0": torch.randn(M, K, dtype=torch.float64).relu() if start == "z0" else None,
    }
    return {name: None if t is None else t.to(dtype) for name, t in problem.items()}


def sparse_code_problem(
    M: int, K: int, n: int, *, dtype: torch.dtype = torch.float64, **kinds: str
) -> dict[str, torch.Tensor | None]:
    """x, W_e, S, theta, D, gain, z0 of a random bottleneck."""
    inner = lista_problem(M, K, dtype=dtype, **kinds)
    inner.pop("b")
    outer = {
        "x": torch.randn(M, n, dtype=torch.float64),
        "W_e": torch.randn(K, n, dtype=torch.float64) / n**0.5,
        "D": torch.randn(n, K, dtype=torch.float64) / K**0.5,
    }
    problem = {**{name: t.to(dtype) for name, t in outer.items()}, **inner}
    return {name: problem[name] for name in SPARSE_CODE}


def keywords(problem: dict[str, torch.Tensor | None]) -> dict[str, Any]:
    """The arguments that are not None, as keyword arguments."""
    return {name: t for name, t in problem.items() if t is not None}


def to(problem: dict[str, torch.Tensor | None], dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
    return {name: None if t is None else t.detach().to(dtype) for name, t in problem.items()}


def record(op: str, n_iter: int, positive: bool = False, **tensors: torch.Tensor | None) -> Problem:
    """The arguments of a public function as one record."""
    given = {{"b": "x", "G": "S"}.get(name, name): t for name, t in tensors.items()}
    tensor_fields = Problem._fields[: Problem._fields.index("n_iter")]
    return Problem(*(given.get(name) for name in tensor_fields), n_iter, positive, op)


class Variant(NamedTuple):
    """A call with options: the public function, its arguments besides x or b, W_e, S or G, θ and D, and their form."""

    op: str
    each: tuple[str, ...]  # tensors of which every iteration has its own
    single: tuple[str, ...]  # further tensors, of which there is one
    positive: bool = False
    factored: bool = False  # sparse_code without S


VARIANTS = {
    "non-negative lista": Variant("lista", (), ("gain",), positive=True),
    "thresholds of each iteration": Variant("lista", ("theta",), ("gain",)),
    "matrices of each iteration": Variant("lista", ("S", "theta"), ("z0",)),
    "everything of each iteration": Variant("sparse_code", ("W_e", "S", "theta"), ("gain",), positive=True),
    "everything of each iteration, z0": Variant("sparse_code", ("W_e", "S", "theta"), ("z0",)),
    "ista": Variant("ista", ("theta",), ("step",)),
    "SLISTA": Variant("ista", ("theta", "step"), ("z0",)),
    "non-negative ista": Variant("ista", ("G", "step"), (), positive=True),
    "fista": Variant("ista", ("step", "momentum"), ()),
    "fista, z0": Variant("ista", ("G", "theta"), ("step", "momentum", "z0")),
    "everything of each iteration, steps": Variant("sparse_code", ("W_e", "S", "theta", "step", "momentum"), ()),
    "non-negative sparse_code with a step": Variant("sparse_code", (), ("step",), positive=True),
    "LISTA-CP": Variant("sparse_code", ("W_e", "theta"), (), factored=True),
    "ALISTA": Variant("sparse_code", ("theta", "step"), ("z0",), factored=True),
    "autoencoder": Variant("sparse_code", ("momentum",), ("step",), positive=True, factored=True),
    "non-negative LISTA-CP": Variant("sparse_code", ("W_e",), ("momentum", "z0"), positive=True, factored=True),
}


def variant(
    name: str, M: int, K: int, n: int, n_iter: int
) -> tuple[Callable[..., Any], dict[str, torch.Tensor], dict[str, Any]]:
    """The public function of one of `VARIANTS`, its tensors in float64, and its other arguments.

    Iterations of the factored form and of ISTA don't expand, so codes stay of the order of 1.
    """
    op, each, single, positive, factored = VARIANTS[name]
    kappa = op == "ista" or factored or "step" in each + single
    rows = n_iter + 1 - kappa

    def normal(tensor: str, *shape: int) -> torch.Tensor:
        count = rows if tensor in ("W_e", "theta") else n_iter
        return torch.randn((count, *shape) if tensor in each else shape, dtype=torch.float64)

    D = normal("D", n, K)
    D = D / torch.linalg.matrix_norm(D, ord=2)
    tensors = {"b": normal("b", M, K)} if op != "sparse_code" else {"x": 2 * normal("x", M, n), "D": D}
    if op == "sparse_code":
        tensors["W_e"] = D.T + 0.3 * normal("W_e", K, n) / n**0.5
    if not factored:
        inhibition, damped = "G" if op == "ista" else "S", 0.6 * kappa * torch.eye(K, dtype=torch.float64)
        matrix = normal(inhibition, K, K) * (0.5 / K**0.5)
        tensors[inhibition] = matrix + damped if op == "ista" else matrix - damped
    tensors["theta"] = 0.2 * torch.rand((rows, K) if "theta" in each else (K,), dtype=torch.float64)
    drawn = {
        "gain": torch.tensor(1.7, dtype=torch.float64),
        "step": 0.8 + 0.1 * normal("step"),
        "momentum": 0.3 + 0.1 * normal("momentum"),
        "z0": torch.randn(M, K, dtype=torch.float64).relu(),
    }
    tensors |= {tensor: t for tensor, t in drawn.items() if tensor in each + single}
    settings = {"n_iter": n_iter, "positive": positive, **({"S": None} if factored else {})}
    return getattr(scvae_fast, op), tensors, settings


def takers(name: str) -> list[str]:
    """The backends that take a variant in float32."""
    op, tensors, settings = variant(name, 1, 2, 2, 2)
    options = record(op.__name__, **tensors, **settings).options
    return [b for b in FLOAT32_BACKENDS if not set(options) & backends.BACKENDS[b].lacks]


def op_of(problem: dict[str, torch.Tensor | None]) -> str:
    """The public function for these tensors."""
    return "ista" if "G" in problem else "sparse_code" if "x" in problem else "lista"


def unrolled_lista(b, S, theta, n_iter, gain=None, z0=None, positive=False):
    """Lista in plain PyTorch, differentiated by autograd."""
    return reference.code(record("lista", n_iter, positive, b=b, S=S, theta=theta, gain=gain, z0=z0))[0]


def unrolled_ista(b, G, theta, n_iter, **more):
    """Ista in plain PyTorch, differentiated by autograd."""
    return reference.code(record("ista", n_iter, b=b, G=G, theta=theta, **more))[0]


def unrolled_sparse_code(x, W_e, S, theta, D, n_iter, gain=None, **more):
    """sparse_code in plain PyTorch, differentiated by autograd."""
    return reference.code(record("sparse_code", n_iter, x=x, W_e=W_e, S=S, theta=theta, D=D, gain=gain, **more))


def unrolled_autoencoder(x, W_enc, b_enc, atoms, b_dec, lmbda, step, momentum, k=None):
    """SparseAutoencoder with atoms of unit norm in plain PyTorch, differentiated by autograd: codes, reconstruction."""

    def largest(z):
        return z if k is None else torch.where(z >= z.topk(k).values[..., -1:], z, 0)

    D = atoms / atoms.square().sum(0).sqrt()
    z = before = largest(torch.relu((x - b_dec) @ W_enc.T + b_enc))
    for t in range(len(step)):
        y = z + momentum[t] * (z - before)
        before, z = z, torch.relu(y + step[t] * (x - b_dec - y @ D.T) @ D - step[t] * lmbda)
    z = largest(z)
    return z, z @ D.T + b_dec


def bytes_kept(call: Callable[[], object]) -> int:
    """Bytes that autograd keeps of a call for its backward pass."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        call()
    return sum(kept)


def results_and_gradients(
    op: Callable[..., Any], problem: dict[str, torch.Tensor | None], **settings: Any
) -> dict[str, torch.Tensor]:
    """Results of op, and the gradients of a fixed random combination of them for every tensor of the problem."""
    backend = settings.get("backend")
    given = {k: t if backend is None else t.to(device_of(backend)) for k, t in keywords(problem).items()}
    leaves = {k: t.detach().clone().requires_grad_() for k, t in given.items()}
    results = op(**leaves, **settings)
    results = results if isinstance(results, tuple) else (results,)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r) for r in results]
    torch.autograd.backward(results, weights)
    out = {f"result {i}": r.detach().cpu() for i, r in enumerate(results)}
    gradients = {f"∂{k}": torch.zeros_like(t).cpu() if t.grad is None else t.grad.cpu() for k, t in leaves.items()}
    return {**out, **gradients}


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """‖a − b‖ / ‖b‖ in float64, over the whole tensor."""
    scale = torch.linalg.vector_norm(b.double())
    return float(torch.linalg.vector_norm(a.double() - b.double()) / scale.clamp_min(1e-300))


def clear_of_ties(
    problem: dict[str, torch.Tensor | None], n_iter: int, **settings: Any
) -> dict[str, torch.Tensor | None]:
    """The problem, with rows redrawn in which rounding could switch a code on or off, which no tolerance covers."""
    rows = "x" if "x" in problem else "b"
    while bool(
        (near := near_a_tie(record(op_of(problem), n_iter, **to(problem, torch.float64), **settings), 1e-5)).any()
    ):
        values = problem[rows].clone()
        values[near] = torch.randn_like(values[near])
        problem = {**problem, rows: values}
    return problem


def jittered(problem: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
    """The problem changed by some roundings, which differ between columns."""
    return {
        name: None if t is None else t * (1 + 1e-6 * torch.randn(t.shape[-1:], dtype=t.dtype))
        for name, t in problem.items()
    }


def assert_as_exact_as_pytorch(
    op: Callable[..., Any], unrolled: Callable[..., Any], problem: dict[str, torch.Tensor | None], **settings: Any
) -> None:
    """The float32 error of op is at most twice that of PyTorch's autograd, both against float64; and a few roundings.

    The error of one number may be small by luck: PyTorch's is the largest of some problems that differ by roundings,
    and a gradient of one element is allowed four times as much.
    """
    backend = {"backend": settings.pop("backend")} if "backend" in settings else {}

    def errors(op: Callable[..., Any], p: dict[str, torch.Tensor | None], **more: Any) -> dict[str, float]:
        exact = results_and_gradients(unrolled, to(p, torch.float64), **settings)
        found = results_and_gradients(op, p, **settings, **more)
        assert found.keys() == exact.keys()
        return {name: distance(found[name], reference) for name, reference in exact.items()}

    ours = errors(op, problem, **backend)
    pytorch = [errors(unrolled, p) for p in (problem, *(jittered(problem) for _ in range(2)))]
    rounding = 4 * torch.finfo(torch.float32).eps
    for name, error in ours.items():
        theirs = max(each[name] for each in pytorch)
        argument = problem.get(name.removeprefix("∂"))
        times = 4 if argument is not None and argument.numel() == 1 else 2
        assert error <= times * theirs + rounding, f"{name}: error {error:.2e}, PyTorch's own {theirs:.2e}"


def assert_as_exact_in_16_bits(
    op: Callable[..., Any], unrolled: Callable[..., Any], problem: dict[str, torch.Tensor | None], **settings: Any
) -> None:
    """The error of op in the problem's 16-bit type is at most twice that of the formula, and a few roundings.

    The formula's codes are rounded after every iteration, as those of the kernels are.
    """
    formula = {name: value for name, value in settings.items() if name != "backend"}
    exact = results_and_gradients(unrolled, to(problem, torch.float64), **formula)
    plain = results_and_gradients(unrolled, problem, **formula)
    for name, found in results_and_gradients(op, problem, **settings).items():
        allowed = 2 * distance(plain[name], exact[name]) + 4 * torch.finfo(plain["result 0"].dtype).eps
        error = distance(found, exact[name])
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"


def assert_close(a: torch.Tensor, b: torch.Tensor, name: str = "result") -> None:
    """Equal up to rounding, in float32 up to that of sums; NaN equals NaN."""
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if a.dtype == torch.float32 else {}
    torch.testing.assert_close(a, b, equal_nan=True, msg=lambda m: f"{name}: {m}", **tolerance)


def assert_all_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Apply `assert_close` to each pair."""
    assert a.keys() == b.keys()
    for name in a:
        assert_close(a[name], b[name], name)


def assert_opcheck_passes(op: str, arguments: tuple[Any, ...]) -> None:
    """torch.library.opcheck of `torch.ops.scvae_fast.NAME`: schema, fake results, autograd, tracing."""
    with warnings.catch_warnings():
        # opcheck itself reads .grad of every argument, of copies that it made of them too.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
        results = torch.library.opcheck(getattr(torch.ops.scvae_fast, op).default, arguments)
    assert set(results.values()) == {"SUCCESS"}, results
