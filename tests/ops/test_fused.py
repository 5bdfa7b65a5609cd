"""The kernels for GPUs beyond what all backends are tested for. Runs on a GPU, and where kernels are interpreted or
emulated: test_triton_interpreted.py and test_cuda_emulated.py start it so.
"""

import contextlib

import pytest
import torch
from problems import (
    FLOAT32_BACKENDS,
    VARIANTS,
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
    takers,
    to,
    unrolled_ista,
    unrolled_lista,
    unrolled_sparse_code,
    variant,
)
from torch.utils._python_dispatch import TorchDispatchMode

from scvae_fast import decode, ista, lista, sparse_code
from scvae_fast.ops.backends import fused

# Of Triton's, all iterations in one launch, and a launch for each.
WAYS = {"triton, one launch": False, "triton, by iteration": True, "cuda": None}
PRESENT = [way for way in WAYS if way.partition(",")[0] in FLOAT32_BACKENDS]
UNROLLED = {lista: unrolled_lista, ista: unrolled_ista, sparse_code: unrolled_sparse_code}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not PRESENT, reason="no CUDA device, nothing interpreted or emulated"),
]


@contextlib.contextmanager
def going(way):
    """The name of the backend, while it uses that launch mode."""
    name, by_iteration = way.partition(",")[0], WAYS[way]
    with contextlib.ExitStack() as stack:
        if by_iteration is not None:
            from scvae_fast.ops.backends.triton import launch

            stack.enter_context(launch.forced(by_iteration=by_iteration))
        yield name


@pytest.fixture(params=PRESENT)
def backend(request):
    """The name of the backend, while it uses that launch mode."""
    with going(request.param) as name:
        yield name


VARIANTS_BY_WAY = [
    pytest.param(way, name, id=f"{way}, {name}")
    for way in PRESENT
    for name in VARIANTS
    if way.partition(",")[0] in takers(name)
]


@pytest.mark.parametrize(("way", "name"), VARIANTS_BY_WAY)
def test_family_in_float32(way, name):
    op, problem, settings = variant(name, 20, 70, 33, 3)
    p = clear_of_ties(to(problem, torch.float32), **settings)
    with going(way) as backend:
        assert_as_exact_as_pytorch(op, UNROLLED[op], p, backend=backend, **settings)


@pytest.mark.parametrize(("way", "name"), VARIANTS_BY_WAY)
def test_family_in_float16(way, name):
    """At most twice the error of the formula in float16, for rows in which rounding switches no code on or off."""
    op, problem, settings = variant(name, 40, 14, 9, 3)
    p = to(problem, torch.float16)
    clear = ~near_a_tie(record(op.__name__, **to(p, torch.float64), **settings), 4e-3)
    assert clear.sum() > 20
    p = {k: t[clear] if k in ("x", "b", "z0") else t for k, t in p.items()}
    exact = results_and_gradients(UNROLLED[op], to(p, torch.float64), **settings)
    plain = results_and_gradients(UNROLLED[op], p, **settings)
    with going(way) as backend:
        found = results_and_gradients(op, p, backend=backend, **settings)
    for key, reference in exact.items():
        allowed = 2 * distance(plain[key], reference) + 4 * torch.finfo(torch.float16).eps
        assert distance(found[key], reference) <= allowed, key


@pytest.mark.parametrize(("way", "name"), VARIANTS_BY_WAY)
def test_chunks_of_the_family_change_nothing_but_roundings(way, name, monkeypatch):
    op, problem, settings = variant(name, 37, 20, 11, 2)
    p = to(problem, torch.float32)
    with going(way) as backend:
        whole = results_and_gradients(op, p, backend=backend, **settings)
        monkeypatch.setattr(fused, "CHUNK_BYTES", 1)
        parts = results_and_gradients(op, p, backend=backend, **settings)
    for key, gradient in parts.items():
        torch.testing.assert_close(gradient, whole[key], rtol=1e-4, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(("way", "name"), VARIANTS_BY_WAY)
def test_one_iteration_of_the_family(way, name):
    op, problem, settings = variant(name, 5, 9, 4, 1)
    p = clear_of_ties(to(problem, torch.float32), **settings)
    with going(way) as backend:
        assert_as_exact_as_pytorch(op, UNROLLED[op], p, backend=backend, **settings)


@pytest.mark.parametrize("way", [way for way in PRESENT if way.partition(",")[0] in takers("LISTA-CP")])
def test_factored_form_has_no_matrix_of_atoms_and_atoms(way):
    op, problem, settings = variant("LISTA-CP", 10, 300, 8, 2)
    shapes = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            shapes.extend(t.shape for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    with going(way) as backend, Watching():
        results_and_gradients(op, to(problem, torch.float32), backend=backend, **settings)
    assert shapes
    assert not [shape for shape in shapes if len(shape) > 1 and min(shape[-2:]) >= 300]


@pytest.mark.parametrize("way", [way for way in PRESENT if way.partition(",")[0] in takers("non-negative lista")])
@pytest.mark.parametrize("theta", [-0.3, float("nan")])
def test_rows_beyond_the_last_add_nothing(way, theta):
    """With non-negative codes, a negative θ makes padding rows nonzero; these must not contribute."""
    p = {**to(lista_problem(3, 5), torch.float32), "theta": torch.full((5,), theta)}
    p["S"][0, 0] = torch.inf
    with going(way) as backend:
        found = results_and_gradients(lista, p, n_iter=2, positive=True, backend=backend)
    expected = results_and_gradients(lista, p, n_iter=2, positive=True, backend="eager")
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, equal_nan=True, msg=lambda m, key=key: f"{key}: {m}")


STARTS, THETAS, COUNTS = ("plain", "gain", "z0"), ("atom", "scalar", "zero", "negative"), (0, 1, 4)
# A Latin square: every two of them meet.
MEETING = [(s, theta, COUNTS[(i + j) % 3]) for i, s in enumerate(STARTS) for j, theta in enumerate(THETAS)]


@pytest.mark.parametrize(("start", "theta", "n_iter"), MEETING)
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
    """At most twice the error of the formula in float16, whose codes are also rounded after every iteration."""
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
