"""decode on every backend that can run here."""

import pytest
import torch
from problems import (
    BACKENDS,
    FLOAT32_BACKENDS,
    QUICK_BACKENDS,
    assert_all_close,
    assert_as_exact_as_pytorch,
    assert_close,
    assert_opcheck_passes,
    results_and_gradients,
    suited,
    to,
)

from scvae_fast import decode
from scvae_fast.ops import native

EVERY_BACKEND = pytest.mark.parametrize("backend", FLOAT32_BACKENDS)


def matmul(z, D):
    return z @ D.T


def problem(M, K, n):
    codes = torch.randn(M, K, dtype=torch.float64)
    return {"z": codes * (codes.abs() > 1), "D": torch.randn(n, K, dtype=torch.float64)}


@pytest.mark.parametrize("backend", QUICK_BACKENDS)
@pytest.mark.parametrize(
    ("M", "K", "n"),
    [(1, 1, 1), (63, 36, 60), (1, 512, 256), (4097, 36, 1), (63, 529, 60), (4097, 500, 256), (300, 512, 1)],
)
def test_float32_error(backend, M, K, n):
    single = to(problem(M, K, n), torch.float32)
    assert_as_exact_as_pytorch(decode, matmul, single, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_by_finite_differences(backend):
    p = {k: t.requires_grad_() for k, t in problem(4, 6, 3).items()}
    assert torch.autograd.gradcheck(lambda z, D: decode(z, D, backend=backend), (p["z"], p["D"]))


@EVERY_BACKEND
@pytest.mark.parametrize("shape", [(5,), (2, 3, 5), (0, 5)])
def test_leading_dimensions_and_empty_batch(backend, shape):
    p = suited(backend, {"z": torch.randn(shape), "D": torch.randn(4, 5)})
    found = results_and_gradients(decode, p, backend=backend)
    assert found["result 0"].shape == (*shape[:-1], 4)
    assert_all_close(found, results_and_gradients(matmul, p))


@EVERY_BACKEND
def test_strides(backend):
    p = suited(backend, {"z": torch.randn(6, 10), "D": torch.randn(5, 4)})
    z, D = p["z"][::2, 1::2].requires_grad_(), p["D"].T.requires_grad_()
    x_hat = decode(z, D, backend=backend)
    assert_close(x_hat, z @ D.T)
    found = torch.autograd.grad(x_hat.sum(), (z, D))
    expected = torch.autograd.grad((z @ D.T).sum(), (z, D))
    assert_all_close(dict(zip("zD", found, strict=True)), dict(zip("zD", expected, strict=True)))


@EVERY_BACKEND
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["z", "D", "grad"])
def test_not_finite_values_come_out_where_the_formula_puts_them(backend, value, where):
    p = suited(backend, {**problem(5, 6, 4), "grad": torch.randn(5, 4)})
    p["z"][:, 3] = 0
    p[where][2, 3] = value

    def run(op):
        z, D = (p[name].detach().clone().requires_grad_() for name in "zD")
        x_hat = op(z, D)
        d_z, d_D = torch.autograd.grad(x_hat, (z, D), p["grad"])
        return {"x_hat": x_hat.detach(), "d_z": d_z, "d_D": d_D}

    found = run(lambda z, D: decode(z, D, backend=backend))
    assert_all_close(found, run(matmul))
    assert not all(t.isfinite().all() for t in found.values())


@EVERY_BACKEND
@pytest.mark.parametrize("learned", ["z", "D"])
def test_frozen_inputs(backend, learned):
    p = suited(backend, problem(4, 5, 3))
    p[learned].requires_grad_()
    decode(p["z"], p["D"], backend=backend).sum().backward()
    (expected,) = torch.autograd.grad((p["z"] @ p["D"].T).sum(), p[learned])
    assert_close(p[learned].grad, expected)
    assert p["D" if learned == "z" else "z"].grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_types_are_rounded_once(dtype):
    p = to(problem(4, 64, 3), dtype)
    x_hat = decode(p["z"], p["D"])
    assert x_hat.dtype == dtype
    assert torch.equal(x_hat, (p["z"].float() @ p["D"].float().T).to(dtype))


@EVERY_BACKEND
def test_opcheck_and_compile(backend):
    p = {k: t.requires_grad_() for k, t in suited(backend, problem(4, 5, 3)).items()}
    assert_opcheck_passes("decode", (p["z"], p["D"], backend))
    compiled = torch.compile(lambda z, D: decode(z, D, backend=backend), fullgraph=True, backend="aot_eager")
    assert_all_close(results_and_gradients(compiled, p), results_and_gradients(matmul, p))


@pytest.mark.parametrize(
    ("shape", "density", "kernels"),
    [
        ((512, 512, 256), 0.05, ["decode_forward", "decode_backward"]),
        ((512, 512, 256), 0.2, ["decode_forward"]),
        ((512, 512, 256), 0.6, []),
        ((511, 512, 256), 0.05, []),
        ((512, 128, 64), 0.05, []),
    ],
)
def test_kernels_run_where_they_are_faster_than_pytorch(shape, density, kernels, monkeypatch):
    called = []

    class Spied:
        def __getattr__(self, name):
            called.append(name)
            return getattr(module, name)

    module = native.module
    monkeypatch.setattr(native, "module", Spied())
    p = problem(*shape)
    p["z"] = torch.where(torch.rand_like(p["z"]) < density, torch.randn_like(p["z"]), 0.0)
    found = results_and_gradients(decode, p)
    assert called == kernels
    assert_all_close(found, results_and_gradients(matmul, p))


@pytest.mark.parametrize("backend", [None, "eager"])
def test_few_rows_are_decoded_by_pytorch(backend):
    z, D = torch.randn(3, 4, requires_grad=True), torch.randn(2, 4)
    x_hat = decode(z, D, backend=backend)
    assert torch.equal(x_hat, z @ D.T)
    assert "decode" not in x_hat.grad_fn.name()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(decode(z, D, backend=backend), x_hat)


def test_cpu_results_do_not_depend_on_the_number_of_threads():
    single = to(problem(301, 70, 33), torch.float32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(results_and_gradients(decode, single, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(other[name], t) for name, t in found[0].items())


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"z": 1.0}, TypeError, "decode: z must be a torch.Tensor, got float"),
        ({"z": torch.zeros(3, 5)}, ValueError, r"decode: D must be \(n, K\) with 5 columns, got \[2, 4\]"),
        ({"D": torch.zeros(4)}, ValueError, r"decode: D must be \(n, K\) with 4 columns, got \[4\]"),
        ({"D": torch.zeros(0, 4)}, ValueError, r"decode: D must be \(n, K\)"),
        ({"D": torch.zeros(2, 4).double()}, TypeError, "decode: D must have the dtype of z"),
        ({"z": torch.zeros(3, 4).long()}, TypeError, "decode: z must be float32"),
    ],
)
def test_bad_input_names_the_argument(bad, error, message):
    with pytest.raises(error, match=message):
        decode(**{"z": torch.zeros(3, 4), "D": torch.zeros(2, 4), **bad})
