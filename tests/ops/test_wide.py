"""The factored form over many atoms: lists of codes, slabs of matrices, and their memory."""

import os
import subprocess
import sys

import pytest
import torch
from problems import assert_all_close, assert_as_exact_as_pytorch, results_and_gradients, to

from scvae_fast import sparse_code
from scvae_fast.ops import operations

SPARSE = (130, 19, 1100, 4)  # M, n, K, T: run back slab by slab because few codes are not zero
LARGE = (9, 520, 8100, 3)  # forward and backward, however dense the codes are


def problem(M, n, K, T, *, each=(), step=None, theta=0.7):
    """x, W_e, theta, D, and step, whose codes are of the order of 1; the larger theta, the fewer."""
    D = torch.randn(n, K, dtype=torch.float64)
    D /= torch.linalg.matrix_norm(D, ord=2)
    W_e = D.T.contiguous() + 0.1 * torch.randn((T, K, n) if "W_e" in each else (K, n), dtype=torch.float64) / n
    thresholds = theta * (1 + 0.2 * torch.rand((T, K) if "theta" in each else (K,), dtype=torch.float64))
    found = {"x": 3 * torch.randn(M, n, dtype=torch.float64), "W_e": W_e, "theta": thresholds, "D": D}
    if step is not None:
        found["step"] = 0.8 + 0.2 * torch.rand((T,) if step == "each" else (), dtype=torch.float64)
    return found


def factored(**arguments):
    return sparse_code(S=None, **arguments)


def assert_as_specified(p, n_iter, **settings):
    ours = results_and_gradients(factored, p, n_iter=n_iter, backend="cpu", **settings)
    assert_all_close(ours, results_and_gradients(factored, p, n_iter=n_iter, backend="eager", **settings))
    return ours["result 0"]


@pytest.mark.parametrize("most_kept", [0, operations.MOST_KEPT])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("step", [None, "one", "each"])
@pytest.mark.parametrize("each", [(), ("W_e",), ("theta",), ("W_e", "theta")])
def test_sparse_codes(each, step, positive, most_kept, monkeypatch):
    monkeypatch.setattr(operations, "MOST_KEPT", most_kept)
    codes = assert_as_specified(problem(*SPARSE, each=each, step=step), SPARSE[-1], positive=positive)
    assert 0 < float((codes != 0).double().mean()) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("most_kept", [0, operations.MOST_KEPT])
@pytest.mark.parametrize(
    ("each", "step", "positive"),
    [((), None, False), ((), "one", True), (("W_e", "theta"), "each", False), (("W_e",), None, True)],
)
def test_large_dictionaries(each, step, positive, most_kept, monkeypatch):
    monkeypatch.setattr(operations, "MOST_KEPT", most_kept)
    p = problem(*LARGE, each=each, step=step, theta=0.3)
    codes = assert_as_specified(p, LARGE[-1], positive=positive)
    assert float((codes != 0).double().mean()) > 0.2


@pytest.mark.parametrize("theta", [0.7, 1e3])
def test_more_rows_than_a_chunk_has(theta):
    codes = assert_as_specified(problem(2100, 8, 1030, 3, theta=theta), 3)
    assert codes.any() == (theta < 1)


@pytest.mark.slow
def test_lists_too_long_for_a_chunk():
    """200 rows of 8200 atoms in use, four times, are 110 MiB of lists."""
    codes = assert_as_specified(problem(200, 512, 8200, 4, theta=-0.1), 4)
    assert codes.all()


@pytest.mark.parametrize("sizes", [SPARSE, LARGE])
@pytest.mark.parametrize("used", [(0,), (1,)])
def test_gradient_of_one_result_alone(sizes, used):
    p = {k: t.requires_grad_() for k, t in problem(*sizes).items()}
    found = []
    for backend in ("cpu", "eager"):
        results = factored(**p, n_iter=sizes[-1], backend=backend)
        torch.manual_seed(1)
        loss = sum((results[i] * torch.randn(results[i].shape, dtype=torch.float64)).sum() for i in used)
        gradients = torch.autograd.grad(loss, list(p.values()), allow_unused=True, materialize_grads=True)
        found.append(dict(zip(p, gradients, strict=True)))
    assert_all_close(*found)


@pytest.mark.parametrize("learned", ["x", "W_e", "theta", "D", "step"])
def test_frozen_inputs(learned):
    p = problem(*SPARSE, step="each")
    p[learned].requires_grad_()
    found = []
    for backend in ("cpu", "eager"):
        z, x_hat = factored(**p, n_iter=SPARSE[-1], backend=backend)
        found.append({learned: torch.autograd.grad(z.square().sum() + x_hat.square().sum(), p[learned])[0]})
    assert_all_close(*found)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [SPARSE, LARGE])
def test_float32_error(sizes):
    p = to(problem(*sizes, step="one"), torch.float32)

    def formula(**arguments):
        return factored(**arguments, backend="eager")

    assert_as_exact_as_pytorch(factored, formula, p, n_iter=sizes[-1], backend="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("sizes", "where"),
    [(SPARSE, name) for name in ("x", "W_e", "D", "theta", "grad_z", "grad_x_hat")]
    + [(LARGE, name) for name in ("theta", "grad_x_hat")],
)
def test_not_finite_values_come_out_where_the_formula_puts_them(sizes, where, value):
    M, n, K, T = sizes
    p = problem(*sizes)
    grads = {"grad_z": torch.randn(M, K, dtype=torch.float64), "grad_x_hat": torch.randn(M, n, dtype=torch.float64)}
    place = {**p, **grads}[where].view(-1)
    place[len(place) // 2] = value
    found = []
    for backend in ("cpu", "eager"):
        leaves = {k: t.detach().clone().requires_grad_() for k, t in p.items()}
        results = factored(**leaves, n_iter=T, backend=backend)
        gradients = torch.autograd.grad(results, list(leaves.values()), list(grads.values()))
        found.append(dict(zip(("z", "x_hat", *p), (*(r.detach() for r in results), *gradients), strict=True)))
    assert_all_close(*found)


@pytest.mark.parametrize("sizes", [(1100, 19, 1100, 3), LARGE])
def test_results_do_not_depend_on_the_number_of_threads(sizes):
    single = to(problem(*sizes, step="each"), torch.float32)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(results_and_gradients(factored, single, n_iter=sizes[-1], backend="cpu"))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(other[name], t) for name, t in found[0].items())


PEAK = """
import torch
from benchmarks.memory import resident_at_peak
from scvae_fast import sparse_code
M, n, K, T = 1024, 768, 16_384, 8
D = torch.nn.functional.normalize(torch.randn(n, K), dim=0)
leaves = [t.requires_grad_() for t in (torch.randn(M, n), D.T.contiguous(), D, torch.tensor(0.05), torch.tensor(0.025))]
grads = [torch.randn(M, K), torch.randn(M, n)]
def call():
    x, W_e, D, theta, step = leaves
    results = sparse_code(x, W_e, None, theta, D, T, step=step, positive=True, backend="cpu")
    found = (*results, *torch.autograd.grad(results, leaves, grads))
    call.bytes, call.density = sum(t.nbytes for t in found), float((results[0] != 0).float().mean())
peak = resident_at_peak(call)
print(call.density, (peak - call.bytes) / 2**20)
"""


@pytest.mark.processes
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is counted only on Linux")
def test_memory_of_a_large_dictionary():
    """In addition to arguments, results and gradients."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, env=environment)
    density, mebibytes = map(float, done.stdout.split())
    assert 0.005 < density < 0.05
    assert mebibytes < 256
