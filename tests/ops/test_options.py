"""One iteration for the LISTA family: options of the operations, compared with the usual loops."""

import pytest
import torch
import torch.nn.functional as F
from problems import (
    BACKENDS,
    VARIANTS,
    assert_opcheck_passes,
    bytes_kept,
    keywords,
    lista_problem,
    record,
    results_and_gradients,
    sparse_code_problem,
    suited,
    takers,
    to,
    variant,
)

import scvae_fast
from scvae_fast import dictionaries, ista, lista, sparse_code
from scvae_fast.ops import operations
from scvae_fast.ops.problem import OPTIONS

EVERY_BACKEND = pytest.mark.parametrize("backend", [b for b in BACKENDS if all(b in takers(name) for name in VARIANTS)])
M, K, n, T = 7, 10, 6, 4


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def unit_dictionary():
    """D (n, K), and c = ‖D‖₂²."""
    D = dictionaries.random_unit(n, K, dtype=torch.float64)
    return D, float(torch.linalg.matrix_norm(D, ord=2) ** 2)


def test_variants_have_every_option():
    found = set()
    for name in VARIANTS:
        op, tensors, settings = variant(name, 1, 2, 2, 2)
        found |= set(record(op.__name__, **tensors, **settings).options)
    assert found == OPTIONS


@EVERY_BACKEND
def test_lista_of_linear_layers(backend):
    x, theta = normal(M, n), [torch.rand(K, dtype=torch.float64) for _ in range(T + 1)]
    filters, inhibitions = [normal(K, n) / 3 for _ in range(T + 1)], [normal(K, K) / 9 for _ in range(T)]
    z = (u := x @ filters[0].T).sign() * (u.abs() - theta[0]).relu()
    for W, S, level in zip(filters[1:], inhibitions, theta[1:], strict=True):
        u = F.linear(x, W) + F.linear(z, S)
        z = u.sign() * (u.abs() - level).relu()
    found, _ = sparse_code(
        x, torch.stack(filters), torch.stack(inhibitions), torch.stack(theta), normal(n, K), T, backend=backend
    )
    torch.testing.assert_close(found, z)


@EVERY_BACKEND
@pytest.mark.parametrize("positive", [False, True])
def test_ista_and_its_equivalents(backend, positive):
    D, c = unit_dictionary()
    x, lmbda, T = normal(M, n), 0.2, 7
    G, b = D.T @ D, x @ D
    z = torch.zeros(M, K, dtype=torch.float64)
    for _ in range(T):
        u = z - (z @ G - b) / c
        z = (u - lmbda / c).relu() if positive else F.softshrink(u, lmbda / c)
    common = {"positive": positive, "backend": backend}
    torch.testing.assert_close(ista(b, G, lmbda / c, T, step=1 / c, **common), z)
    torch.testing.assert_close(sparse_code(x, D.T, -G, lmbda / c, D, T, step=1 / c, **common)[0], z)
    torch.testing.assert_close(sparse_code(x, D.T, None, lmbda / c, D, T, step=1 / c, **common)[0], z)
    S = torch.eye(K, dtype=torch.float64) - G / c
    start = torch.zeros(M, K, dtype=torch.float64)
    torch.testing.assert_close(lista(b / c, S, lmbda / c, T, z0=start, **common), z)


@EVERY_BACKEND
def test_fista_solves_the_lasso(backend):
    D, c = unit_dictionary()
    x, lmbda, T = normal(M, n), 0.2, 300
    tau = torch.ones(T + 2, dtype=torch.float64)
    for t in range(1, T + 1):
        tau[t + 1] = (1 + (1 + 4 * tau[t] ** 2).sqrt()) / 2
    momentum = (tau[1:-1] - 1) / tau[2:]
    momentum = torch.cat([torch.zeros(1, dtype=torch.float64), momentum[:-1]])
    z = ista(x @ D, D.T @ D, lmbda / c, T, step=1 / c, momentum=momentum, backend=backend)
    plain = ista(x @ D, D.T @ D, lmbda / c, 200 * T, step=1 / c, backend=backend)

    def objective(z):
        return float(0.5 * (x - z @ D.T).square().sum() + lmbda * z.abs().sum())

    assert objective(z) == pytest.approx(objective(plain), rel=1e-5)
    slower = ista(x @ D, D.T @ D, lmbda / c, T, step=1 / c, backend=backend)
    assert objective(z) < objective(slower)


@EVERY_BACKEND
def test_lista_cp(backend):
    D, _ = unit_dictionary()
    x, filters, theta = normal(M, n), normal(T, K, n) / 4, torch.rand(T, 1, dtype=torch.float64) / 3
    z = torch.zeros(M, K, dtype=torch.float64)
    for W, level in zip(filters, theta, strict=True):
        z = F.softshrink(z - (z @ D.T - x) @ W.T, float(level))
    found, x_hat = sparse_code(x, filters, None, theta, D, T, backend=backend)
    torch.testing.assert_close(found, z)
    torch.testing.assert_close(x_hat, z @ D.T)


@EVERY_BACKEND
def test_tilista(backend):
    D, _ = unit_dictionary()
    x, W, steps, theta = normal(M, n), normal(K, n) / 3, torch.rand(T, dtype=torch.float64), torch.rand(T, 1).double()
    z = torch.zeros(M, K, dtype=torch.float64)
    for step, level in zip(steps, theta, strict=True):
        z = F.softshrink(z - step * (z @ D.T - x) @ W.T, float(level))
    torch.testing.assert_close(sparse_code(x, W, None, theta, D, T, step=steps, backend=backend)[0], z)


@EVERY_BACKEND
@pytest.mark.parametrize("name", VARIANTS)
def test_shared_arguments_may_be_repeated_per_iteration(backend, name):
    op, tensors, settings = variant(name, M, K, n, T)
    each = VARIANTS[name].each
    single = {k: t[0] if k in each and k != "momentum" else t for k, t in tensors.items()}
    counts = {k: len(tensors[k]) for k in each}
    repeated = {
        k: single[k].expand(counts[k], *single[k].shape) if k in counts and k != "momentum" else t
        for k, t in single.items()
    }
    shared = results_and_gradients(op, single, **settings, backend=backend)
    found = results_and_gradients(op, repeated, **settings, backend=backend)
    for key, t in shared.items():
        tensor = key.removeprefix("∂")
        summed = found[key].sum(0) if key.startswith("∂") and tensor in counts and tensor != "momentum" else found[key]
        torch.testing.assert_close(summed, t, msg=lambda m, key=key: f"{key}: {m}")


@EVERY_BACKEND
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("n_iter", [0, 1])
def test_few_iterations(backend, name, n_iter):
    op, tensors, settings = variant(name, M, K, n, n_iter)
    found = results_and_gradients(op, tensors, **settings, backend=backend)
    expected = results_and_gradients(op, tensors, **settings, backend="eager")
    for key, t in expected.items():
        torch.testing.assert_close(found[key], t, msg=lambda m, key=key: f"{key}: {m}")
    if n_iter == 0 and "z0" in tensors:
        torch.testing.assert_close(found["result 0"], tensors["z0"])
    elif n_iter == 0 and "gain" not in tensors:
        assert not found["result 0"].any()


@pytest.mark.parametrize("backend", takers("ista"))
def test_threshold_of_minus_infinity_keeps_zero(backend):
    p = {"b": [[0.0, -0.0, 1.5, 2.0]], "G": [[0.0] * 4] * 4, "theta": [[0.5], [-float("inf")]], "step": 1.0}
    p = suited(backend, {name: torch.tensor(values) for name, values in p.items()})
    b, theta = p["b"].requires_grad_(), p["theta"].requires_grad_()
    z = ista(**p, n_iter=2, backend=backend)
    assert z.tolist() == [[0.0, 0.0, float("inf"), float("inf")]]
    z.sum().backward()
    assert b.grad.tolist() == [[0.0, 0.0, 2.0, 2.0]]
    assert theta.grad.tolist() == [[-2.0], [-2.0]]


@EVERY_BACKEND
def test_threshold_of_minus_infinity_keeps_zero_in_the_factored_form(backend):
    x, identity = torch.tensor([[0.0, -0.0, 1.5, 2.0]]).double().requires_grad_(), torch.eye(4).double()
    theta = torch.tensor([[0.5], [-float("inf")]]).double()
    z, _ = sparse_code(x, identity, None, theta, identity, 2, backend=backend)
    assert z.tolist() == [[0.0, 0.0, float("inf"), float("inf")]]
    z.sum().backward()
    assert x.grad.tolist() == [[0.0, 0.0, 1.0, 1.0]]


@EVERY_BACKEND
def test_first_momentum_has_no_effect(backend):
    op, tensors, settings = variant("fista", M, K, n, T)
    found = results_and_gradients(op, tensors, **settings, backend=backend)
    other = {**tensors, "momentum": tensors["momentum"].clone()}
    other["momentum"][0] = 100.0
    again = results_and_gradients(op, other, **settings, backend=backend)
    assert all(torch.equal(again[key], t) for key, t in found.items())
    assert found["∂momentum"][0] == 0
    assert found["∂momentum"][1:].all()


@EVERY_BACKEND
def test_weights_of_a_start_that_is_given_get_no_gradient(backend):
    op, tensors, settings = variant("everything of each iteration", M, K, n, T)
    tensors = {**{k: t for k, t in tensors.items() if k != "gain"}, "z0": normal(M, K).relu()}
    found = results_and_gradients(op, tensors, **settings, backend=backend)
    for key in ("∂W_e", "∂theta"):
        assert not found[key][0].any()
        assert found[key][1:].any()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("n_iter", [4, 24])
@pytest.mark.parametrize("most_kept", [0, operations.MOST_KEPT])
def test_what_autograd_keeps(name, n_iter, most_kept, monkeypatch):
    monkeypatch.setattr(operations, "MOST_KEPT", most_kept)
    op, tensors, settings = variant(name, 64, 32, 16, n_iter)
    problem = {k: t.float().requires_grad_() for k, t in tensors.items()}
    z, iterates = 64 * 32 * 4, (n_iter - 1) * 64 * 32 * 4
    kept = bytes_kept(lambda: op(**problem, **settings, backend="cpu"))
    assert kept == sum(t.nbytes for t in problem.values()) + z + (iterates if most_kept else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 4, 5, 130])
@pytest.mark.parametrize("name", ["lista", "sparse_code", *VARIANTS])
def test_gradients_are_the_same_whether_iterates_are_kept(name, rows, dtype, monkeypatch):
    if name in VARIANTS:
        op, tensors, settings = variant(name, rows, 37, 19, 6)
    else:
        problem = lista_problem(rows, 37) if name == "lista" else sparse_code_problem(rows, 37, 19)
        op, tensors, settings = getattr(scvae_fast, name), keywords(problem), {"n_iter": 6}
    found = []
    for most_kept in (0, operations.MOST_KEPT):
        monkeypatch.setattr(operations, "MOST_KEPT", most_kept)
        found.append(results_and_gradients(op, to(tensors, dtype), **settings, backend="cpu"))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", VARIANTS)
def test_16_bit_types_are_rounded_once(name, dtype):
    op, tensors, settings = variant(name, M, K, n, T)
    narrow = to(tensors, dtype)
    wide = results_and_gradients(op, to(narrow, torch.float32), **settings, backend="cpu")
    found = results_and_gradients(op, narrow, **settings, backend="cpu")
    assert torch.equal(found["result 0"], wide["result 0"].to(dtype))
    assert all(found[f"∂{key}"].dtype == dtype for key in tensors)


@EVERY_BACKEND
@pytest.mark.parametrize("name", VARIANTS)
def test_opcheck(backend, name):
    op, tensors, settings = variant(name, 3, 4, 5, 3)
    tensors = {k: t.requires_grad_() for k, t in suited(backend, tensors).items()}
    order = {
        "lista": ("b", "S", "theta", "gain", "z0"),
        "ista": ("b", "G", "theta", "step", "momentum", "z0"),
        "sparse_code": ("x", "W_e", "S", "theta", "D", "gain", "z0", "step", "momentum"),
    }[op.__name__]
    arguments = (*(tensors.get(key) for key in order), settings["n_iter"], settings["positive"], backend, True)
    assert_opcheck_passes(op.__name__, arguments)


SHARED = {"W_e": normal(4, 5), "theta": 0.1}


def good(op):
    names = {lista: "matrices of each iteration", ista: "ista", sparse_code: "LISTA-CP"}
    _, tensors, settings = variant(names[op], 3, 4, 5, 2)
    return {**tensors, **settings}


@pytest.mark.parametrize(
    ("op", "bad", "message"),
    [
        (
            lista,
            {"S": normal(3, 4, 4)},
            r"S must be \(K, K\) = \[4, 4\] or \(T, K, K\) = \[2, 4, 4\], .* \[3, 4, 4\]",
        ),
        (lista, {"theta": normal(2, 4)}, r"theta must be one value, .* = \[3, 4\], R being T \+ 1, got \[2, 4\]"),
        (ista, {"G": normal(5, 5)}, r"G must be \(K, K\) = \[4, 4\] or \(T, K, K\)"),
        (ista, {"theta": normal(3, 4)}, r"theta must be .* \(R, K\) = \[2, 4\], R being T, got \[3, 4\]"),
        (ista, {"step": normal(3)}, r"step must be one value or \(T,\) = \[2\], got \[3\]"),
        (ista, {"momentum": normal(2, 2)}, r"momentum must be one value or \(T,\) = \[2\]"),
        (ista, {"z0": normal(3, 5)}, r"z0 must be .* = \[3, 4\], got \[3, 5\]"),
        (sparse_code, {"W_e": normal(3, 4, 5)}, r"W_e must be .* or \(R, K, n\) = \[2, 4, 5\], R being T, got"),
        (sparse_code, {"S": normal(4, 4), **SHARED, "momentum": 0.3}, "momentum needs a step"),
        (sparse_code, {"gain": 2.0}, "gain scales the start"),
        (sparse_code, {"S": normal(4, 4), **SHARED, "step": 0.5, "gain": 2.0}, "gain scales the start"),
        (sparse_code, {"S": normal(5, 5), "step": 0.5}, r"S must be \(K, K\) = \[4, 4\]"),
        (sparse_code, {"D": normal(4, 5)}, r"D must be \(n, K\)"),
    ],
)
def test_shapes_and_combinations_that_do_not_fit(op, bad, message):
    with pytest.raises(ValueError, match=f"{op.__name__}: {message}"):
        op(**{**good(op), **bad})


@pytest.mark.parametrize(
    ("op", "bad", "message"),
    [
        (lista, {"positive": 1}, "positive must be a bool, got int"),
        (lista, {"S": None}, "S must be a torch.Tensor, got NoneType"),
        (ista, {"step": None}, "step must be a number or a torch.Tensor, got NoneType"),
        (ista, {"step": True}, "step must be a number or a torch.Tensor, got bool"),
        (sparse_code, {"D": None}, "D must be a torch.Tensor, got NoneType"),
        (sparse_code, {"step": torch.ones(2)}, "step must have the dtype of x, torch.float64, got torch.float32"),
    ],
)
def test_arguments_of_the_wrong_type(op, bad, message):
    with pytest.raises(TypeError, match=f"{op.__name__}: {message}"):
        op(**{**good(op), **bad})
