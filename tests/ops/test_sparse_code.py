"""sparse_code on every backend that can run here."""

import pytest
import torch
from problems import (
    BACKENDS,
    FLOAT32_BACKENDS,
    QUICK_BACKENDS,
    SPARSE_CODE,
    assert_all_close,
    assert_as_exact_as_pytorch,
    assert_close,
    assert_opcheck_passes,
    bytes_kept,
    clear_of_ties,
    keywords,
    results_and_gradients,
    sparse_code_problem,
    suited,
    to,
    unrolled_sparse_code,
)

from scvae_fast import sparse_code
from scvae_fast.ops import operations

EVERY_BACKEND = pytest.mark.parametrize("backend", FLOAT32_BACKENDS)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("start", ["plain", "gain", "z0"])
@pytest.mark.parametrize("n_iter", [0, 1, 3])
def test_gradients_by_finite_differences(backend, start, n_iter):
    problem = keywords(sparse_code_problem(3, 5, 4, start=start))
    leaves = {k: t.requires_grad_() for k, t in problem.items()}

    def call(*tensors):
        return sparse_code(**dict(zip(leaves, tensors, strict=True)), n_iter=n_iter, backend=backend)

    assert torch.autograd.gradcheck(call, tuple(leaves.values()))


@pytest.mark.parametrize("backend", QUICK_BACKENDS)
@pytest.mark.parametrize(
    ("M", "K", "n", "n_iter"),
    [
        (1, 1, 1, 5),
        (63, 36, 1, 0),
        (63, 500, 60, 16),
        (1, 512, 256, 30),
        (4097, 36, 60, 1),
        (63, 529, 256, 5),
        (513, 512, 256, 5),
    ],
)
def test_float32_error(backend, M, K, n, n_iter):
    single = to(sparse_code_problem(M, K, n), torch.float32)
    assert_as_exact_as_pytorch(
        sparse_code, unrolled_sparse_code, clear_of_ties(single, n_iter), n_iter=n_iter, backend=backend
    )


@EVERY_BACKEND
@pytest.mark.parametrize("shape", [(6,), (2, 3, 6), (0, 6)])
def test_leading_dimensions_and_empty_batch(backend, shape):
    p = suited(backend, {**sparse_code_problem(1, 5, 6, start="plain"), "x": torch.randn(shape)})
    found = results_and_gradients(sparse_code, p, n_iter=2, backend=backend)
    assert found["result 0"].shape == (*shape[:-1], 5)
    assert found["result 1"].shape == shape
    assert_all_close(found, results_and_gradients(unrolled_sparse_code, p, n_iter=2))


@EVERY_BACKEND
def test_strides_of_an_images_latents(backend):
    p = suited(backend, sparse_code_problem(1, 8, 4, start="plain"))
    latents = torch.randn(2, 4, 3, 5).to(p["D"]).requires_grad_()  # (B, n, h, w)
    z, x_hat = sparse_code(**{**keywords(p), "x": latents.movedim(1, -1)}, n_iter=3, backend=backend)
    assert z.shape == (2, 3, 5, 8)
    x_hat.movedim(-1, 1).square().sum().backward()
    rows = latents.detach().movedim(1, -1).reshape(-1, 4).requires_grad_()
    unrolled_sparse_code(rows, p["W_e"], p["S"], p["theta"], p["D"], 3)[1].square().sum().backward()
    assert_close(latents.grad.movedim(1, -1).reshape(-1, 4), rows.grad)


@EVERY_BACKEND
@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("learned", [None, *SPARSE_CODE[:-1]])
def test_one_result_used_and_one_input_learned(backend, used, learned):
    p = suited(backend, sparse_code_problem(4, 6, 5))

    def gradients(op):
        chosen = {k: t for k, t in keywords(p).items() if learned in (None, k)}
        leaves = {k: t.detach().clone().requires_grad_() for k, t in chosen.items()}
        op(**{**keywords(p), **leaves}, n_iter=2)[used].square().sum().backward()
        return {k: torch.zeros_like(t) if t.grad is None else t.grad for k, t in leaves.items()}

    if learned == "D" and used == 0:  # the codes don't depend on D: nothing to differentiate but zeros
        z, _ = sparse_code(**{**keywords(p), "D": p["D"].requires_grad_()}, n_iter=2, backend=backend)
        (d_D,) = torch.autograd.grad(z.sum(), p["D"], allow_unused=True, materialize_grads=True)
        assert not d_D.any()
    else:
        ours = gradients(lambda **arguments: sparse_code(**arguments, backend=backend))
        assert_all_close(ours, gradients(unrolled_sparse_code))


@EVERY_BACKEND
@pytest.mark.parametrize("n_iter", [5, 30])
def test_what_autograd_keeps_is_x_and_z(backend, n_iter, monkeypatch):
    monkeypatch.setattr(operations, "MOST_KEPT", 0)
    M, K, n = 64, 32, 16
    problem = keywords(to(suited(backend, sparse_code_problem(M, K, n)), torch.float32))
    leaves = {k: t.requires_grad_() for k, t in problem.items()}
    kept = bytes_kept(lambda: sparse_code(**leaves, n_iter=n_iter, backend=backend))
    assert kept == 4 * (M * n + M * K + K * n + K * K + K + n * K + 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_types_are_rounded_once(dtype):
    p = to(sparse_code_problem(8, 16, 6), dtype)
    wide = results_and_gradients(sparse_code, to(p, torch.float32), n_iter=4, backend="eager")
    found = results_and_gradients(sparse_code, p, n_iter=4)
    for i in range(2):
        assert torch.equal(found[f"result {i}"], wide[f"result {i}"].to(dtype))
    assert all(found[f"∂{name}"].dtype == dtype for name in keywords(p))


@EVERY_BACKEND
@pytest.mark.parametrize("start", ["plain", "z0", "gain"])
def test_opcheck(backend, start):
    p = suited(backend, sparse_code_problem(3, 4, 5, start=start))
    tensors = [t if t is None else t.requires_grad_() for t in p.values()]
    assert_opcheck_passes("sparse_code", (*tensors, None, None, 3, False, backend, True))


@EVERY_BACKEND
def test_compile_without_graph_breaks(backend):
    p = suited(backend, sparse_code_problem(6, 8, 5))

    def bottleneck(**arguments):
        return sparse_code(**arguments, n_iter=3, backend=backend)

    compiled = torch.compile(bottleneck, fullgraph=True, backend="aot_eager")
    assert_all_close(results_and_gradients(compiled, p), results_and_gradients(bottleneck, p))


def test_autocast_runs_in_float32():
    p = keywords(to(sparse_code_problem(4, 6, 5), torch.float32))
    leaves = {k: t.requires_grad_() for k, t in p.items()}
    expected = results_and_gradients(sparse_code, p, n_iter=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, x_hat = sparse_code(**leaves, n_iter=3)
        mixed, _ = sparse_code(**{**leaves, "x": p["x"].bfloat16()}, n_iter=3)
        mixed.sum().backward()
    assert torch.equal(z, expected["result 0"])
    assert torch.equal(x_hat, expected["result 1"])
    assert mixed.dtype == torch.float32
    assert leaves["S"].grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"x": None}, TypeError, "sparse_code: x must be a torch.Tensor, got NoneType"),
        (
            {"x": torch.zeros(3, 4)},
            ValueError,
            r"sparse_code: W_e must be \(K, n\) with 4 columns, got \[6, 5\]",
        ),
        ({"W_e": torch.zeros(6)}, ValueError, r"sparse_code: W_e must be \(K, n\) with 5 columns, got \[6\]"),
        ({"W_e": torch.zeros(7, 5)}, ValueError, r"sparse_code: D must be .* = \[5, 7\], got \[5, 6\]"),
        ({"D": torch.zeros(6, 5)}, ValueError, r"sparse_code: D must be .* = \[5, 6\], got \[6, 5\]"),
        ({"S": torch.zeros(5, 5)}, ValueError, r"sparse_code: S must be .* = \[6, 6\] or .*, got \[5, 5\]"),
        ({"theta": torch.zeros(5)}, ValueError, r"sparse_code: theta must be one value, \(K,\) = \[6\]"),
        ({"z0": torch.zeros(3, 6)}, ValueError, "sparse_code: gain scales the start that z0 replaces"),
        ({"gain": 1, "z0": torch.zeros(3, 5)}, ValueError, r"sparse_code: z0 must be .* = \[3, 6\]"),
        ({"D": torch.zeros(5, 6).double()}, TypeError, "sparse_code: D must have the dtype of x"),
        (
            {"W_e": torch.zeros(6, 5, device="meta")},
            ValueError,
            "sparse_code: W_e must be on the device of x",
        ),
        ({"n_iter": None}, TypeError, "sparse_code: n_iter must be an int, got NoneType"),
        ({"backend": "cuda-graph"}, ValueError, "sparse_code: backend must be one of"),
    ],
)
def test_bad_input_names_the_argument(bad, error, message):
    good = keywords(to(sparse_code_problem(3, 6, 5), torch.float32))
    with pytest.raises(error, match=message):
        sparse_code(**{**good, "n_iter": 2, **bad})
