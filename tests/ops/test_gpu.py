"""The GPU kernels on a card: large problems, streams, graphs, torch.compile, no synchronisation with the host."""

import warnings

import pytest
import torch
from problems import keywords, lista_problem, sparse_code_problem, to

from scvae_fast import lista, sparse_code
from scvae_fast.ops.backends import BACKENDS, trial

PRESENT = [name for name in trial.NAMES if torch.cuda.is_available() and BACKENDS[name].unusable() is None]

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not PRESENT, reason="no CUDA device that the kernels can use")]


@pytest.fixture(params=PRESENT)
def backend(request):
    return request.param


def on_card(problem, dtype=torch.float32):
    return {name: t.cuda() for name, t in keywords(to(problem, dtype)).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("M", [1, 4097, 1 << 20])
def test_rows_do_not_depend_on_the_number_of_rows(backend, dtype, M):
    """Some rows of a large problem, including the last, compared with a problem of these alone, in float64."""
    p = on_card(sparse_code_problem(min(M, 4097), 512, 256), dtype)
    p["x"] = p["x"].repeat(-(-M // len(p["x"])), 1)[:M]
    z, x_hat = sparse_code(**p, n_iter=5, backend=backend)
    some = torch.tensor([0, M // 2, M - 1], device="cuda")
    exact = sparse_code(**{k: (t[some] if k == "x" else t).double() for k, t in p.items()}, n_iter=5, backend="eager")
    tolerance = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}[dtype]
    for found, reference in zip((z, x_hat), exact, strict=True):
        assert (found[some].double() - reference).norm() <= tolerance * reference.norm()


def test_more_than_two_billion_elements(backend):
    M, K = (1 << 31) // 512 + 100, 512
    p = on_card(lista_problem(128, K), torch.bfloat16)
    b = p.pop("b")
    large = b.repeat(M // 128 + 1, 1)[:M]
    z = lista(large, **p, n_iter=2, backend=backend)
    expected = lista(b, **p, n_iter=2, backend=backend)
    assert z.numel() > 1 << 31
    for begin in (0, M // 256 * 128, M // 128 * 128):
        rows = z[begin : begin + 128]
        torch.testing.assert_close(rows, expected[: len(rows)], rtol=2e-2, atol=2e-2)


@pytest.mark.skipif("triton" not in PRESENT, reason="of Triton's kernels alone")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("M", [1, 300, 70_000])
def test_one_launch_per_iteration_gives_the_same_as_a_single_launch(dtype, M):
    from scvae_fast.ops.backends.triton import launch

    p, found = on_card(sparse_code_problem(M, 200, 70, start="plain"), dtype), []
    for by_iteration in (False, True):
        with launch.forced(by_iteration):
            leaves = {name: t.clone().requires_grad_() for name, t in p.items()}
            results = sparse_code(**leaves, n_iter=4, backend="triton")
            torch.autograd.backward(results, [torch.ones_like(r) for r in results])
            found.append([t.detach().double() for t in (*results, *(leaf.grad for leaf in leaves.values()))])
    tolerance = {torch.float32: 1e-3, torch.bfloat16: 8e-2}[dtype]  # a code on or off by a rounding is a gradient more
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() <= tolerance * one.norm()


def test_second_stream(backend):
    p = on_card(sparse_code_problem(300, 96, 40))
    expected = sparse_code(**p, n_iter=4, backend=backend)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = sparse_code(**p, n_iter=4, backend=backend)
    stream.synchronize()
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("M", [300, 9000])  # a launch for every iteration; one for all
def test_cuda_graph(backend, M):
    p = on_card(sparse_code_problem(M, 96, 40))
    sparse_code(**p, n_iter=4, backend=backend)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        z, x_hat = sparse_code(**p, n_iter=4, backend=backend)
    p["x"].copy_(torch.randn_like(p["x"]))
    graph.replay()
    for a, b in zip((z, x_hat), sparse_code(**p, n_iter=4, backend=backend), strict=True):
        assert torch.equal(a, b)


def test_compiles_into_one_graph(backend):
    p = on_card(sparse_code_problem(64, 48, 20))
    compiled = torch.compile(lambda **q: sparse_code(**q, n_iter=3, backend=backend), fullgraph=True)
    for a, b in zip(compiled(**p), sparse_code(**p, n_iter=3, backend=backend), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_host_synchronisation(backend, dtype):
    p = {name: t.requires_grad_() for name, t in on_card(sparse_code_problem(300, 96, 40), dtype).items()}

    def step():
        z, x_hat = sparse_code(**p, n_iter=4, backend=backend)
        torch.autograd.backward([z, x_hat], [torch.ones_like(z), torch.ones_like(x_hat)])

    step()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns once, when the mode is set already
            torch.cuda.set_sync_debug_mode("error")
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(t.grad is not None and t.grad.isfinite().all() for t in p.values())
