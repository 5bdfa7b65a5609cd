"""lista on every backend that can run here: values, gradients, strides, and errors."""

import os
import subprocess
import sys

import numpy as np
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
    bytes_kept,
    clear_of_ties,
    keywords,
    lista_problem,
    results_and_gradients,
    suited,
    to,
    unrolled_lista,
)

from scvae_fast import lista
from scvae_fast.ops import operations
from scvae_fast.ops.operations import LISTA

EVERY_BACKEND = pytest.mark.parametrize("backend", FLOAT32_BACKENDS)


def by_numpy(b, S, theta, n_iter):
    """The formula in NumPy."""

    def h(u):
        return np.sign(u) * np.maximum(np.abs(u) - theta, 0)

    with np.errstate(invalid="ignore", over="ignore"):
        z = h(b)
        for _ in range(n_iter):
            z = h(b + z @ S.T)
    return z


@EVERY_BACKEND
@pytest.mark.parametrize("n_iter", [0, 1, 4])
def test_formula(backend, n_iter):
    p = suited(backend, lista_problem(5, 7, start="plain"))
    z = lista(p["b"], p["S"], p["theta"], n_iter, backend=backend).cpu()
    expected = by_numpy(*(p[name].cpu().numpy() for name in ("b", "S", "theta")), n_iter)
    assert_close(z, torch.from_numpy(expected))
    assert 0 < (z == 0).double().mean() < 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("start", ["plain", "gain", "z0"])
@pytest.mark.parametrize("theta", ["atom", "scalar", "zero", "negative"])
@pytest.mark.parametrize("n_iter", [0, 1, 3])
def test_gradients_by_finite_differences(backend, start, theta, n_iter):
    leaves = {k: t.requires_grad_() for k, t in keywords(lista_problem(3, 4, theta=theta, start=start)).items()}

    def call(*tensors):
        return lista(**dict(zip(leaves, tensors, strict=True)), n_iter=n_iter, backend=backend)

    assert torch.autograd.gradcheck(call, tuple(leaves.values()))


@EVERY_BACKEND
@pytest.mark.parametrize("start", ["plain", "gain", "z0"])
def test_handwritten_backward_is_autograds(backend, start):
    p = suited(backend, lista_problem(9, 12, start=start))
    expected = results_and_gradients(unrolled_lista, p, n_iter=5)
    assert_all_close(results_and_gradients(lista, p, n_iter=5, backend=backend), expected)


@pytest.mark.parametrize("backend", QUICK_BACKENDS)
@pytest.mark.parametrize("n_iter", [0, 1, 5, 16, 30])
@pytest.mark.parametrize("theta", ["atom", "zero"])
def test_float32_error(backend, n_iter, theta):
    single = to(lista_problem(63, 128, theta=theta), torch.float32)
    assert_as_exact_as_pytorch(lista, unrolled_lista, clear_of_ties(single, n_iter), n_iter=n_iter, backend=backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", QUICK_BACKENDS)
@pytest.mark.parametrize("M", [1, 63, 4097])
@pytest.mark.parametrize("K", [1, 36, 500, 512, 529])
def test_odd_sizes(backend, M, K):
    single = to(lista_problem(M, K), torch.float32)
    n_iter = 2
    assert_as_exact_as_pytorch(lista, unrolled_lista, clear_of_ties(single, n_iter), n_iter=n_iter, backend=backend)


@EVERY_BACKEND
@pytest.mark.parametrize("n_iter", [0, 3])
def test_empty_batch(backend, n_iter):
    p = suited(backend, lista_problem(0, 5, theta="scalar"))
    found = results_and_gradients(lista, p, n_iter=n_iter, backend=backend)
    assert found["result 0"].shape == (0, 5)
    for name in ("∂S", "∂theta", "∂gain"):
        assert torch.equal(found[name], torch.zeros_like(found[name]))


@EVERY_BACKEND
@pytest.mark.parametrize("shape", [(7,), (2, 3, 7), (1, 2, 1, 7), (2, 0, 7)])
def test_leading_dimensions(backend, shape):
    p = suited(backend, {**lista_problem(12, 7), "b": torch.randn(shape), "z0": torch.randn(shape)})
    b, z0 = p["b"], p["z0"]
    z = lista(b, p["S"], p["theta"], 3, z0=z0, backend=backend)
    flat = lista(b.reshape(-1, 7), p["S"], p["theta"], 3, z0=z0.reshape(-1, 7), backend=backend)
    assert z.shape == shape
    assert z.is_contiguous()
    torch.testing.assert_close(z, flat.reshape(shape), rtol=0, atol=0)


def views(like):
    """The same values with other strides."""
    rows, columns = like.shape
    wide = like.new_full((2 * rows, columns + 3), float("nan"))
    wide[::2, 1 : columns + 1] = like
    return {
        "sliced": wide[::2, 1 : columns + 1],
        "transposed": like.T.contiguous().T,
        "stepped": like.repeat_interleave(2, dim=1)[:, ::2],
    }


@EVERY_BACKEND
@pytest.mark.parametrize("name", ["b", "S", "z0", "grad"])
@pytest.mark.parametrize("kind", ["sliced", "transposed", "stepped"])
def test_strides(backend, name, kind):
    p = suited(backend, {**lista_problem(6, 6, start="z0"), "grad": torch.randn(6, 6)})
    strided = {**p, name: views(p[name])[kind]}
    assert not strided[name].is_contiguous()

    def run(problem):
        leaves = [problem[k].detach().requires_grad_() for k in ("b", "S", "theta", "z0")]
        z = lista(*leaves[:3], 3, z0=leaves[3], backend=backend)
        return [z.detach(), *torch.autograd.grad(z, leaves, problem["grad"])]

    for found, expected in zip(run(strided), run(p), strict=True):
        assert torch.equal(found, expected)


@EVERY_BACKEND
def test_expanded_inputs_and_stride_0_gradients(backend):
    p = suited(backend, lista_problem(1, 6, start="plain"))
    row = p["b"].requires_grad_()
    theta = row.new_tensor(0.3).expand(6)
    lista(row.expand(5, 6), p["S"], theta, 3, backend=backend).sum().backward()
    (expected,) = torch.autograd.grad(unrolled_lista(row, p["S"], theta, 3).sum(), row)
    assert_close(row.grad, 5 * expected)


@EVERY_BACKEND
def test_scalar_threshold_may_have_any_shape_of_one_element(backend):
    p = suited(backend, lista_problem(3, 5, start="plain"))
    expected = lista(p["b"], p["S"], 0.25, 2, backend=backend)
    for shape in [(), (1,), (1, 1)]:
        theta = p["b"].new_full(shape, 0.25).requires_grad_()
        z = lista(p["b"], p["S"], theta, 2, backend=backend)
        assert torch.equal(z.detach(), expected)
        z.sum().backward()
        assert theta.grad.shape == shape


@EVERY_BACKEND
@pytest.mark.parametrize("learned", ["b", "S", "theta", "gain"])
def test_frozen_parameters(backend, learned):
    p = suited(backend, lista_problem(6, 8))
    everything = results_and_gradients(lista, p, n_iter=3, backend=backend)
    p[learned].requires_grad_()
    z = lista(**p, n_iter=3, backend=backend)
    weights = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z.backward(weights.to(z))
    torch.testing.assert_close(p[learned].grad.cpu(), everything[f"∂{learned}"], rtol=0, atol=0)
    assert all(p[name].grad is None for name in ("b", "S", "theta", "gain") if name != learned)


@EVERY_BACKEND
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["b", "S", "theta"])
def test_not_finite_values_come_out_where_the_formula_puts_them(backend, value, where):
    p = suited(backend, lista_problem(6, 8, start="plain"))
    place = {"b": (2, 3), "S": (4, 1), "theta": (5,)}[where]
    p[where][place] = value
    p["b"][:, 6] = 0  # a code that is zero before it meets S: 0 · inf is NaN
    z = lista(p["b"], p["S"], p["theta"], 3, backend=backend).cpu().numpy()
    expected = by_numpy(*(p[name].cpu().numpy() for name in ("b", "S", "theta")), 3)
    np.testing.assert_allclose(z, expected, rtol=1e-12 if backend in BACKENDS else 1e-4, equal_nan=True)
    if not (where == "theta" and value == float("inf")):
        assert not np.isfinite(z).all()


@EVERY_BACKEND
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["b", "S", "grad"])
def test_not_finite_gradients_are_those_of_the_specification(backend, value, where):
    p = suited(backend, {**lista_problem(6, 8, start="plain"), "grad": torch.randn(6, 8)})
    p[where][4, 3] = value
    p["b"][4, 3] += 9  # on the support, where it counts

    def gradients(backend):
        leaves = [p[name].detach().clone().requires_grad_() for name in ("b", "S", "theta")]
        z = lista(*leaves, 3, backend=backend)
        return dict(zip("bSt", torch.autograd.grad(z, leaves, p["grad"]), strict=True))

    expected = gradients("eager")
    assert_all_close(gradients(backend), expected)
    assert not expected["S"].isfinite().all()


@EVERY_BACKEND
def test_tie_has_no_derivative_and_zero_no_sign(backend):
    p = {"b": [[0.5, -0.5, 0.0, 2.0]], "S": [[0.0] * 4] * 4, "theta": [0.5, 0.5, -1.0, -1.0]}
    p = suited(backend, {name: torch.tensor(values) for name, values in p.items()})
    b, theta = p["b"].requires_grad_(), p["theta"].requires_grad_()
    for n_iter in (0, 1):
        b.grad = theta.grad = None
        z = lista(**p, n_iter=n_iter, backend=backend)
        assert z.tolist() == [[0.0, 0.0, 0.0, 3.0]]
        z.sum().backward()
        assert b.grad.tolist() == [[0.0, 0.0, 0.0, 1.0]]
        assert theta.grad.tolist() == [0.0, 0.0, 0.0, -1.0]


INF, NAN = float("inf"), float("nan")


@EVERY_BACKEND
@pytest.mark.parametrize(
    ("theta", "n_iter", "z", "d_theta"),
    [
        (-INF, 0, [0.0, 0.0, INF, INF], -2.0),
        ([-INF, -INF, 0.5, 0.5], 0, [0.0, 0.0, 1.0, 1.5], [0.0, 0.0, -1.0, -1.0]),
        ([-INF, -INF, 0.5, 0.5], 2, [0.0, 0.0, 1.0, 1.5], [0.0, 0.0, -1.0, -1.0]),
        ([[0.5], [-INF]], 1, [0.0, 0.0, INF, INF], [[0.0], [-2.0]]),
        ([[0.5] * 4, [-INF] * 4], 1, [0.0, 0.0, INF, INF], [[0.0] * 4, [0.0, 0.0, -1.0, -1.0]]),
    ],
)
def test_threshold_of_minus_infinity_keeps_zero(backend, theta, n_iter, z, d_theta):
    p = {"b": [[0.0, -0.0, 1.5, 2.0]], "S": [[0.0] * 4] * 4, "theta": theta}
    p = suited(backend, {name: torch.tensor(values) for name, values in p.items()})
    leaves = {name: t.requires_grad_() for name, t in p.items()}
    found = lista(**leaves, n_iter=n_iter, backend=backend)
    assert found.tolist() == [z]
    found.sum().backward()
    assert leaves["b"].grad.tolist() == [[0.0, 0.0, 1.0, 1.0]]
    assert leaves["theta"].grad.tolist() == d_theta
    if n_iter > 0:
        assert leaves["S"].grad.tolist() == [[0.0] * 4] * 2 + [[0.0, 0.0, 1.0, 1.5]] * 2


@EVERY_BACKEND
@pytest.mark.parametrize(
    ("theta", "positive", "z"),
    [
        (INF, False, [0.0, 0.0, 0.0, NAN, NAN]),
        (NAN, False, [NAN] * 5),
        (-INF, False, [0.0, INF, -INF, INF, -INF]),
        (INF, True, [0.0, 0.0, 0.0, NAN, 0.0]),
        (NAN, True, [NAN] * 5),
        (-INF, True, [INF, INF, INF, INF, NAN]),
    ],
)
@pytest.mark.parametrize("shape", [(), (5,), (1, 1), (1, 5)])
def test_thresholds_that_are_not_finite(backend, theta, positive, z, shape):
    p = {"b": torch.tensor([[0.0, 1.0, -2.0, INF, -INF]]), "S": torch.eye(5), "theta": torch.full(shape, theta)}
    p = suited(backend, p)
    assert_close(lista(**p, n_iter=0, positive=positive, backend=backend).cpu(), torch.tensor([z]).to(p["b"].dtype))


@EVERY_BACKEND
@pytest.mark.parametrize("n_iter", [0, 2])
def test_result_owns_its_memory(backend, n_iter):
    p = suited(backend, lista_problem(3, 4, start="z0"))
    z = lista(p["b"], p["S"], p["theta"], n_iter, z0=p["z0"], backend=backend)
    before = p["z0"].clone()
    z.add_(1)
    assert torch.equal(p["z0"], before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("parameters", ["same", "float32"])
def test_16_bit_types_are_rounded_once(dtype, parameters):
    p = to(lista_problem(8, 16), dtype)
    if parameters == "float32":
        p["theta"], p["gain"] = p["theta"].float(), p["gain"].float()
    wide = results_and_gradients(lista, to(p, torch.float32), n_iter=4, backend="eager")
    found = results_and_gradients(lista, p, n_iter=4)
    assert found["result 0"].dtype == dtype
    assert torch.equal(found["result 0"], wide["result 0"].to(dtype))
    for name in ("b", "S", "theta", "gain"):
        assert found[f"∂{name}"].dtype == p[name].dtype
    assert torch.isfinite(found["∂S"]).all()


def test_autocast_runs_in_float32():
    p = to(lista_problem(4, 6), torch.float32)
    expected = lista(**p, n_iter=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = lista(**{**p, "S": p["S"].double().float()}, n_iter=3)
        mixed = lista(p["b"].bfloat16(), p["S"], p["theta"], 3)
    assert torch.equal(z, expected)
    assert mixed.dtype == torch.float32


@EVERY_BACKEND
@pytest.mark.parametrize("n_iter", [1, 30])
def test_what_autograd_keeps_does_not_grow_with_the_iterations(backend, n_iter, monkeypatch):
    monkeypatch.setattr(operations, "MOST_KEPT", 0)
    problem = to(suited(backend, lista_problem(64, 32)), torch.float32)
    p = {k: t.requires_grad_() for k, t in keywords(problem).items()}
    b_and_z, S_theta_gain = 2 * 64 * 32 * 4, (32 * 32 + 32 + 1) * 4
    assert bytes_kept(lambda: lista(**p, n_iter=n_iter, backend=backend)) == b_and_z + S_theta_gain


@pytest.mark.parametrize(("n_iter", "iterates"), [(0, 0), (1, 0), (2, 1), (2049, 2048), (2050, 0)])
def test_iterates_are_kept_where_they_take_16_MiB_at_most(n_iter, iterates):
    p = {k: t.requires_grad_() for k, t in keywords(lista_problem(64, 32, dtype=torch.float32)).items()}
    b_and_z, S_theta_gain = 2 * 64 * 32 * 4, (32 * 32 + 32 + 1) * 4
    assert iterates * 64 * 32 * 4 <= 16 * 2**20
    kept = bytes_kept(lambda: lista(**p, n_iter=n_iter, backend="cpu"))
    assert kept == b_and_z + S_theta_gain + iterates * 64 * 32 * 4


def test_iterates_are_kept_only_for_backward_passes():
    b, S = torch.randn(3, 4, requires_grad=True), (torch.randn(4, 4) / 8).requires_grad_()
    arguments = (b, S, torch.tensor(0.1), None, None, 5, False, "cpu")
    for recorded, count in ((True, 4), (False, 0)):
        assert torch.ops.scvae_fast.lista(*arguments, recorded)[1].shape == (3, count, 4)
    with torch.no_grad():
        assert LISTA(*arguments)[1].shape == (3, 0, 4)
    assert LISTA(*arguments)[1].shape == (3, 4, 4)
    assert LISTA(b.detach(), S.detach(), *arguments[2:])[1].shape == (3, 0, 4)
    over_weights = torch.func.vmap(lambda S: LISTA(b, S, *arguments[2:])[1])(torch.stack([S, 2 * S]))
    assert over_weights.shape == (2, 3, 0, 4)


def test_iterates_are_those_of_shorter_calls():
    b, S = torch.randn(3, 4, requires_grad=True), torch.randn(4, 4) / 8
    iterates = LISTA(b, S, torch.tensor(0.1), None, None, 5, False, "cpu")[1]
    shorter = [lista(b, S, 0.1, n_iter=t, backend="cpu") for t in range(1, 5)]
    assert torch.equal(iterates, torch.stack(shorter, dim=1))
    assert not iterates.requires_grad


def test_iterates_of_16_bit_problems_are_float32():
    b, S = torch.randn(3, 4).bfloat16().requires_grad_(), (torch.randn(4, 4) / 8).bfloat16()
    iterates = LISTA(b, S, torch.tensor(0.1), None, None, 5, False, "cpu")[1]
    wide = LISTA(b.detach().float().requires_grad_(), S.float(), torch.tensor(0.1), None, None, 5, False, "cpu")[1]
    assert iterates.dtype == torch.float32
    assert torch.equal(iterates, wide)


@pytest.mark.parametrize(
    "wrong", [lambda t: t[:, 1:], lambda t: t[..., 1:], lambda t: t.double(), lambda t: t.flatten()]
)
def test_iterates_that_do_not_fit_are_refused(wrong):
    b, S = torch.randn(3, 4), torch.randn(4, 4) / 8
    arguments = (b, S, torch.tensor(0.1), None, None, 5, False, "cpu", True)
    z, iterates = torch.ops.scvae_fast.lista(*arguments)
    needed = [True, True, False, False, False]
    with pytest.raises((ValueError, TypeError), match="lista_backward: iterates must "):
        torch.ops.scvae_fast.lista_backward(torch.ones(3, 4), z, wrong(iterates), *arguments, needed)


@EVERY_BACKEND
def test_opcheck(backend):
    for start in ("plain", "z0", "gain"):
        p = suited(backend, lista_problem(3, 4, start=start))
        tensors = [t if t is None else t.requires_grad_() for t in p.values()]
        assert_opcheck_passes("lista", (*tensors, 3, False, backend, True))


@EVERY_BACKEND
def test_compile_without_graph_breaks(backend):
    p = suited(backend, lista_problem(6, 8))
    expected = results_and_gradients(lista, p, n_iter=3, backend=backend)

    def layer(**arguments):
        return lista(**arguments, n_iter=3, backend=backend)

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    assert_all_close(results_and_gradients(compiled, p), expected)
    smaller = suited(backend, lista_problem(2, 8))
    assert_all_close(results_and_gradients(compiled, smaller), results_and_gradients(layer, smaller))


class Coder(torch.nn.Module):
    def __init__(self, backend):
        super().__init__()
        p = suited(backend, lista_problem(1, 8))
        self.S, self.theta = torch.nn.Parameter(p["S"]), torch.nn.Parameter(p["theta"])
        self.backend = backend

    def forward(self, b):
        return lista(b, self.S, self.theta, 3, gain=2.0, backend=self.backend)


@EVERY_BACKEND
def test_export_with_any_number_of_rows(backend):
    coder = Coder(backend)
    rows = torch.export.Dim("rows")
    program = torch.export.export(coder, (torch.randn(3, 8).to(coder.S),), dynamic_shapes=({0: rows},))
    b = torch.randn(7, 8).to(coder.S)
    torch.testing.assert_close(program.module()(b), coder(b))


@pytest.mark.parametrize("n_iter", [0, 5])
def test_cpu_results_do_not_depend_on_the_number_of_threads(n_iter):
    p = to(lista_problem(203, 70), torch.float32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            found.append(results_and_gradients(lista, p, n_iter=n_iter, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(other[name], t) for name, t in found[0].items())


COUNT_THREADS = """
import os, torch, scvae_fast
b, S = torch.ones(64, 8), torch.zeros(8, 8)
def started():
    before = len(os.listdir("/proc/self/task"))
    scvae_fast.lista(b, S, 0.1, 1, backend="cpu")
    return len(os.listdir("/proc/self/task")) - before
torch.set_num_threads(1)
alone = started()
torch.set_num_threads(3)
print(alone, started())
"""


def test_set_num_threads_is_obeyed():
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    done = subprocess.run(
        [sys.executable, "-c", COUNT_THREADS], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "2"]


def good():
    p = to(lista_problem(3, 4), torch.float32)
    return {**p, "n_iter": 2}


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"b": [1.0]}, TypeError, "lista: b must be a torch.Tensor, got list"),
        ({"b": torch.zeros(())}, ValueError, r"lista: b must be \(..., K\) with a last dimension"),
        ({"b": torch.zeros(3, 0)}, ValueError, r"lista: b must be \(..., K\) with a last dimension"),
        ({"b": torch.zeros(3, 4, dtype=torch.int64)}, TypeError, "lista: b must be float32"),
        (
            {"b": torch.zeros(3, 5)},
            ValueError,
            r"lista: S must be \(K, K\) = \[5, 5\] or .*, got \[4, 4\]",
        ),
        ({"S": torch.zeros(4, 3)}, ValueError, r"lista: S must be \(K, K\).*got \[4, 3\]"),
        ({"S": torch.zeros(4, 4).double()}, TypeError, "lista: S must have the dtype of b, torch.float32"),
        ({"S": torch.zeros(4, 4, device="meta")}, ValueError, "lista: S must be on the device of b, cpu"),
        ({"S": torch.zeros(4, 4).to_sparse()}, TypeError, "lista: S must be a dense tensor"),
        (
            {"theta": torch.zeros(3)},
            ValueError,
            r"lista: theta must be one value, \(K,\) = \[4\], .* R being T \+ 1, got \[3\]",
        ),
        ({"theta": "0.1"}, TypeError, "lista: theta must be a number or a torch.Tensor, got str"),
        ({"gain": torch.ones(4)}, ValueError, r"lista: gain must be one value, got shape \[4\]"),
        ({"gain": None}, TypeError, "lista: gain must be a number or a torch.Tensor, got NoneType"),
        ({"gain": True}, TypeError, "lista: gain must be a number or a torch.Tensor, got bool"),
        ({"z0": torch.zeros(3, 4)}, ValueError, "lista: gain scales the start that z0 replaces"),
        ({"gain": 1.0, "z0": torch.zeros(4)}, ValueError, r"lista: z0 must be .* = \[3, 4\], got \[4\]"),
        ({"gain": 1.0, "z0": 0.0}, TypeError, "lista: z0 must be a torch.Tensor, got float"),
        ({"n_iter": -1}, ValueError, "lista: n_iter must be at least 0, got -1"),
        ({"n_iter": 2.0}, TypeError, "lista: n_iter must be an int, got float"),
        ({"n_iter": True}, TypeError, "lista: n_iter must be an int, got bool"),
    ],
)
def test_bad_input_names_the_argument(bad, error, message):
    with pytest.raises(error, match=message):
        lista(**{**good(), **bad})
