"""The kernels for GPUs beyond what all backends are tested for. Runs on a GPU, and where kernels are interpreted or
emulated: test_triton_interpreted.py and test_cuda_emulated.py start it so.
"""

import contextlib

import pytest
import torch
from problems import (
    FLOAT32_BACKENDS,
    assert_as_exact_as_pytorch,
    clear_of_ties,
    device_of,
    distance,
    keywords,
    lista_problem,
    near_a_tie,
    record,
    results_and_gradients,
    sparse_code_problem,
    to,
    unrolled_ista,
    unrolled_lista,
    unrolled_sparse_code,
)
from torch.utils._python_dispatch import TorchDispatchMode

from scvae_fast import decode, ista, lista, sparse_code
from scvae_fast.ops import backends
from scvae_fast.ops.backends import fused

# Of Triton's, all iterations in one launch, and a launch for each.
WAYS = {"triton, one launch": False, "triton, by iteration": True, "cuda": None}
PRESENT = [way for way in WAYS if way.partition(",")[0] in FLOAT32_BACKENDS]
OPS = {
    "lista": (lista, unrolled_lista),
    "ista": (ista, unrolled_ista),
    "sparse_code": (sparse_code, unrolled_sparse_code),
}

pytestmark = pytest.mark.skipif(not PRESENT, reason="no CUDA device, nothing interpreted or emulated")


@contextlib.contextmanager
def going(way):
    """The name of the backend, while it goes that way."""
    name, by_iteration = way.partition(",")[0], WAYS[way]
    with contextlib.ExitStack() as stack:
        if by_iteration is not None:
            from scvae_fast.ops.backends.triton import launch

            stack.enter_context(launch.forced(by_iteration=by_iteration))
        yield name


@pytest.fixture(params=PRESENT)
def backend(request):
    """Its name, while it goes that way."""
    with going(request.param) as name:
        yield name


# Tensors of each iteration, and what else there is: where "S" is None, the factored form.
FAMILY = {
    "positive": ("lista", "gain", {"positive": True}),
    "thresholds": ("lista", "theta gain", {}),
    "matrices": ("lista", "S theta z0", {}),
    "everything of each": ("sparse_code", "W_e S theta gain", {"positive": True}),
    "given start": ("sparse_code", "W_e S theta z0", {}),
    "one step": ("ista", "theta step", {}),
    "slista": ("ista", "theta steps z0", {}),
    "positive ista": ("ista", "G steps", {"positive": True}),
    "fista": ("ista", "steps momentums", {}),
    "given fista": ("ista", "G theta step momentum z0", {}),
    "steps and matrices": ("sparse_code", "W_e S theta steps momentums", {}),
    "lista-cp": ("sparse_code", "W_e theta", {"S": None}),
    "alista": ("sparse_code", "theta steps z0", {"S": None}),
    "autoencoder": ("sparse_code", "step momentums", {"S": None, "positive": True}),
}


def family_problem(name, M, K, n, n_iter):
    """The operation, its tensors in float64, and its other arguments."""
    op, words, settings = FAMILY[name]
    each, factored = words.split(), "S" in settings
    kappa = op == "ista" or factored or "step" in words
    rows = n_iter + 1 - kappa

    def normal(name, *shape):
        count = {"W_e": rows}.get(name, n_iter)
        return torch.randn((count, *shape) if name in each else shape, dtype=torch.float64)

    D = normal("D", n, K) / K**0.5
    D = D / torch.linalg.matrix_norm(D, ord=2)
    damped = 0.6 * torch.eye(K, dtype=torch.float64) if kappa else 0.0
    problem = {"b": normal("b", M, K)} if op != "sparse_code" else {"x": 2 * normal("x", M, n), "D": D}
    if op == "sparse_code":
        problem["W_e"] = D.T + 0.3 * normal("W_e", K, n) / n**0.5
    if not factored:
        matrix = normal("G" if op == "ista" else "S", K, K) * (0.5 / K**0.5)
        problem.update({"G": matrix + damped} if op == "ista" else {"S": matrix - damped})
    problem["theta"] = 0.2 * torch.rand((rows, K) if "theta" in each else (K,), dtype=torch.float64)
    drawn = {
        "gain": torch.tensor(1.7, dtype=torch.float64),
        "step": torch.tensor(0.8, dtype=torch.float64),
        "steps": 0.8 + 0.1 * torch.randn(n_iter, dtype=torch.float64),
        "momentum": torch.tensor(0.3, dtype=torch.float64),
        "momentums": 0.3 + 0.1 * torch.randn(n_iter, dtype=torch.float64),
        "z0": torch.randn(M, K, dtype=torch.float64).relu(),
    }
    given = {word.removesuffix("s"): drawn[word] for word in each if word in drawn}
    return op, {**problem, **given}, settings


def taken(way):
    """Which of `FAMILY` the backend takes."""
    lacks = backends.BACKENDS[way.partition(",")[0]].lacks
    for name in FAMILY:
        op, problem, settings = family_problem(name, 1, 2, 2, 2)
        positive = settings.get("positive", False)
        if not lacks & set(record(op, 2, positive, **problem).options):
            yield name


FAMILY_BY_WAY = [pytest.param(way, name, id=f"{way}, {name}") for way in PRESENT for name in taken(way)]


@pytest.mark.parametrize(("way", "name"), FAMILY_BY_WAY)
def test_family_in_float32(way, name):
    op, problem, settings = family_problem(name, 37, 70, 33, 3)
    p = clear_of_ties(to(problem, torch.float32), 3, **{k: v for k, v in settings.items() if k != "S"})
    with going(way) as backend:
        assert_as_exact_as_pytorch(*OPS[op], p, n_iter=3, backend=backend, **settings)


@pytest.mark.parametrize(("way", "name"), FAMILY_BY_WAY)
def test_family_in_float16(way, name):
    """At most twice the error of the formula in float16, of rows that no rounding switches a code on or off in."""
    op, problem, settings = family_problem(name, 100, 14, 9, 3)
    p, (ours, formula) = to(problem, torch.float16), OPS[op]
    positive = settings.get("positive", False)
    clear = ~near_a_tie(record(op, 3, positive, **to(p, torch.float64)), 4e-3)
    assert clear.sum() > 20
    p = {k: t[clear] if k in ("x", "b", "z0") else t for k, t in p.items()}
    exact = results_and_gradients(formula, to(p, torch.float64), n_iter=3, **settings)
    plain = results_and_gradients(formula, p, n_iter=3, **settings)
    with going(way) as backend:
        found = results_and_gradients(ours, p, n_iter=3, backend=backend, **settings)
    for key, reference in exact.items():
        allowed = 2 * distance(plain[key], reference) + 4 * torch.finfo(torch.float16).eps
        assert distance(found[key], reference) <= allowed, key


@pytest.mark.parametrize(("way", "name"), FAMILY_BY_WAY)
def test_chunks_of_the_family_change_nothing_but_roundings(way, name, monkeypatch):
    op, problem, settings = family_problem(name, 150, 20, 11, 2)
    p, function = to(problem, torch.float32), OPS[op][0]
    with going(way) as backend:
        whole = results_and_gradients(function, p, n_iter=2, backend=backend, **settings)
        monkeypatch.setattr(fused, "CHUNK_BYTES", 1)
        parts = results_and_gradients(function, p, n_iter=2, backend=backend, **settings)
    for key, gradient in parts.items():
        torch.testing.assert_close(gradient, whole[key], rtol=1e-4, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(("way", "name"), FAMILY_BY_WAY)
def test_one_iteration_of_the_family(way, name):
    op, problem, settings = family_problem(name, 5, 9, 4, 1)
    p = clear_of_ties(to(problem, torch.float32), 1, **{k: v for k, v in settings.items() if k != "S"})
    with going(way) as backend:
        assert_as_exact_as_pytorch(*OPS[op], p, n_iter=1, backend=backend, **settings)


@pytest.mark.parametrize("way", [way for way in PRESENT if "lista-cp" in taken(way)])
def test_factored_form_has_no_matrix_of_atoms_and_atoms(way):
    op, problem, settings = family_problem("lista-cp", 10, 300, 8, 2)
    shapes = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            shapes.extend(t.shape for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    with going(way) as backend, Watching():
        results_and_gradients(OPS[op][0], to(problem, torch.float32), n_iter=2, backend=backend, **settings)
    assert shapes
    assert not [shape for shape in shapes if len(shape) > 1 and min(shape[-2:]) >= 300]


@pytest.mark.parametrize("way", [way for way in PRESENT if "positive" in taken(way)])
@pytest.mark.parametrize("theta", [-0.3, float("nan")])
def test_rows_beyond_the_last_add_nothing(way, theta):
    """A negative θ switches on what there is not, where codes are non-negative; no row is told of it."""
    p = {**to(lista_problem(3, 5), torch.float32), "theta": torch.full((5,), theta)}
    p["S"][0, 0] = torch.inf
    with going(way) as backend:
        found = results_and_gradients(lista, p, n_iter=2, positive=True, backend=backend)
    expected = results_and_gradients(lista, p, n_iter=2, positive=True, backend="eager")
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, equal_nan=True, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("start", ["plain", "gain", "z0"])
@pytest.mark.parametrize("theta", ["atom", "scalar", "zero", "negative"])
@pytest.mark.parametrize("n_iter", [0, 1, 4])
def test_lista_in_float32(backend, start, theta, n_iter):
    p = clear_of_ties(to(lista_problem(70, 130, start=start, theta=theta), torch.float32), n_iter)
    assert_as_exact_as_pytorch(lista, unrolled_lista, p, n_iter=n_iter, backend=backend)


@pytest.mark.parametrize(("M", "K", "n"), [(1, 1, 1), (3, 64, 65), (65, 129, 17), (200, 96, 300)])
@pytest.mark.parametrize("start", ["gain", "z0"])
def test_sparse_code_in_float32(backend, M, K, n, start):
    p = clear_of_ties(to(sparse_code_problem(M, K, n, start=start), torch.float32), 4)
    assert_as_exact_as_pytorch(sparse_code, unrolled_sparse_code, p, n_iter=4, backend=backend)


@pytest.mark.parametrize("n_iter", [0, 3])
@pytest.mark.parametrize("parameters", ["float16", "float32"])
def test_float16(backend, n_iter, parameters):
    """At most twice the error of the formula in float16; its codes are rounded after every iteration, as ours are."""
    p = to(sparse_code_problem(66, 70, 33), torch.float16)
    if parameters == "float32":
        p = {**p, "theta": p["theta"].float(), "gain": p["gain"].float()}
    exact = results_and_gradients(unrolled_sparse_code, to(p, torch.float64), n_iter=n_iter)
    plain = results_and_gradients(unrolled_sparse_code, to(p, torch.float16), n_iter=n_iter)
    ours = results_and_gradients(sparse_code, p, n_iter=n_iter, backend=backend)
    for name, reference in exact.items():
        allowed = 2 * distance(plain[name], reference) + 4 * torch.finfo(torch.float16).eps
        assert distance(ours[name], reference) <= allowed, name
    assert ours["result 0"].dtype == torch.float16
    assert ours["∂theta"].dtype == p["theta"].dtype


@pytest.mark.parametrize("loss", ["z", "x_hat"])
def test_gradients_of_one_result(backend, loss):
    p = to(sparse_code_problem(20, 30, 10), torch.float32)
    found = []
    for name in (backend, "eager"):
        leaves = {k: t.to(device_of(name), copy=True).requires_grad_() for k, t in keywords(p).items()}
        z, x_hat = sparse_code(**leaves, n_iter=3, backend=name)
        (z if loss == "z" else x_hat).square().sum().backward()
        found.append({k: None if t.grad is None else t.grad.cpu() for k, t in leaves.items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(
            gradient, found[1][name], rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_chunks_and_splits_change_nothing_but_roundings(backend, monkeypatch):
    p = to(sparse_code_problem(150, 40, 20), torch.float32)
    whole = results_and_gradients(sparse_code, p, n_iter=3, backend=backend)
    monkeypatch.setattr(fused, "CHUNK_BYTES", 1)
    if backend == "triton":
        from scvae_fast.ops.backends.triton import launch

        monkeypatch.setattr(launch, "ROWS_PER_SPLIT", 16)
        monkeypatch.setattr(launch, "CHAIN", 128)
    parts = results_and_gradients(sparse_code, p, n_iter=3, backend=backend)
    for name, gradient in parts.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_same_bits_every_time(backend):
    p = to(sparse_code_problem(100, 40, 20), torch.float32)
    first, second = (results_and_gradients(sparse_code, p, n_iter=3, backend=backend) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_no_rows(backend):
    p = {k: t.to(device_of(backend)) for k, t in keywords(to(sparse_code_problem(0, 8, 5), torch.float32)).items()}
    p["S"].requires_grad_()
    z, x_hat = sparse_code(**p, n_iter=2, backend=backend)
    assert z.shape == (0, 8)
    assert x_hat.shape == (0, 5)
    (z.sum() + x_hat.sum()).backward()
    assert torch.equal(p["S"].grad, torch.zeros_like(p["S"]))


def test_narrow_inhibition_is_widened(backend):
    p = {k: t.to(device_of(backend)) for k, t in keywords(to(lista_problem(9, 12), torch.float32)).items()}
    S = p.pop("S").bfloat16()
    found = lista(S=S, **p, n_iter=3, backend=backend)
    torch.testing.assert_close(found, lista(S=S.float(), **p, n_iter=3, backend=backend), rtol=0, atol=0)


def test_float64_is_declined_with_a_reason(backend):
    z, D = (torch.zeros(shape, dtype=torch.float64, device=device_of(backend)) for shape in ((2, 3), (4, 3)))
    with pytest.raises(
        RuntimeError, match=f"decode: backend '{backend}' can't be used: it.*float32.*, got torch.float64"
    ):
        decode(z, D, backend=backend)
