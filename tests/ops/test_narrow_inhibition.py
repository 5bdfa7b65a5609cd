"""S in bfloat16 with float32: the numbers of S.float(), and no gradient of its own."""

import pytest
import torch
from problems import BACKENDS, keywords, lista_problem, sparse_code_problem, to

from scvae_fast import lista, sparse_code

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
EVERY_OPERATION = pytest.mark.parametrize("op", [lista, sparse_code])


def problem(op, **kinds):
    p = lista_problem(6, 9, **kinds) if op is lista else sparse_code_problem(6, 9, 5, **kinds)
    return keywords(to(p, torch.float32))


def first(results):
    return results[0] if isinstance(results, tuple) else results


@EVERY_BACKEND
@EVERY_OPERATION
@pytest.mark.parametrize("start", ["plain", "gain", "z0"])
@pytest.mark.parametrize("n_iter", [0, 1, 5])
def test_only_S_is_rounded(op, backend, start, n_iter):
    p = problem(op, start=start)
    narrow = first(op(**{**p, "S": p["S"].bfloat16()}, n_iter=n_iter, backend=backend))
    wide = first(op(**{**p, "S": p["S"].bfloat16().float()}, n_iter=n_iter, backend=backend))
    assert narrow.dtype == torch.float32
    if backend == "eager":
        assert torch.equal(narrow, wide)
    else:
        torch.testing.assert_close(narrow, wide)


@EVERY_BACKEND
@pytest.mark.parametrize("theta", [3.0, 1.0, 0.3, 0.0, -0.1])
@pytest.mark.parametrize(("M", "K"), [(1, 40), (3, 520), (50, 33), (50, 700)])
def test_every_density_and_size(backend, M, K, theta):
    p = keywords(to(lista_problem(M, K), torch.float32))
    p["theta"] = torch.tensor(theta)
    narrow = lista(**{**p, "S": p["S"].bfloat16()}, n_iter=3, backend=backend)
    wide = lista(**{**p, "S": p["S"].bfloat16().float()}, n_iter=3, backend="eager")
    torch.testing.assert_close(narrow, wide, rtol=1e-4, atol=1e-5)


@EVERY_BACKEND
def test_not_finite_S_gives_what_the_formula_gives(backend):
    p = problem(lista)
    p["b"][:, 6] = 0  # a code that is zero before it meets S: 0 · inf is NaN
    p["S"][4, 6] = float("inf")
    narrow = lista(**{**p, "S": p["S"].bfloat16()}, n_iter=2, backend=backend)
    assert narrow.isnan().any()
    torch.testing.assert_close(narrow, lista(**p, n_iter=2, backend="eager"), equal_nan=True, rtol=0.1, atol=0.1)


@EVERY_BACKEND
@EVERY_OPERATION
def test_other_gradients_are_those_of_the_widened_S(op, backend):
    p = problem(op)
    gradients = []
    for S in (p["S"].bfloat16(), p["S"].bfloat16().float()):
        leaves = {k: t.clone().requires_grad_() for k, t in p.items() if k not in ("S", "D")}
        first(op(**{**p, **leaves, "S": S}, n_iter=3, backend=backend)).square().sum().backward()
        gradients.append([t.grad for t in leaves.values()])
    for narrow, wide in zip(*gradients, strict=True):
        torch.testing.assert_close(narrow, wide)


@EVERY_OPERATION
def test_compiles(op):
    p = problem(op)
    p["S"] = p["S"].bfloat16()
    compiled = torch.compile(lambda **p: first(op(**p, n_iter=2)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**p), first(op(**p, n_iter=2)))


@EVERY_OPERATION
def test_it_gets_no_gradient(op):
    p = problem(op)
    p["S"] = p["S"].bfloat16().requires_grad_()
    of = "b" if op is lista else "x"
    message = rf"{op.__name__}: S in bfloat16 with {of} in torch.float32 gets no gradient: detach it"
    with pytest.raises(ValueError, match=message):
        op(**p, n_iter=2)
    with torch.no_grad():
        assert first(op(**p, n_iter=2)).dtype == torch.float32


@EVERY_OPERATION
@pytest.mark.parametrize(
    ("wide", "narrow"),
    [(torch.float64, torch.bfloat16), (torch.float32, torch.float16), (torch.bfloat16, torch.float16)],
)
def test_other_pairs_of_dtypes_are_refused(op, wide, narrow):
    p = {k: t.to(wide) for k, t in problem(op).items()}
    p["S"] = p["S"].to(narrow)
    with pytest.raises(TypeError, match=rf"{op.__name__}: S must have the dtype of [bx], {wide}, got {narrow}"):
        op(**p, n_iter=2)
